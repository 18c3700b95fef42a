"""`carl doctor`: a table, JSON, and an exit code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from cli.conftest import Carl


@pytest.fixture(autouse=True)
def _own_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


def test_this_machine_is_looked_at(carl: Carl) -> None:
    found = carl("doctor")
    assert found.code == 0, found.out
    rows = [line.split() for line in found.out.splitlines() if "fix:" not in line]
    assert {row[0] for row in rows} <= {"ok", "warning"}
    assert {"credentials", "records", "host", "sandbox"} <= {row[1] for row in rows}


def test_json_says_the_same(carl: Carl) -> None:
    said = json.loads(carl("doctor", "--json").out)
    assert (said["schema"], said["compute"]) == ("carl.doctor/1", "local")
    fields = {"name", "state", "found", "remedy"}
    assert all(one.keys() == fields for one in said["checks"])


def test_a_host_that_does_not_answer_is_missing(
    carl: Carl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stub = tmp_path / "ssh"
    stub.write_text("#!/bin/sh\necho port 22: Connection refused >&2; exit 255\n")
    stub.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    found = carl("doctor", "--compute", "ssh@gpu1")
    assert found.code == 4
    assert "gpu1: port 22: Connection refused" in found.out
    assert "missing  host " in found.out
    assert "fix: see that `ssh` reaches it" in found.out


def test_without_ssh_no_host_is_asked(
    carl: Carl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    found = carl("doctor", "--compute", "ssh@gpu1")
    assert found.code == 4
    assert "missing  ssh " in found.out
    assert "  host " not in found.out


def test_an_unknown_backend_is_wrong_usage(carl: Carl) -> None:
    assert carl("doctor", "--compute", "nowhere").code == 2
