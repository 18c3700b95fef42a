"""The command as a whole: help, versions, exit codes, what it imports."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from carl_bundle import __version__
from carl_bundle.cli import app, bundle
from carl_bundle.errors import ConfigurationError
from cli.conftest import Carl

HEAVY = ("torch", "transformers", "trl", "peft", "datasets", "black")


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_help_lists_every_command_once(carl: Carl, arguments: tuple[str, ...]) -> None:
    found = carl(*arguments)
    assert found.code == 0
    for command in app.COMMANDS:
        assert found.out.count(f"\n  {command.name} ") == 1
    assert "core:" in found.out
    assert "audit:" in found.out


@pytest.mark.parametrize("command", [command.name for command in app.COMMANDS])
def test_every_command_has_help(carl: Carl, command: str) -> None:
    found = carl(command, "--help")
    assert found.code == 0
    assert found.out.startswith(f"Usage: carl {command}")


def test_version(carl: Carl) -> None:
    assert carl("--version").out == f"carl {__version__}\n"


def test_the_version_is_that_of_the_package() -> None:
    import tomllib

    project = Path(__file__).parents[2] / "pyproject.toml"
    content = tomllib.loads(project.read_text(encoding="utf-8"))
    assert content["project"]["version"] == __version__


def test_an_unknown_command_suggests_the_nearest(carl: Carl) -> None:
    found = carl("bundel")
    assert (found.code, found.out) == (2, "")
    assert "there is no command 'bundel'\n  fix: did you mean bundle?" in found.err


def test_wrong_usage_is_two_lines(carl: Carl) -> None:
    found = carl("bundle", "--sed", "1")
    assert found.code == 2
    lines = found.err.splitlines()
    assert lines[0].startswith("error: No such option: --sed")
    assert lines[1] == "  fix: carl bundle --help shows how it is used"


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (ConfigurationError("no key", remedy="log in"), 4, "no key\n  fix: log in"),
        (RuntimeError("first\nsecond"), 70, "RuntimeError: first\n"),
        (KeyboardInterrupt(), 130, ""),
        (OSError(28, "No space left on device"), 4, "No space left"),
        (BrokenPipeError(), 141, ""),
    ],
)
def test_exit_codes(
    carl: Carl,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    message: str,
) -> None:
    def fail(path: object) -> None:
        raise error

    monkeypatch.delenv("CARL_TRACEBACK", raising=False)
    monkeypatch.setattr("carl_bundle.cli.bundle.write_stdout", fail)
    assert bundle.write_stdout is fail
    found = carl("bundle")
    assert found.code == code
    assert message in found.err
    assert "Traceback" not in found.err


def test_the_traceback_is_there_for_who_wants_it(
    carl: Carl, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(path: object) -> None:
        raise RuntimeError("deep")

    monkeypatch.setenv("CARL_TRACEBACK", "1")
    monkeypatch.setattr("carl_bundle.cli.bundle.write_stdout", fail)
    with pytest.raises(RuntimeError, match="deep"):
        carl("bundle")


def test_control_characters_are_written_out(carl: Carl) -> None:
    found = carl("verify", "a\x1b[31mb")
    assert "a\\x1b[31mb" in found.err
    assert "\x1b" not in found.err


@pytest.mark.parametrize("arguments", [["--help"], ["bundle"], ["bundle", "--help"]])
def test_nothing_heavy_is_imported(arguments: list[str]) -> None:
    program = (
        "import sys\nfrom carl_bundle.cli.app import main\n"
        f"assert main({arguments!r}) == 0\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stderr == "[]\n"


def test_importing_the_package_imports_nothing_of_weight() -> None:
    program = "import sys, carl_bundle; print('pydantic' in sys.modules)"
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert found.stdout == "False\n"


def test_the_public_names_are_there() -> None:
    import carl_bundle

    for name in carl_bundle.__all__:
        assert getattr(carl_bundle, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'gone'"):
        _ = carl_bundle.gone
