"""What a command writes: data on stdout, everything else on stderr."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from carl_bundle.errors import CarlError, ConfigurationError, SpecError, UsageError

NO_SPACE = ("ENOSPC", "EDQUOT", "EFBIG")


class ClosedPipeError(Exception):
    """Whoever read our output has gone: nothing more to say."""


def note(text: str) -> None:
    """Tell the user something that is no data."""
    print(f"note: {_visible(text)}", file=sys.stderr)


def show_error(error: CarlError) -> None:
    """Print an error as people read it: what is wrong, then what to do."""
    if isinstance(error, SpecError):
        for problem in error.problems:
            print(f"error: {_visible(str(problem))}", file=sys.stderr)
            if problem.remedy:
                print(f"  fix: {_visible(problem.remedy)}", file=sys.stderr)
        return
    print(f"error: {_visible(str(error))}", file=sys.stderr)
    if error.remedy:
        print(f"  fix: {_visible(error.remedy)}", file=sys.stderr)


def write_json(schema: str, **fields: Any) -> None:
    """Print one JSON object with the name of its schema, such as `carl.verify/1`."""
    text = json.dumps({"schema": schema, **fields}, indent=2, ensure_ascii=True)
    write_stdout(f"{text}\n")


def write_stdout(text: str) -> None:
    """Print text as UTF-8 bytes with LF line ends, on every platform.

    Raises:
        ClosedPipeError: The reader has closed the pipe.
        ConfigurationError: It cannot be written, for example to a full disk.
    """
    write_bytes(text.encode("utf-8", "backslashreplace"))


def write_bytes(data: bytes) -> None:
    """Print bytes as they are; the errors of `write_stdout`."""
    try:
        sys.stdout.flush()
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except BrokenPipeError as error:
        _forget_stdout()
        raise ClosedPipeError from error
    except OSError as error:
        _forget_stdout()
        raise _write_error("the standard output", error) from error


def write_file(path: Path, text: str) -> None:
    """Replace a file in one step: afterwards it is the old one or the new, never half.

    Raises:
        UsageError: The place cannot be written.
        ConfigurationError: The disk is full.
    """
    data = text.encode("utf-8")
    target = Path(os.path.realpath(path))
    if target.exists() and not target.is_file():
        if target.is_dir():
            raise UsageError(f"{path} is a directory", remedy="name a file")
        _write_device(target, data)
        return
    draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with draft.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if target.exists():
            draft.chmod(target.stat().st_mode & 0o777)
        draft.replace(target)
    except OSError as error:
        raise _write_error(str(path), error) from error
    finally:
        draft.unlink(missing_ok=True)


def _write_device(target: Path, data: bytes) -> None:
    try:
        with target.open("wb", buffering=0) as file:
            file.write(data)
    except OSError as error:
        raise _write_error(str(target), error) from error


def as_write_error(what: str, error: OSError) -> CarlError | None:
    """The error to show when a disk is full; None for another reason."""
    import errno

    if errno.errorcode.get(error.errno or 0) not in NO_SPACE:
        return None
    return ConfigurationError(
        f"cannot write {what}: {error.strerror}",
        remedy="free some space and run it again",
    )


def _write_error(what: str, error: OSError) -> CarlError:
    return as_write_error(what, error) or UsageError(
        f"cannot write {what}: {error.strerror or error}",
        remedy="check that the directory exists and that you may write there",
    )


def _forget_stdout() -> None:
    """Keep Python from flushing a broken stdout once more when it exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _visible(text: str) -> str:
    """Text for a terminal: control characters of a spec or a path are written out."""
    return "".join(
        c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode()
        for c in text
    )
