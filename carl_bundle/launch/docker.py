"""A Dockerfile, with the command that runs its image."""

from __future__ import annotations

import json
import shlex

from carl_bundle.launch.spec import GRACE, LaunchSpec
from carl_bundle.launch.text import rendered

CONFINED = ("seccomp", "apparmor", "systempaths")
"""What keeps the programs of a container from making user namespaces."""


def docker(spec: LaunchSpec, name: str) -> str:
    """The Dockerfile `name`. UsageError for several machines."""
    spec.on_one_machine("a Dockerfile")
    return rendered(
        "docker.jinja",
        spec,
        build=shlex.join(["docker", "build", "--tag", spec.label, "--file", name, "."]),
        run=_run(spec),
        copies=[json.dumps([path, f"./{path}"]) for path in (spec.script, *spec.data)],
        command=json.dumps(spec.command),
    )


def _run(spec: LaunchSpec) -> str:
    """The command that runs the image; secrets are passed on by their names."""
    words = ["docker", "run", "--rm", "--init", f"--stop-timeout={GRACE}"]
    words += [f"--gpus={spec.gpus}", "--ipc=host"] if spec.gpus else []
    words += [f"--env={secret}" for secret in spec.secrets]
    if spec.sandbox:
        words += [f"--security-opt={one}=unconfined" for one in CONFINED]
    path = shlex.quote(spec.run_dir)
    within = not spec.run_dir.startswith("/")
    inner, outer = (f"/work/{path}", f'"$PWD"/{path}') if within else (path, path)
    return " ".join([*words, f"--volume={outer}:{inner}", spec.label])
