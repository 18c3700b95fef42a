"""Running `carl` in this process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from backends.hf_fixtures import hub, slept  # noqa: F401

from carl_bundle.cli.app import main


@dataclass(frozen=True)
class Result:
    """What one command did."""

    code: int
    out: str
    err: str


Carl = Callable[..., Result]


@pytest.fixture
def carl(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Carl:
    """Run `carl` with the given arguments in an empty directory."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> Result:
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run
