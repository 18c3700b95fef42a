"""From the command line to the phases, and to an exit code."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from carl_runtime_min import entry
from carl_runtime_min.entry import guarded, identity, lead, parse_arguments, work
from carl_runtime_min.errors import CarlError, ConfigurationError, UsageError
from carl_runtime_min.run import claim, file_sha256, read_json, write_json
from carl_runtime_min.supervisor import STOP_SIGNALS

SCRIPT = """
import json, sys
from pathlib import Path

run = Path(sys.argv[sys.argv.index("--run-dir") + 1])
phase = sys.argv[sys.argv.index("--phase") + 1]
code = json.loads((run / "codes").read_text())[phase]
with (run / "log").open("a") as log:
    log.write(phase + " ")
done = run / "phases.json"
phases = json.loads(done.read_text()) if done.is_file() else {}
if code in (0, 1, 3):
    done.write_text(json.dumps({**phases, phase: code}))
(run / "exit.json").write_text(json.dumps({"code": code}))
"""
PHASES = ["sft", "grpo", "eval"]


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    run = str(tmp_path / "run")
    monkeypatch.setattr(sys, "argv", [str(path), "--run-dir", run])
    return path


def config(**blocks: Any) -> dict[str, Any]:
    spec = {"name": "x", "data": {"id": "rows.jsonl"}}  # as the user wrote it
    return {"seed": 7, "name": "x", "model": {"id": "y"}, "spec": spec, **blocks}


def arguments(script: Path, **given: Any) -> Namespace:
    run = script.parent / "run"
    return Namespace(**{"run_dir": run, "resume": "auto", "accept": [], **given})


def run_script(script: Path, codes: dict[str, int], **given: Any) -> tuple[int, str]:
    """(exit code, phases that were started) of one command."""
    args = arguments(script, **given)
    args.run_dir.mkdir(exist_ok=True)
    (args.run_dir / "codes").write_text(json.dumps(codes))
    (args.run_dir / "log").write_text("")
    with pytest.MonkeyPatch.context() as patch:
        held: list[int] = []
        patch.setattr(entry, "claim", lambda *a: held.append(claim(*a)) or held[0])
        try:
            code = lead(args, config(), PHASES)
        finally:  # as the end of the process would
            for lock in held:
                os.close(lock)
    return code, (args.run_dir / "log").read_text().strip()


GOOD = {"sft": 0, "grpo": 0, "eval": 0}


def test_phases_run_in_order_and_once(script: Path) -> None:
    assert run_script(script, GOOD) == (0, "sft grpo eval")
    assert run_script(script, GOOD) == (0, "")


@pytest.mark.parametrize("code", [2, 4, 70, 85])
def test_a_phase_that_did_not_end_well_is_run_again(script: Path, code: int) -> None:
    assert run_script(script, {**GOOD, "grpo": code}) == (code, "sft grpo")
    assert run_script(script, GOOD) == (0, "grpo eval")


def test_a_verdict_stands_and_ends_the_run(script: Path, capsys: Any) -> None:
    assert run_script(script, {**GOOD, "eval": 3}) == (3, "sft grpo eval")
    assert run_script(script, GOOD) == (3, "")
    assert capsys.readouterr().err == "eval: ended with code 3\n" * 2


def test_a_failed_phase_can_be_accepted(script: Path) -> None:
    missed = {**GOOD, "sft": 1}
    assert run_script(script, missed) == (1, "sft")
    assert run_script(script, missed) == (1, "")
    assert run_script(script, missed, accept=["grpo"]) == (1, "")
    assert run_script(script, missed, accept=["sft"]) == (0, "grpo eval")


def test_only_a_verdict_can_be_accepted(script: Path) -> None:
    crash = {**GOOD, "sft": 70}
    assert run_script(script, crash, accept=["sft", "grpo"]) == (70, "sft")


def test_a_launcher_is_not_needed_and_refused(
    script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="started by a launcher") as refused:
        run_script(script, GOOD)
    assert "plain python" in refused.value.remedy
    assert not (script.parent / "run" / "run.json").exists()


def test_run_json_says_what_ran_where(script: Path) -> None:
    run_script(script, GOOD)
    record = read_json(script.parent / "run" / "run.json")
    assert record["script_sha256"] == file_sha256(script)
    assert len(record["spec_sha256"]) == 64
    assert record["seed"] == 7
    assert record["world_size"] == 1
    assert {"torch", "transformers", "trl"} <= set(record["versions"])
    assert record["hardware"]
    assert "exact" in record["resume"]


def test_a_changed_script_is_refused_before_anything_runs(script: Path) -> None:
    run_script(script, GOOD)
    script.write_text(SCRIPT + "# edited\n")
    with pytest.raises(UsageError, match="script_sha256"):
        run_script(script, GOOD)
    assert (script.parent / "run" / "log").read_text() == ""


def test_never_does_not_touch_an_earlier_run(script: Path) -> None:
    run_script(script, GOOD)
    before = (script.parent / "run" / "run.json").read_text()
    with pytest.raises(UsageError, match="holds a run already") as refused:
        run_script(script, GOOD, resume="never")
    assert refused.value.exit_code == 2
    assert (script.parent / "run" / "run.json").read_text() == before


def test_identity_follows_content(script: Path, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a"}\n')
    local = {"data": {"id": str(rows), "revision": None}}
    hub = {"data": {"id": "org/set", "revision": "abc"}}
    first = identity(config(sft=local, grpo=hub))
    assert identity(config(sft=local, grpo=hub)) == first
    assert first["data_revision"] == [None, "abc"]
    rows.write_text('{"prompt": "b"}\n')
    second = identity(config(sft=local, grpo=hub))
    assert [key for key in first if first[key] != second[key]] == ["data_sha256"]
    third = identity({**config(sft=local, grpo=hub), "spec": {"name": "y"}})
    assert [key for key in second if second[key] != third[key]] == ["spec_sha256"]


def in_phase(tmp_path: Path, result: Any, phase: str = "sft") -> int:
    def action(run: Any, stop: Any) -> int:
        if isinstance(result, Exception):
            raise result
        return int(result)

    args = Namespace(run_dir=tmp_path, resume="auto", phase=phase)
    return work(args, action)


@pytest.mark.parametrize("code", [0, 1, 3, 85])
def test_a_phase_leaves_its_code(tmp_path: Path, code: int) -> None:
    write_json(tmp_path / "phases.json", {"earlier": 0})
    assert in_phase(tmp_path, code) == code
    assert read_json(tmp_path / "exit.json")["code"] == code
    done = {"earlier": 0} if code == 85 else {"earlier": 0, "sft": code}
    assert read_json(tmp_path / "phases.json") == done


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (UsageError("no such column", remedy="name it"), 2, ["no such", "name it"]),
        (ConfigurationError("no token", remedy="log in"), 4, ["no token", "log in"]),
        (CarlError("odd", remedy="tell us"), 70, ["odd", "tell us"]),
        (OSError(errno.ENOSPC, "No space left on device"), 4, ["No space left", "fix"]),
        (PermissionError(errno.EACCES, "Permission denied", "x"), 4, ["denied", "fix"]),
    ],
)
def test_an_error_for_people_is_a_message_with_a_remedy(
    tmp_path: Path, capsys: Any, error: Exception, code: int, shown: list[str]
) -> None:
    assert in_phase(tmp_path, error) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert "Traceback" not in printed.err
    assert printed.err.startswith("error: ")
    assert all(words in printed.err for words in shown)
    assert read_json(tmp_path / "exit.json")["code"] == code
    assert read_json(tmp_path / "phases.json") is None


def test_what_nobody_foresaw_is_70(tmp_path: Path, capsys: Any) -> None:
    assert in_phase(tmp_path, ZeroDivisionError("x")) == 70
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert guarded(lambda: 1) == 1


def parsed(monkeypatch: pytest.MonkeyPatch, *given: str) -> Namespace:
    monkeypatch.setattr(sys, "argv", ["train.py", *given])
    return parse_arguments(
        "What this run does.\n\n    python train.py", "runs/x", ["sft"]
    )


def test_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    default = parsed(monkeypatch)
    assert (default.run_dir, default.resume) == (Path("runs/x"), "auto")
    assert not any((default.dry_run, default.self_test, default.phase))
    assert parsed(monkeypatch, "--run-dir", "a b").run_dir == Path("a b")
    assert (
        parsed(monkeypatch, "--resume", "ck/checkpoint-3").resume == "ck/checkpoint-3"
    )


def test_phases_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parsed(monkeypatch, "--phase", "sft").phase == "sft"
    assert parsed(monkeypatch, "--accept", "sft").accept == ["sft"]
    with pytest.raises(SystemExit) as ended:
        parsed(monkeypatch, "--phase", "nonsense")
    assert ended.value.code == 2


def test_help_is_the_docstring(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed(monkeypatch, "--help")
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "What this run does.\n\n    python train.py" in shown
    for option in ("--resume", "--dry-run", "--self-test", "--run-dir", "--accept"):
        assert option in shown


def test_an_unknown_option_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed(monkeypatch, "--learning-rate", "1")
    assert ended.value.code == 2


def test_libraries_do_not_report_home(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"):
        monkeypatch.setenv(name, "0")
    parsed(monkeypatch)
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"
    assert os.environ["DO_NOT_TRACK"] == "1"
