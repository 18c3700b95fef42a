"""Every job that was submitted from this account, in one SQLite file.

Several commands write to it at once: each change is one short transaction.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from carl_bundle.backends.protocol import State
from carl_bundle.errors import ConfigurationError, UsageError

SCHEMA = """
CREATE TABLE IF NOT EXISTS jobs (
    id TEXT PRIMARY KEY, compute TEXT NOT NULL, ref TEXT, name TEXT NOT NULL,
    state TEXT NOT NULL, reason TEXT NOT NULL DEFAULT '', exit_code INTEGER,
    created REAL NOT NULL, updated REAL NOT NULL, started REAL, seconds REAL,
    time_limit REAL, script_sha256 TEXT NOT NULL, resumes TEXT, copy TEXT
);
CREATE TABLE IF NOT EXISTS events (
    job TEXT NOT NULL, time REAL NOT NULL, what TEXT NOT NULL, detail TEXT NOT NULL
);
"""
PREFIX = 4
"""A job may be named by the beginning of its id, of so many characters or more."""


@dataclass(frozen=True)
class JobRecord:
    """A row: what was submitted where, and what was last heard of it.

    Attributes:
        compute: The backend as the user named it.
        ref: What the backend calls the job; None before it has said so.
        script_sha256: The digest of the script that was sent.
        resumes: The id of the job that it goes on from.
        copy: The folder to which its host copies what it saves.
    """

    id: str
    compute: str
    ref: str | None
    name: str
    state: State
    reason: str
    exit_code: int | None
    created: float
    updated: float
    started: float | None
    seconds: float | None
    time_limit: float | None
    script_sha256: str
    resumes: str | None
    copy: str | None

    def document(self) -> dict[str, Any]:
        return {field.name: getattr(self, field.name) for field in fields(self)}


def state_folder() -> Path:
    """Where records and local jobs are kept: `$XDG_STATE_HOME/carl`."""
    home = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(home) / "carl"


class Records:
    """The records below a folder, by default that of this account."""

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder or state_folder()
        self.path = self.folder / "jobs.db"
        with self._reading_errors():
            self.folder.mkdir(0o700, parents=True, exist_ok=True)

    def keep_script(self, text: str) -> str:
        """Keep a script, for a job that goes on elsewhere; its digest."""
        digest = hashlib.sha256(text.encode()).hexdigest()
        path = self.folder / "scripts" / f"{digest}.py"
        with self._reading_errors():
            path.parent.mkdir(exist_ok=True)
            if not path.exists():
                draft = path.with_suffix(f".{os.getpid()}.draft")
                draft.write_bytes(text.encode())
                draft.replace(path)
        return digest

    def script(self, digest: str) -> str:
        """The script of a job."""
        with self._reading_errors():
            return (self.folder / "scripts" / f"{digest}.py").read_bytes().decode()

    def add(self, record: JobRecord) -> None:
        """A job that is about to be submitted."""
        row = record.document()
        names, marks = ", ".join(row), ", ".join("?" * len(row))
        with self._writing() as database:
            values = [str(v) if isinstance(v, State) else v for v in row.values()]
            database.execute(f"INSERT INTO jobs ({names}) VALUES ({marks})", values)
            _note(database, record.id, "created", {"compute": record.compute})

    def change(self, job: str, what: str, **facts: Any) -> JobRecord:
        """Set fields of a job, and note what happened; the new record."""
        facts["updated"] = time.time()
        assigned = ", ".join(f"{name} = ?" for name in facts)
        values = [str(v) if isinstance(v, State) else v for v in facts.values()]
        with self._writing() as database:
            database.execute(f"UPDATE jobs SET {assigned} WHERE id = ?", [*values, job])
            del facts["updated"]
            _note(database, job, what, facts)
        return self.find(job)

    def find(self, name: str) -> JobRecord:
        """The job with this id, or the one whose id begins so.

        Raises:
            UsageError: None does, or several.
        """
        pattern = f"{name}%" if name.isalnum() and len(name) >= PREFIX else ""
        found = self._rows("WHERE id = ? OR id LIKE ? ORDER BY created", name, pattern)
        if len(found) == 1 or any(one.id == name for one in found):
            return next((one for one in found if one.id == name), found[0])
        if not found:
            raise UsageError(f"there is no job {name}", remedy="carl list names them")
        remedy = f"choose one of {', '.join(one.id for one in found)}"
        raise UsageError(f"several jobs begin with {name}", remedy=remedy)

    def all(self) -> list[JobRecord]:
        """All jobs, the oldest first."""
        return self._rows("ORDER BY created")

    def events(self, job: str) -> list[tuple[float, str, dict[str, Any]]]:
        """What happened to a job: time, name and details, in order."""
        ask = "SELECT time, what, detail FROM events WHERE job = ? ORDER BY time, rowid"
        with self._reading() as database:
            rows = database.execute(ask, [job]).fetchall()
        return [(when, what, json.loads(detail)) for when, what, detail in rows]

    def _rows(self, clause: str, *values: Any) -> list[JobRecord]:
        names = [field.name for field in fields(JobRecord)]
        with self._reading() as database:
            rows = database.execute(
                f"SELECT {', '.join(names)} FROM jobs {clause}", values
            ).fetchall()
        found = (dict(zip(names, row, strict=True)) for row in rows)
        return [JobRecord(**{**one, "state": State(one["state"])}) for one in found]

    @contextlib.contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection]:
        with self._reading_errors():
            database = sqlite3.connect(self.path, timeout=60, isolation_level=None)
            with contextlib.closing(database):
                if database.execute("PRAGMA user_version").fetchone()[0] < 1:
                    database.execute("PRAGMA journal_mode = WAL")
                    database.executescript(f"BEGIN IMMEDIATE; {SCHEMA}")
                    database.execute("PRAGMA user_version = 1")
                    database.execute("COMMIT")
                yield database

    @contextlib.contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._reading() as database:
            database.execute("BEGIN IMMEDIATE")  # waits for others; no upgrade later
            yield database
            database.execute("COMMIT")

    @contextlib.contextmanager
    def _reading_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, sqlite3.Error) as error:
            remedy = "free space there, or set XDG_STATE_HOME to another folder"
            reason = f"the records in {self.path} cannot be used: {error}"
            raise ConfigurationError(reason, remedy=remedy) from error


def _note(
    database: sqlite3.Connection, job: str, what: str, detail: dict[str, Any]
) -> None:
    values = [job, time.time(), what, json.dumps(detail, default=str)]
    database.execute("INSERT INTO events VALUES (?, ?, ?, ?)", values)
