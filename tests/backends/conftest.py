"""Backends that the tests run jobs on: this machine, and this machine over SSH."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backends.hf_fixtures import hub, slept  # noqa: F401
from backends.sshd import SSHD, Server, serving
from carl_bundle.backends.hosts import Here, HostBackend, Ssh
from carl_bundle.backends.protocol import Backend, JobStatus, State


@pytest.fixture(scope="session")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    if SSHD is None:
        pytest.skip("there is no sshd: install openssh-server")
    with serving(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture(params=["local", "ssh"])
def host(request: pytest.FixtureRequest, tmp_path: Path) -> HostBackend:
    """A backend with no jobs yet."""
    root = str(tmp_path / "jobs")
    if request.param == "local":
        return HostBackend(Here(), root)
    server: Server = request.getfixturevalue("sshd")
    return HostBackend(Ssh("127.0.0.1", server.options), root)


def until(
    backend: Backend, ref: str, done: Callable[[JobStatus], bool], wait: float = 60
) -> JobStatus:
    """Ask until `done`; the last answer."""
    end = time.monotonic() + wait
    while not done(said := backend.status(ref)):
        assert time.monotonic() < end, said
        time.sleep(0.05)
    return said


def ended(backend: Backend, ref: str) -> JobStatus:
    return until(backend, ref, lambda said: said.state.is_end)


def running(backend: Backend, ref: str) -> JobStatus:
    return until(backend, ref, lambda said: said.state is State.RUNNING)
