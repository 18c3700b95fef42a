"""The entry point: finds the command, imports only that one, reports its errors."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import Any, NamedTuple

from carl_bundle import __version__


class Command(NamedTuple):
    """A command: the function `name` in the module `carl_bundle.cli.<name>`.

    Both end with `_` where the name is a word of Python's, or a type's.
    """

    name: str
    group: str
    summary: str


COMMANDS = (
    Command("bundle", "core", "Write the training script of a spec."),
    Command("pack", "core", "All it needs on a machine without network, in a folder."),
    Command("init", "core", "Write a commented carl.yaml to start from."),
    Command("import", "core", "Make one from a file of TRL, axolotl, LLaMA-Factory."),
    Command("inspect", "core", "What a model is, and what a spec would take."),
    Command("schema", "core", "Print the JSON Schema of carl.yaml."),
    Command("train", "jobs", "Run that script: here, or on another machine."),
    Command("status", "jobs", "How a job is, asked of where it runs."),
    Command("logs", "jobs", "What a job printed; -f goes on until it ends."),
    Command("stop", "jobs", "End a job, with a checkpoint if it can."),
    Command("resume", "jobs", "Go on with a job that has ended."),
    Command("fetch", "jobs", "Bring home what a job made."),
    Command("list", "jobs", "Every job, as it was last heard of."),
    Command("doctor", "jobs", "What jobs need, here and where they run."),
    Command("verify", "audit", "Is a script, or a whole run, as it was written?"),
    Command("replay", "audit", "Run recorded steps of a run again, and compare."),
    Command("diff", "audit", "Compare two scripts, section by section."),
    Command("explain", "audit", "Where a line of a script comes from, and why."),
)

UNEXPECTED, INTERRUPTED, CLOSED_PIPE = 70, 130, 141


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `carl` and return its exit code.

    Args:
        arguments: The command line; that of this process by default.
    """
    if arguments is None:
        # This process ends before its garbage would matter.
        gc.disable()
        arguments = sys.argv[1:]
    given = list(arguments)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(
                encoding="utf-8", errors="backslashreplace", newline="\n"
            )
    if not given or given[0] in ("--help", "-h"):
        print(help_text())
        return 0
    if given[0] in ("--version", "-V"):
        print(f"carl {__version__}")
        return 0
    from carl_bundle.cli.output import ClosedPipeError, show_error
    from carl_bundle.errors import CarlError

    try:
        return run(given[0], given[1:])
    except CarlError as error:
        show_error(error)
        return error.exit_code
    except ClosedPipeError:
        return CLOSED_PIPE
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        return _unexpected(error)


def _unexpected(error: Exception) -> int:
    """Report an error that no command raised on purpose."""
    from carl_bundle.cli.output import as_write_error, show_error

    if os.environ.get("CARL_TRACEBACK"):
        raise error
    if isinstance(error, BrokenPipeError):
        return CLOSED_PIPE
    if isinstance(error, OSError) and (known := as_write_error("the output", error)):
        show_error(known)
        return known.exit_code
    print(f"error: {type(error).__name__}: {_first_line(error)}", file=sys.stderr)
    print("  fix: run with CARL_TRACEBACK=1 for the traceback", file=sys.stderr)
    return UNEXPECTED


def run(name: str, arguments: list[str]) -> int:
    """Import one command and run it.

    Raises:
        UsageError: There is no such command, or it is not used as its help says.
    """
    from carl_bundle.errors import UsageError

    if name not in {command.name for command in COMMANDS}:
        raise UsageError(f"there is no command {name!r}", remedy=_suggestion(name))
    import typer
    from typer.main import get_command

    app = typer.Typer(
        add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None
    )
    app.command(name)(_function(name))
    command = get_command(app)
    try:
        code = command.main(arguments, prog_name=f"carl {name}", standalone_mode=False)
    except SystemExit as error:
        # typer ends with 1 on a closed pipe; for us 1 is a verdict.
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise
    except Exception as error:
        # What typer raises for wrong usage has moved between its releases.
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        help_line = f"carl {name} --help shows how it is used"
        raise UsageError(message().rstrip("."), remedy=help_line) from error
    return code if isinstance(code, int) else 0


def help_text() -> str:
    """The text of `carl --help`."""
    lines = [
        "Usage: carl COMMAND [ARGUMENTS]",
        "",
        "Coherence-aware reinforcement learning, as one self-contained script:",
        "carl bundle > train.py && python train.py",
    ]
    for group in dict.fromkeys(command.group for command in COMMANDS):
        lines += ["", f"{group}:"]
        lines += [f"  {c.name:<9} {c.summary}" for c in COMMANDS if c.group == group]
    lines += ["", "carl COMMAND --help tells more; carl --version names the version."]
    return "\n".join(lines)


def _function(name: str) -> Any:
    from importlib import import_module
    from keyword import iskeyword

    name = f"{name}_" if iskeyword(name) or name == "list" else name
    return getattr(import_module(f"carl_bundle.cli.{name}"), name)


def _suggestion(name: str) -> str:
    from difflib import get_close_matches

    names = [command.name for command in COMMANDS]
    close = get_close_matches(name, names, n=1)
    return f"did you mean {close[0]}?" if close else f"choose one of {', '.join(names)}"


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [""])[0]


if __name__ == "__main__":
    sys.exit(main())
