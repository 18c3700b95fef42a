"""The kinds of launch files, and from a kind to the text of its file."""

from __future__ import annotations

from collections.abc import Callable

from carl_bundle.errors import UsageError
from carl_bundle.jobs.submission import check_no_secret, secrets_of
from carl_bundle.launch.docker import docker
from carl_bundle.launch.k8s import k8s
from carl_bundle.launch.sbatch import sbatch
from carl_bundle.launch.sky import sky
from carl_bundle.launch.spec import LaunchSpec

KINDS: dict[str, tuple[str, Callable[[LaunchSpec, str], str]]] = {
    "sbatch": (".sbatch", sbatch),
    "sky": (".sky.yaml", sky),
    "k8s": (".k8s.yaml", k8s),
    "docker": (".Dockerfile", docker),
}
"""By kind: how its file is called after the script, and what writes it."""


def launch_file(kind: str, spec: LaunchSpec) -> tuple[str, str]:
    """The name and the text of a launch file.

    Raises:
        UsageError: There is no such kind, it cannot launch this, or the text holds a
            secret.
    """
    if kind not in KINDS:
        known = ", ".join(("accelerate", *KINDS))
        raise UsageError(f"no launch file is called {kind!r}", remedy=f"one of {known}")
    suffix, write = KINDS[kind]
    name = spec.script.removesuffix(".py") + suffix
    text = write(spec, name)
    check_no_secret(text, secrets_of(()))
    return name, text
