"""One bad model must not end the run, nor leave the reason untold."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tools.matrix import isolated as module
from tools.matrix.isolated import isolated, reason


def raising() -> int:
    raise ValueError("two\nlines")


def refusing() -> int:
    print("error: no such rows", "  fix: name others", sep="\n")
    return 2


def dying() -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


def hoarding() -> int:
    return len(bytearray(module.MEMORY))


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (lambda: 0, ("runs", "")),
        (raising, ("fails", "ValueError: two lines")),
        (refusing, ("refused", "no such rows (fix: name others)")),
        (dying, ("fails", f"ended by status {signal.SIGKILL.value}")),
        (hoarding, ("out of memory", "more than 12 GiB")),
    ],
)
def test_tells_how_an_action_ended(
    tmp_path: Path, action: object, expected: tuple[str, str]
) -> None:
    word, why = isolated(action, tmp_path / "log", 60)  # type: ignore[arg-type]
    assert (word, why) == expected


def test_what_takes_too_long_is_killed(tmp_path: Path) -> None:
    def sleeping() -> int:
        (tmp_path / "pid").write_text(str(os.getpid()))
        time.sleep(600)
        return 0

    word, _ = isolated(sleeping, tmp_path / "log", 0.5)
    assert word == "out of time"
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_the_reason_is_that_of_the_last_traceback() -> None:
    inner = ["Traceback (most recent call last):", '  File "x"', "KeyError: 1", ""]
    outer = ["During handling:", "Traceback (most recent call last):", "  File", "E: 2"]
    assert reason([*inner, *outer]) == "E: 2"
    assert reason(["nothing"]) == ""
