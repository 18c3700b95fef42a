"""What is looked at before jobs are sent: here, on a host, and on one that is not."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from backends.sshd import Server
from carl_bundle.backends import doctor
from carl_bundle.backends.hosts import HostBackend, Ssh
from carl_bundle.errors import ConfigurationError, RemoteError

SAID: dict[str, Any] = {
    "name": "gpu1",
    "python": "3.8.10",
    "folder": "/home/me/.carl/jobs",
    "writable": True,
    "free": 100 << 30,
    "tools": {
        "uv": "/usr/bin/uv",
        **{name: f"/usr/bin/{name}" for name in doctor.SLURM},
    },
    "gpus": ["GPU 0: NVIDIA H100"],
    "sandbox": None,
    "queue": "Slurmctld(primary) at login1 is UP",
}


def states(checks: Any) -> dict[str, str]:
    return {one.name: one.state for one in checks}


def asked(ahead: float = 0.0, **other: Any) -> dict[str, str]:
    """The states of a host that says so."""
    return states(
        doctor.host(lambda: {**SAID, "time": time.time() + ahead, **other}, True, True)
    )


def test_a_host_says_what_it_has(host: HostBackend) -> None:
    found = {one.name: one for one in host.doctor()}
    assert found["host"].state == found["folder"].state == "ok"
    assert found["python3"].found.startswith("3.")
    assert found["clock"].state == "ok"
    assert found["folder"].found == host.root
    assert not Path(host.root).exists(), "to look makes nothing"
    assert ("uv" in found) == (host.name == "ssh")


def test_a_host_with_everything_is_well() -> None:
    assert set(asked().values()) == {"ok"}


@pytest.mark.parametrize(
    ("name", "given", "state"),
    [
        ("uv", {"tools": {**SAID["tools"], "uv": None}}, "missing"),
        ("sbatch", {"tools": {**SAID["tools"], "sbatch": None}}, "missing"),
        ("python3", {"python": "3.7.16"}, "missing"),
        ("queue", {"queue": "scontrol: fatal: no configuration"}, "missing"),
        ("folder", {"writable": False}, "missing"),
        ("disk", {"free": 1 << 30}, "warning"),
        ("clock", {"ahead": 3600.0}, "warning"),
        ("clock", {"ahead": -3600.0}, "warning"),
        ("sandbox", {"sandbox": "No permission to create a namespace"}, "warning"),
    ],
)
def test_what_is_not_well_is_told_alone(
    name: str, given: dict[str, Any], state: str
) -> None:
    found = asked(**given)
    assert found.pop(name) == state
    assert set(found.values()) == {"ok"}


def test_a_host_whose_key_is_not_known_is_told_so(sshd: Server) -> None:
    options = [one.replace(str(sshd.folder / "known"), "none") for one in sshd.options]
    [found] = HostBackend(Ssh("127.0.0.1", options), "~/jobs").doctor()
    assert (found.name, found.state) == ("host", "missing")
    assert "Host key verification failed" in found.found
    assert "compare the key" in found.remedy


@pytest.mark.parametrize(
    ("said", "remedy"),
    [
        ("bash: line 1: python3: command not found", "Python 3.8"),
        ("SyntaxError: invalid syntax", "too old"),
        ("ssh: Could not resolve hostname x: Name or service not known", "reaches it"),
    ],
)
def test_a_host_that_cannot_be_asked_has_a_remedy(said: str, remedy: str) -> None:
    def ask() -> dict[str, Any]:
        raise RemoteError(said, remedy="try again: nothing is done twice")

    [found] = doctor.host(ask, False, True)
    assert found.state == "missing"
    assert remedy in found.remedy


def test_other_errors_keep_their_remedy() -> None:
    error = ConfigurationError("there is no ssh", remedy="install OpenSSH")
    assert doctor.unreachable(error).remedy == "install OpenSSH"


def test_credentials_are_named_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in ("HF_TOKEN", "WANDB_API_KEY", "RUNPOD_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    assert states(doctor.here(tmp_path, "ssh"))["credentials"] == "ok"
    for backend in ("hf", "runpod"):
        assert states(doctor.here(tmp_path, backend))["credentials"] == "missing"
    monkeypatch.setenv("RUNPOD_API_KEY", "rpa_value")
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_value")
    for backend in ("hf", "runpod"):
        checks = doctor.here(tmp_path, backend)
        assert set(states(checks).values()) <= {"ok", "warning"}
        assert "value" not in "".join(one.found + one.remedy for one in checks)
        assert doctor.KEYS[backend] in checks[0].found


@pytest.mark.parametrize(
    ("path", "kind"),
    [("/home/me/.local", "nfs4"), ("/home/my disk/x", "xfs"), ("/var", "ext4")],
)
def test_a_path_lies_on_the_nearest_mount(tmp_path: Path, path: str, kind: str) -> None:
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        "40 22 0:45 / /home rw shared:9 - nfs4 server:/home rw\n"
        "41 22 8:2 / /home/my\\040disk rw - xfs /dev/sdb rw\n"
    )
    assert doctor.file_system(Path(path), mounts) == kind
    assert doctor.file_system(Path(path), tmp_path / "none") == ""


def test_records_on_a_network_are_warned_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(doctor, "file_system", lambda _: "nfs4")
    found = {one.name: one for one in doctor.records(tmp_path / "not yet" / "there")}
    assert found["on a disk"].state == "warning"
    assert "XDG_STATE_HOME" in found["on a disk"].remedy
    assert found["records"].state == "ok"
