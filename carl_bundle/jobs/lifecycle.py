"""From a job that is to be, to what became of it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from carl_bundle.backends.compute import Compute
from carl_bundle.backends.protocol import Backend, Job, JobStatus, State
from carl_bundle.errors import CarlError, RemoteError
from carl_bundle.jobs.records import JobRecord, Records

ATTEMPTS, WAIT = 5, 0.5  # seconds, doubled each time
ABANDONED = 120
"""Seconds after which no command is still submitting a job that nobody has."""
MISSED = 60
"""Seconds after which a job that a service does not find is lost: it may lag behind."""


def new_key() -> str:
    """An id for a job: letters and digits, and never twice."""
    return secrets.token_hex(6)


def submit(
    records: Records, backend: Backend, record: JobRecord, job: Job
) -> JobRecord:
    """Record a job, then have it started; its record.

    Raises:
        RemoteError: It is not known whether it was: `refresh` will find out.
        CarlError: It was not.
    """
    records.add(record)
    try:
        ref = persistent(lambda: backend.submit(job))
    except RemoteError as error:
        remedy = f"carl status {record.id} finds out whether it was started"
        records.change(record.id, "submission failed", reason=str(error))
        raise RemoteError(str(error), remedy=remedy) from error
    except CarlError as error:
        records.change(record.id, "refused", state=State.FAILED, reason=str(error))
        raise
    return records.change(record.id, "submitted", ref=ref, state=State.STARTING)


def persistent(action: Callable[[], Any]) -> Any:
    """Do what may be done again, until the other side does not fail."""
    for attempt in range(ATTEMPTS):
        try:
            return action()
        except RemoteError:
            if attempt + 1 == ATTEMPTS:
                raise
            time.sleep(WAIT * 2**attempt)


def refresh(records: Records, record: JobRecord) -> JobRecord:
    """Ask the backend how a job is, unless it has ended; its record."""
    if record.state.is_end:
        return record
    backend = Compute.parse(record.compute).connect()
    if record.ref is None:
        return adopt(records, backend, record)
    return noted(records, record, persistent(lambda: backend.status(record.ref or "")))


def adopt(records: Records, backend: Backend, record: JobRecord) -> JobRecord:
    """Find a job whose submission was cut off."""
    ref = persistent(lambda: backend.find(record.id))
    if ref is not None:
        return refresh(records, records.change(record.id, "adopted", ref=ref))
    if time.time() - record.created < ABANDONED:
        return record
    reason = "it was never submitted: the command was cut off before"
    return records.change(record.id, "not submitted", state=State.FAILED, reason=reason)


def noted(records: Records, record: JobRecord, said: JobStatus) -> JobRecord:
    """Write down what a backend says; its running time alone is no event."""
    if said.raw == "missing" and (record.state, record.reason) == (
        State.UNKNOWN,
        said.reason,
    ):
        late = time.time() - record.updated >= MISSED
        said = replace(said, state=State.LOST) if late else said
    facts: dict[str, Any] = {
        "state": said.state,
        "reason": said.reason,
        "exit_code": said.exit_code,
        "started": said.started,
        "seconds": said.seconds,
    }
    if all(getattr(record, name) == value for name, value in facts.items()):
        return record
    if record.state is said.state:
        return replace(record, **facts)
    return records.change(record.id, str(said.state), **facts)
