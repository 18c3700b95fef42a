"""`--compute [backend:]flavor[@target]`: from what a user writes to a backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from carl_bundle.backends.protocol import Backend
from carl_bundle.errors import UsageError

REMOTE_ROOT = "~/.carl/jobs"


@dataclass(frozen=True)
class Compute:
    """A place to run at: the backend, what of it, and where.

    Attributes:
        flavor: The kind of machine, where a backend has several.
        target: A host or a cluster, where a backend has several.
        sbatch: Further options of Slurm's `sbatch`.
    """

    backend: str
    flavor: str = ""
    target: str = ""
    sbatch: tuple[str, ...] = ()

    @classmethod
    def parse(cls, text: str, sbatch: Sequence[str] = ()) -> Compute:
        """Read what stands behind `--compute`.

        Raises:
            UsageError: No backend is called so.
        """
        start, _, target = text.partition("@")
        backend, _, flavor = start.partition(":")
        if backend not in BACKENDS and not flavor and _is_hf_flavor(backend):
            backend, flavor = "hf", backend
        if backend not in BACKENDS:
            known = ", ".join(BACKENDS)
            remedy = f"write one of {known}, such as local or ssh@HOST"
            raise UsageError(f"there is no backend {text!r}", remedy=remedy)
        if sbatch and backend != "slurm":
            raise UsageError("--sbatch is for slurm", remedy="leave it out")
        return cls(backend, flavor, target, tuple(sbatch))

    def connect(self) -> Backend:
        """The backend. UsageError if it needs what is not named."""
        return BACKENDS[self.backend](self)


def _local(compute: Compute) -> Backend:
    from carl_bundle.backends.hosts import local
    from carl_bundle.jobs.records import state_folder

    if compute.flavor or compute.target:
        remedy = "write local"
        raise UsageError("local has no flavors and no targets", remedy=remedy)
    return local(state_folder() / "jobs")


def _ssh(compute: Compute) -> Backend:
    from carl_bundle.backends.hosts import HostBackend, Ssh

    if not compute.target or compute.target.startswith("-") or compute.flavor:
        remedy = "write ssh@HOST, with a host that `ssh HOST` reaches"
        raise UsageError("ssh needs a host", remedy=remedy)
    return HostBackend(Ssh(compute.target), REMOTE_ROOT)


def _slurm(compute: Compute) -> Backend:
    from carl_bundle.backends.hosts import Here, HostBackend, Ssh

    partition = [f"--partition={compute.flavor}"] if compute.flavor else []
    options = (*partition, *compute.sbatch)
    if compute.target.startswith("-"):
        raise UsageError(f"{compute.target} is no host", remedy="write slurm@HOST")
    transport = Ssh(compute.target) if compute.target else Here()
    return HostBackend(transport, REMOTE_ROOT, options)


def _hf(compute: Compute) -> Backend:
    from carl_bundle.backends.hf.backend import HfBackend

    if not compute.flavor:
        remedy = "write hf:FLAVOR, such as hf:l4x1 or hf:cpu-basic"
        raise UsageError("hf needs a flavor", remedy=remedy)
    return HfBackend(compute.flavor, compute.target)


def _is_hf_flavor(name: str) -> bool:
    from huggingface_hub import JobHardware

    return name in {flavor.value for flavor in JobHardware}


BACKENDS: dict[str, Callable[[Compute], Backend]] = {
    "local": _local,
    "ssh": _ssh,
    "slurm": _slurm,
    "hf": _hf,
}
