"""The records of jobs, written by several commands at once."""

from __future__ import annotations

import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from carl_bundle.backends.protocol import State
from carl_bundle.errors import ConfigurationError, UsageError
from carl_bundle.jobs.records import JobRecord, Records, state_folder

RECORD = JobRecord(
    id="abcdef012345",
    compute="local",
    ref=None,
    name="x",
    state=State.PENDING,
    reason="",
    exit_code=None,
    created=1.0,
    updated=1.0,
    started=None,
    seconds=None,
    time_limit=None,
    script_sha256="0" * 64,
    resumes=None,
    copy=None,
)


def test_a_record_is_what_was_last_written(tmp_path: Path) -> None:
    records = Records(tmp_path)
    records.add(RECORD)
    changed = records.change(RECORD.id, "submitted", ref="r", state=State.RUNNING)
    assert changed.updated > time.time() - 60
    assert changed == replace(
        RECORD, ref="r", state=State.RUNNING, updated=changed.updated
    )
    assert Records(tmp_path).all() == [changed]
    happened = [(what, detail) for _, what, detail in records.events(RECORD.id)]
    assert happened == [
        ("created", {"compute": "local"}),
        ("submitted", {"ref": "r", "state": "running"}),
    ]


def test_a_job_is_found_by_how_its_id_begins(tmp_path: Path) -> None:
    records = Records(tmp_path)
    for key in ("abcd11111111", "abcd22222222"):
        records.add(replace(RECORD, id=key))
    assert records.find("abcd1").id == "abcd11111111"
    assert records.find("abcd22222222").id == "abcd22222222"
    with pytest.raises(UsageError, match="several jobs begin with abcd") as several:
        records.find("abcd")
    assert "abcd11111111, abcd22222222" in several.value.remedy
    for name in ("abc", "dddd", "%bcd", "", "____"):
        with pytest.raises(UsageError, match="there is no job"):
            records.find(name)


def test_what_cannot_be_read_says_so(tmp_path: Path) -> None:
    (tmp_path / "jobs.db").write_text("no database at all, but long enough to be one")
    with pytest.raises(ConfigurationError, match="cannot be used") as broken:
        Records(tmp_path).all()
    assert "XDG_STATE_HOME" in broken.value.remedy
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigurationError, match="cannot be used"):
        Records(tmp_path / "file" / "below")


def test_records_are_kept_where_the_desktop_keeps_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert state_folder() == tmp_path / "carl"
    monkeypatch.delenv("XDG_STATE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert state_folder() == tmp_path / ".local" / "state" / "carl"


WRITER = """
import sys
from dataclasses import replace
from pathlib import Path
from jobs.test_records import RECORD
from carl_bundle.backends.protocol import State
from carl_bundle.jobs.records import Records

records, name = Records(Path(sys.argv[1])), sys.argv[2]
for i in range(5):
    key = f"{int(name):06d}{i:06d}"
    records.add(replace(RECORD, id=key))
    records.change(key, "submitted", ref=key)
    records.change(key, "ended", state=State.SUCCEEDED, exit_code=0)
"""


def test_twenty_processes_write_at_once_and_lose_nothing(tmp_path: Path) -> None:
    """The first of them make the file."""
    tests = str(Path(__file__).parent.parent)
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path / "state"), str(i)],
            env={"PYTHONPATH": f"{tests}:{Path(tests).parent}"},
            stderr=subprocess.PIPE,
        )
        for i in range(20)
    ]
    for writer in writers:
        _, wrong = writer.communicate(timeout=120)
        assert writer.returncode == 0, wrong.decode()
    records = Records(tmp_path / "state")
    found = records.all()
    assert len(found) == 100
    assert {(one.state, one.exit_code) for one in found} == {(State.SUCCEEDED, 0)}
    assert all(len(records.events(one.id)) == 3 for one in found)
