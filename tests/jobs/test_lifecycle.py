"""From a submission to its end, with faults at every request."""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from carl_bundle.backends.hosts import Here, HostBackend
from carl_bundle.backends.protocol import Job, State
from carl_bundle.errors import ConfigurationError, RemoteError
from carl_bundle.jobs import lifecycle
from carl_bundle.jobs.lifecycle import ABANDONED, new_key, refresh, submit
from carl_bundle.jobs.records import JobRecord, Records
from jobs.test_records import RECORD


class Broken(Here):
    """This machine, over a line that fails before or after a request is done."""

    def __init__(self, draw: random.Random, share: float) -> None:
        self.draw, self.share = draw, share

    def run(
        self, arguments: Sequence[str], payload: BinaryIO | None, out: BinaryIO
    ) -> None:
        fault = self.draw.random() < self.share
        if fault and self.draw.random() < 0.5:
            raise RemoteError("the line broke before")
        super().run(arguments, payload, out)
        if fault:
            raise RemoteError("the line broke after")


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lifecycle, "WAIT", 0.01)


def connected(monkeypatch: pytest.MonkeyPatch, backend: HostBackend) -> HostBackend:
    monkeypatch.setattr(lifecycle.Compute, "connect", lambda self: backend)
    return backend


def begun(backend: Any, records: Records, code: int = 0) -> JobRecord:
    key = new_key()
    text = f"echo {key} >> ../../../ran; exit {code}"
    job = Job(key, {"job.sh": text.encode()}, ("sh", "job.sh"))
    record = replace(RECORD, id=key, created=time.time())
    return submit(records, backend, record, job)


def settled(records: Records, key: str) -> JobRecord:
    end = time.monotonic() + 60
    while not (found := refresh(records, records.find(key))).state.is_end:
        assert time.monotonic() < end, found
        time.sleep(0.02)
    return found


def test_every_submission_over_a_bad_line_is_one_job_in_its_true_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(20)
    backend = connected(
        monkeypatch, HostBackend(Broken(draw, 0.3), str(tmp_path / "jobs"))
    )
    records = Records(tmp_path / "state")
    codes = {}
    for number in range(20):
        code = (0, 7)[number % 2]
        try:
            record = begun(backend, records, code)
        except RemoteError:  # five faults in a row: `carl status` finds out
            record = records.all()[-1]
        codes[record.id] = code
    for key, code in codes.items():
        found = settled(records, key)
        assert found.exit_code == code
        assert found.state is (State.FAILED if code else State.SUCCEEDED)
    ran = (tmp_path / "ran").read_text().split()
    assert sorted(ran) == sorted(codes), "each one, and once"
    backend.transport = Here()
    assert sorted(backend.list()) == sorted(codes)


def test_a_client_that_dies_after_the_request_leaves_a_job_that_is_adopted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = connected(monkeypatch, HostBackend(Here(), str(tmp_path / "jobs")))
    records = Records(tmp_path / "state")

    def killed(job: Job) -> str:
        HostBackend.submit(backend, job)
        raise KeyboardInterrupt

    monkeypatch.setattr(backend, "submit", killed)
    with pytest.raises(KeyboardInterrupt):
        begun(backend, records)
    [record] = records.all()
    assert (record.state, record.ref) == (State.PENDING, None)
    assert settled(records, record.id).state is State.SUCCEEDED
    assert "adopted" in [what for _, what, _ in records.events(record.id)]


def test_a_client_that_dies_before_the_request_leaves_a_job_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connected(monkeypatch, HostBackend(Here(), str(tmp_path / "jobs")))
    records = Records(tmp_path / "state")
    records.add(replace(RECORD, created=time.time()))
    assert refresh(records, records.find(RECORD.id)).state is State.PENDING
    later = time.time() + ABANDONED
    monkeypatch.setattr(time, "time", lambda: later)
    found = refresh(records, records.find(RECORD.id))
    assert found.state is State.FAILED
    assert "never submitted" in found.reason


def test_what_is_refused_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = HostBackend(Here(), str(tmp_path / "jobs"))

    def refuse(job: Job) -> str:
        raise ConfigurationError("no key")

    monkeypatch.setattr(backend, "submit", refuse)
    records = Records(tmp_path / "state")
    with pytest.raises(ConfigurationError):
        begun(backend, records)
    [record] = records.all()
    assert (record.state, record.reason) == (State.FAILED, "no key")


class Silent:
    """A backend that must not be asked."""

    def __getattr__(self, name: str) -> Any:
        raise AssertionError(name)


def test_a_job_that_has_ended_is_asked_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle.Compute, "connect", lambda self: Silent())
    records = Records(tmp_path)
    records.add(replace(RECORD, state=State.STOPPED))
    assert refresh(records, records.find(RECORD.id)).state is State.STOPPED


def test_secrets_are_no_part_of_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = connected(monkeypatch, HostBackend(Here(), str(tmp_path / "jobs")))
    records, secrets = Records(tmp_path / "state"), {"TOKEN": "s3cr3t-value"}
    job = Job("key1key1key1", {}, ("true",), secrets=secrets)
    record = replace(RECORD, id=job.key, created=time.time())
    submit(records, backend, record, job)
    settled(records, job.key)
    files: Mapping[Path, bytes] = {
        path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()
    }
    assert [path for path, data in files.items() if b"s3cr3t-value" in data] == []
