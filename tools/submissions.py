"""Submissions that are disturbed at any request: each job must run once, and be known.

python -m tools.submissions [--count 200] [--seed N]

Every client is a process of its own. At its first requests, as many as the seed draws,
the line breaks before the host hears, or after, or in the middle of what is sent; or
the client is killed there. A client that was killed before the host had heard is
started once more, as a user would. In the end every job must have run exactly once, in
the state that its record tells.
"""

from __future__ import annotations

import argparse
import io
import os
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from carl_bundle.backends.compute import Compute
from carl_bundle.backends.hosts import Here, HostBackend
from carl_bundle.backends.protocol import Job, State
from carl_bundle.errors import RemoteError
from carl_bundle.jobs import lifecycle
from carl_bundle.jobs.records import JobRecord, Records

FAULTS = ("breaks before", "breaks after", "is cut", "killed before", "killed after")
CODES = (0, 7)


class Disturbed(Here):
    """This machine, over a line with a fault at the first `times` requests.

    Whoever is to be killed is killed at the last of them; before, the line breaks.
    """

    def __init__(self, fault: str, times: int) -> None:
        self.fault, self.left = fault, times

    def run(
        self, arguments: Sequence[str], payload: BinaryIO | None, out: BinaryIO
    ) -> None:
        faulty, killed = self.left > 0, self.left == 1 and "killed" in self.fault
        self.left -= 1
        if faulty and "before" in self.fault:
            self.broken(killed)
        if faulty and self.fault == "is cut" and payload:
            payload = io.BytesIO(payload.read()[:-2000])
        super().run(arguments, payload, out)
        if faulty:
            self.broken(killed)

    def broken(self, killed: bool) -> None:
        if killed:
            os._exit(9)
        raise RemoteError("the line broke")


def forked(action: Any) -> None:
    """Do something in a process of its own, and wait for its end."""
    if pid := os.fork():
        os.waitpid(pid, 0)
        return
    try:
        action()
    finally:
        os._exit(0)


def record_of(key: str) -> JobRecord:
    empty = dict.fromkeys(("ref", "exit_code", "started", "seconds", "time_limit"))
    empty |= {"resumes": None, "copy": None}
    now = time.time()
    return JobRecord(
        id=key,
        compute="local",
        name="x",
        state=State.PENDING,
        reason="",
        created=now,
        updated=now,
        script_sha256="",
        **empty,
    )


def client(folder: Path, key: str, code: int, line: Here) -> None:
    """What `carl train` does, over a line."""
    text = f"echo {key} >> {folder}/ran; exit {code}"
    job = Job(key, {"job.sh": text.encode()}, ("sh", "job.sh"))
    backend = HostBackend(line, str(folder / "jobs"))
    lifecycle.submit(Records(folder / "state"), backend, record_of(key), job)


def settled(records: Records, record: JobRecord) -> JobRecord:
    """Ask as `carl status` does, until the job has ended or was never submitted."""
    for _ in range(600):
        record = lifecycle.refresh(records, record)
        if record.state.is_end:
            break
        time.sleep(0.05)
    return record


def trial(folder: Path, count: int, draw: random.Random) -> int:
    """Submit `count` jobs; how many are not as they should be."""
    records, again, wrong = Records(folder / "state"), 0, 0
    backend = HostBackend(Here(), str(folder / "jobs"))
    Compute.connect = lambda self: backend  # type: ignore[method-assign]
    lifecycle.WAIT, lifecycle.ABANDONED = 0.01, 0
    codes: dict[str, int] = {}
    faults: Counter[str] = Counter()
    for _ in range(count):
        key, fault = lifecycle.new_key(), draw.choice(FAULTS)
        code, line = draw.choice(CODES), Disturbed(fault, draw.randint(1, 3))
        forked(partial(client, folder, key, code, line))
        faults[fault] += 1
        if "never submitted" in settled(records, records.find(key)).reason:
            again, key = again + 1, lifecycle.new_key()
            forked(partial(client, folder, key, code, Here()))
        codes[key] = code
    ran = Counter((folder / "ran").read_text().split())
    for key, code in codes.items():
        found = settled(records, records.find(key))
        state = State.FAILED if code else State.SUCCEEDED
        if (ran[key], found.state, found.exit_code) != (1, state, code):
            wrong += 1
            print(f"{key}: ran {ran[key]} times, {replace(found, script_sha256='')}")
    orphans = set(backend.list()) ^ set(codes)
    print("| fault | submissions |\n| --- | ---: |")
    for fault, number in sorted(faults.items()):
        print(f"| the line or the client {fault} | {number} |")
    print(f"{len(codes)} jobs, {again} of them by a second client, {wrong} wrong,")
    print(f"{sum(ran.values()) - len(ran)} ran twice, {len(orphans)} orphans")
    return wrong + len(orphans) + (set(ran) != set(codes))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument(
        "--seed", type=int, default=random.SystemRandom().getrandbits(32)
    )
    args = parser.parse_args()
    print(f"seed {args.seed}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        return min(1, trial(Path(folder), args.count, random.Random(args.seed)))


if __name__ == "__main__":
    sys.exit(main())
