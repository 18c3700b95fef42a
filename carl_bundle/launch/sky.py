"""A task of SkyPilot, for any cloud that it knows."""

from __future__ import annotations

import shlex
from typing import Any

from carl_bundle.backends.protocol import RESUMABLE
from carl_bundle.errors import UsageError
from carl_bundle.launch.spec import LaunchSpec
from carl_bundle.launch.text import as_yaml

FOLDER = "~/carl"
SETUP = """\
export PATH="$HOME/.local/bin:$PATH"
command -v uv || curl -LsSf https://astral.sh/uv/install.sh | sh
cd {folder}
uv sync --script {script}
"""
RUN = """\
export PATH="$HOME/.local/bin:$PATH"
cd {folder}
exec {command}
"""
SANDBOX = "sudo apt-get install --yes bubblewrap\n"


def sky(spec: LaunchSpec, name: str) -> str:
    """The task in the file `name`.

    Raises:
        UsageError: It needs several machines, or its kind of GPU is not named.
    """
    spec.on_one_machine("a task of SkyPilot")
    if spec.gpus and not spec.gpu:
        remedy = f"name it, as --gpus H100:{spec.gpus}, or take --gpus 0"
        raise UsageError("SkyPilot needs the kind of GPU", remedy=remedy)
    secrets = "".join(f" --secret {one}" for one in spec.secrets)
    head = (
        f"sky jobs launch{secrets} {name}\n"
        "Without a bucket, mounted at the run directory, a machine that is lost takes\n"
        f"its checkpoints along: `sky storage`, and file_mounts: {_run_dir(spec)}"
    )
    words = {"folder": FOLDER, "script": shlex.quote(spec.script)}
    words["command"] = shlex.join(spec.command)
    gpus = {"accelerators": f"{spec.gpu}:{spec.gpus}"} if spec.gpus else {}
    again = {"job_recovery": {"recover_on_exit_codes": [RESUMABLE]}}
    task: dict[str, Any] = {
        "name": spec.label,
        "resources": {**gpus, **again},
        "file_mounts": {
            f"{FOLDER}/{path}": f"./{path}" for path in (spec.script, *spec.data)
        },
        "secrets": dict.fromkeys(spec.secrets),
        "setup": SANDBOX * spec.sandbox + SETUP.format(**words),
        "run": RUN.format(**words),
    }
    return as_yaml(head, {key: one for key, one in task.items() if one})


def _run_dir(spec: LaunchSpec) -> str:
    absolute = spec.run_dir.startswith("/")
    return spec.run_dir if absolute else f"{FOLDER}/{spec.run_dir}"
