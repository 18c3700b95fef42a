"""The first program of a job on Hugging Face; runner.py and job.json lie beside it.

A bucket is no place for locks, renames and growing files, so the script runs on the
disk of its container. What it makes is copied to the bucket, again and again:

    job.json        what to run; secrets by name, their values are in the environment
    work/           the script and its data
    made/           what it made, as MANIFEST.json lists it
    MANIFEST.json   the digest of each file; written after the files, so that a copy
                    that is cut off leaves the one before it whole
    exit-N.json     code and reason of the N-th attempt; the last file of it
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import shutil
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import runner  # type: ignore[import-not-found]

END = b"===== carl: the end =====\n"  # the last line, to whoever reads the log
PAUSE = 60.0  # seconds between two copies


class Guarded(runner.Watch):  # type: ignore[misc]
    """A run whose log is the standard output of its container."""

    last = b"\n"

    def log(self, text: bytes) -> None:
        self.last = text[-1:] or self.last
        with contextlib.suppress(OSError):
            sys.stdout.buffer.write(text)
            sys.stdout.buffer.flush()


class Kept:
    """The copy, below `home`, of what lies in a folder of `work`."""

    def __init__(self, work: Path, output: str, home: Path) -> None:
        self.work, self.output, self.home = work, output, home
        self.known: dict[str, tuple[Any, str]] = {}

    def restore(self) -> None:
        """Put back what an attempt before this one has made."""
        for name in runner.read_json(self.home / "MANIFEST.json") or ():
            copied(self.home / "made" / name, self.work / name)

    def save(self) -> None:
        """Copy what is new; only then delete what is gone."""
        found: dict[str, tuple[Any, str]] = {}
        for path in sorted((self.work / self.output).rglob("*")):
            if path.is_symlink() or not path.is_file():
                continue
            name = path.relative_to(self.work).as_posix()
            with contextlib.suppress(FileNotFoundError):  # the script took it away
                seen = path.stat()
                mark = (seen.st_mtime_ns, seen.st_size)
                known, digest = self.known.get(name, (None, ""))
                if mark != known:
                    digest = copied(path, self.home / "made" / name)
                found[name] = (mark, digest)
        manifest = self.home / "MANIFEST.json"
        if found != self.known or not manifest.exists():
            digests = {name: digest for name, (_, digest) in found.items()}
            manifest.write_text(json.dumps(digests))
        for name in self.known.keys() - found.keys():
            (self.home / "made" / name).unlink(missing_ok=True)
        self.known = found

    def keep(self, over: threading.Event) -> None:
        """Save until it is over."""
        while not over.wait(PAUSE):
            self.attempt()

    def attempt(self) -> None:
        """Save, or say why not: the run matters more."""
        try:
            self.save()
        except OSError as error:
            print(f"note: what it made is not saved: {error}", flush=True)


def copied(source: Path, target: Path) -> str:
    """Copy a file from its first byte to its last; the digest of what was copied."""
    target.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with source.open("rb") as read, target.open("wb") as written:
        while chunk := read.read(1 << 20):
            digest.update(chunk)
            written.write(chunk)
    return digest.hexdigest()


def main(home: Path, attempt: str) -> int:
    """Run the job that lies in `home`; the exit code of its script."""
    job = runner.read_json(home / "job.json")
    folder = Path(tempfile.mkdtemp(prefix="carl-"))
    shutil.copytree(home / "work", folder / "work")
    kept = Kept(folder / "work", job["output"], home)
    kept.restore()
    named = [name for name in job["secrets"] if name in os.environ]
    values = {name: os.environ.pop(name) for name in named}
    runner.put(folder, "secrets.json", io.BytesIO(json.dumps(values).encode()))
    runner.prctl(runner.ADOPT_ORPHANS, 1)
    over = threading.Event()
    keeper = threading.Thread(target=kept.keep, args=(over,), daemon=True)
    keeper.start()
    run = Guarded(folder, job)
    ended = run.run()
    over.set()
    keeper.join()
    kept.attempt()
    (home / f"exit-{attempt}.json").write_text(json.dumps(ended))
    run.log((b"" if run.last == b"\n" else b"\n") + END)
    shutil.rmtree(folder, ignore_errors=True)
    return int(ended["code"])


if __name__ == "__main__":
    sys.exit(main(Path(__file__).parent, sys.argv[1]))
