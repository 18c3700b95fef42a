"""From the command line to the phases, and to an exit code."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from argparse import Namespace
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from carl_bundle.recipes.config import ENVIRONMENT
from carl_runtime_min import entry
from carl_runtime_min.entry import claim, identity, lead, parse_arguments, work
from carl_runtime_min.errors import CarlError, ConfigurationError, UsageError
from carl_runtime_min.run import STATE, Run, read_json, sha256, write_json
from tests.scripts import here, render, signals_restored

SCRIPT = """
import json, sys
from pathlib import Path

run = Path(sys.argv[sys.argv.index("--run-dir") + 1])
phase = sys.argv[sys.argv.index("--phase") + 1]
codes = json.loads((run / "codes").read_text())
code = codes[phase]
with (run / "log").open("a") as log:
    log.write(phase + " ")
if codes.get("stop") == phase:  # a signal that comes when its work is done
    (run / "stop").touch()
(run / "exit.json").write_text(json.dumps({"code": code}))
"""
PHASES = ["sft", "grpo", "eval"]
OPTIONS = {"resume": "auto", "accept": [], "accept_changes": False, "replay": None}


@pytest.fixture(autouse=True)
def _own_signals() -> Iterator[None]:
    with signals_restored():
        yield


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    run = str(tmp_path / "run")
    monkeypatch.setattr(sys, "argv", [str(path), "--run-dir", run])
    return path


def config(**blocks: Any) -> dict[str, Any]:
    spec = {"name": "x", "data": {"id": "rows.jsonl"}}  # as the user wrote it
    given = {"seed": 7, "name": "x", "model": {"id": "y"}, "spec": spec}
    return {**given, **{phase: {} for phase in PHASES}, **blocks}


def arguments(script: Path, **given: Any) -> Namespace:
    run = script.parent / "run"
    return Namespace(**{"run_dir": run, **OPTIONS, **given})


def run_script(script: Path, codes: dict[str, Any], **given: Any) -> tuple[int, str]:
    """(exit code, phases that were started) of one command."""
    args = arguments(script, **given)
    args.run_dir.mkdir(exist_ok=True)
    (args.run_dir / "codes").write_text(json.dumps(codes))
    (args.run_dir / "log").write_text("")
    with pytest.MonkeyPatch.context() as patch:
        held: list[int] = []

        def hold(*given: Any) -> int:
            held.append(claim(*given))
            return held[0]

        patch.setattr(entry, "claim", hold)
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


def test_a_stop_between_two_phases_starts_no_further_one(script: Path) -> None:
    assert run_script(script, {**GOOD, "stop": "sft"}) == (85, "sft")
    assert run_script(script, GOOD) == (0, "grpo eval")


def test_a_launcher_cannot_run_several_phases(
    script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match="has sft, grpo, eval") as refused:
        run_script(script, GOOD)
    assert "plain python" in refused.value.remedy
    assert not (script.parent / "run" / "run.json").exists()


def test_run_json_says_what_ran_where(script: Path) -> None:
    run_script(script, GOOD)
    record = read_json(script.parent / "run" / "run.json")
    assert record["script_sha256"] == sha256(script)
    assert len(record["spec_sha256"]) == 64
    assert record["seed"] == 7
    assert record["world_size"] == 1
    assert {"torch", "transformers", "trl"} <= set(record["versions"])
    assert record["hardware"]
    assert "exact" in record["resume"]


def test_a_script_says_what_was_only_rendered(
    script: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def told(**blocks: Any) -> str:
        monkeypatch.setattr(sys, "argv", [str(script)])
        args = arguments(script)
        args.run_dir.mkdir(exist_ok=True)
        os.close(entry.enrol(args, config(**blocks), {})[0])
        found = read_json(args.run_dir / "run.json")["untried"]
        told = capsys.readouterr().out
        assert all(name in told for name in found)
        return told

    assert told() == ""
    assert "not run by CARL's tests: vLLM\n" in told(untried=["vLLM"])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "some card")
    assert "not run by CARL's tests: vLLM, a GPU\n" in told(untried=["vLLM"])


def test_run_json_says_whether_the_packages_are_those_of_the_lock(
    script: Path,
) -> None:
    def told(text: str | None) -> Any:
        lock = script.with_name("train.py.lock")
        if text is not None:
            lock.write_text(text)
        run_script(script, GOOD)
        return read_json(script.parent / "run" / "run.json")["lock"]

    assert told(None) is None
    assert told('version = 1\n[[package]]\nname = "torch"\n') is None, "uv's own"
    here = version("typing_extensions")
    good = f"# carl lock 1\ntyping-extensions=={here} --hash=sha256:0\n"
    found = told(good)
    digest = sha256(script.with_name("train.py.lock"))
    assert found == {"sha256": digest, "matched": True, "differs": []}
    found = told(good + "torch==0.1 --hash=sha256:0\nlost==1 --hash=sha256:0\n")
    assert (found["matched"], found["differs"]) == (False, ["torch==0.1", "lost==1"])


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
    blocks = config(sft=local, grpo=hub, push={"repo": "org/result"})
    phases = ["sft", "grpo", "push"]
    first = identity(blocks, phases)
    assert identity(blocks, phases) == first
    assert first["data_revision"] == [None, "abc"]
    rows.write_text('{"prompt": "b"}\n')
    second = identity(blocks, phases)
    assert [key for key in first if first[key] != second[key]] == ["data_sha256"]
    third = identity({**blocks, "spec": {"name": "y"}}, phases)
    assert [key for key in second if second[key] != third[key]] == ["spec_sha256"]


def test_every_source_of_a_mixture_is_part_of_the_identity(
    script: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a"}\n')
    mixed = [{"data": {"id": name, "revision": None}} for name in (str(rows), "org/x")]
    later = {"mix": [{"data": {"id": str(script), "revision": None}}]}
    blocks = config(sft={"mix": mixed, "validation": later})
    found = identity(blocks, ["sft"])
    assert found["data_sha256"] == {str(one): sha256(one) for one in (rows, script)}
    assert found["data_revision"] == [None, None, None]


def test_the_copy_in_the_run_directory_may_be_run_itself(
    script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_script(script, GOOD)
    copy = script.parent / "run" / "train.py"
    monkeypatch.setattr(sys, "argv", [str(copy), *sys.argv[1:]])
    assert run_script(script, GOOD) == (0, "")
    assert copy.read_text() == SCRIPT


def test_a_run_that_went_on_elsewhere_says_so_for_ever(
    script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def moved() -> Any:
        run_script(script, GOOD)
        return read_json(script.parent / "run" / "run.json")["moved"]

    assert [moved(), moved()] == [False, False]
    with monkeypatch.context() as patch:
        patch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "other")
        assert moved()
    assert moved()


IDENTITY = {
    "world_size": 1,
    "data_sha256": {"rows.jsonl": "d1"},
    "spec_sha256": "s1",
    "script_sha256": "c1",
}


def start(path: Path, resume: str = "auto", **changed: Any) -> None:
    """Claim `path` as one command would, then end that command."""
    facts = {**IDENTITY, **changed}
    os.close(claim(path, facts, Namespace(**{**OPTIONS, "resume": resume})))
    write_json(path / "run.json", facts)


def test_the_same_run_may_continue(tmp_path: Path) -> None:
    start(tmp_path / "run")
    start(tmp_path / "run")


@pytest.mark.parametrize(
    "changed",
    [
        {"script_sha256": "c2"},
        {"spec_sha256": "s2", "script_sha256": "c2"},
        {"data_sha256": {"rows.jsonl": "d2"}},
        {"world_size": 4},
    ],
)
def test_another_run_is_refused_by_name(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    start(tmp_path)
    name, value = next(iter(changed.items()))
    with pytest.raises(UsageError, match=name) as refused:
        start(tmp_path, **changed)
    assert str(value) in str(refused.value)
    assert str(IDENTITY[name]) in str(refused.value)
    assert "--run-dir" in refused.value.remedy
    assert refused.value.exit_code == 2


def edited(script: Path, line: str = "# edited\n", **given: Any) -> Any:
    """Start the running script once it was edited; what run.json then says."""
    running = Path(sys.argv[0])
    running.write_text(running.read_text() + line)
    run_script(script, GOOD, accept_changes=True, **given)
    return read_json(script.parent / "run" / "run.json")


def test_an_edited_script_goes_on_where_it_is_told_and_is_recorded(
    script: Path,
) -> None:
    run = script.parent / "run"
    run_script(script, {**GOOD, "grpo": 70})
    first = read_json(run / "run.json")
    chosen = checkpoint(run, "grpo", 2)
    after = edited(script, resume=chosen)
    assert after["script_sha256"] == sha256(script) == sha256(run / "train.py")
    [before] = after["changes"]
    assert {key: first[key] for key in before if key != "resume"} == {
        key: before[key] for key in before if key != "resume"
    }
    assert before["resume"] == chosen
    earlier = run / f"train-{first['script_sha256'][:12]}.py"
    assert earlier.read_text() == SCRIPT

    assert run_script(script, GOOD)[0] == 0, "from now on it is the run's script"
    assert read_json(run / "run.json")["changes"] == [before]


def test_changes_are_accepted_with_a_checkpoint_alone(script: Path) -> None:
    run_script(script, GOOD)
    with pytest.raises(UsageError, match="needs --resume") as refused:
        edited(script)
    assert "--resume CHECKPOINT" in refused.value.remedy


def test_only_what_a_script_says_can_be_accepted(script: Path) -> None:
    run_script(script, {**GOOD, "grpo": 70})
    run = script.parent / "run"
    write_json(run / "run.json", {**read_json(run / "run.json"), "world_size": 4})
    with pytest.raises(UsageError, match="world_size") as refused:
        edited(script, resume=checkpoint(run, "grpo", 2))
    assert "accept-changes" not in refused.value.remedy


def test_a_script_edited_in_the_run_directory_is_accepted_too(
    script: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_script(script, {**GOOD, "grpo": 70})
    copy = script.parent / "run" / "train.py"
    monkeypatch.setattr(sys, "argv", [str(copy), *sys.argv[1:]])
    after = edited(script, resume=checkpoint(copy.parent, "grpo", 2))
    assert after["script_sha256"] == sha256(copy) != sha256(script)
    assert len(after["changes"]) == 1


def test_a_local_model_is_part_of_the_identity(script: Path, tmp_path: Path) -> None:
    weights = tmp_path / "model" / "model.safetensors"
    weights.parent.mkdir()
    weights.write_bytes(b"one")
    blocks = config(model={"id": str(weights.parent)})
    first = identity(blocks, ["sft"])
    assert identity(blocks, ["sft"]) == first
    weights.write_bytes(b"two")
    second = identity(blocks, ["sft"])
    assert [key for key in first if first[key] != second[key]] == ["model_sha256"]


def test_never_wants_a_directory_without_a_run(tmp_path: Path) -> None:
    start(tmp_path / "run", resume="never")
    with pytest.raises(UsageError, match="holds a run already"):
        start(tmp_path / "run", resume="never")


def checkpoint(run: Path, phase: str, step: int, state: str = "{\n}\n") -> str:
    folder = run / "checkpoints" / phase / f"checkpoint-{step}"
    folder.mkdir(parents=True)
    (folder / STATE).write_text(state)
    return str(folder)


@pytest.mark.parametrize(
    ("chosen", "good"),
    [
        ("checkpoints/grpo/checkpoint-2", True),
        ("checkpoints/grpo/checkpoint-2/", True),
        ("checkpoints/grpo/checkpoint-4", False),
        ("checkpoints/sft/checkpoint-2", False),
        ("../other/checkpoints/grpo/checkpoint-2", False),
        ("checkpoint-2", False),
        (".", False),
        ("Auto", False),
    ],
)
def test_only_a_whole_checkpoint_of_a_phase_not_done_can_be_chosen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, chosen: str, good: bool
) -> None:
    run = tmp_path / "run"
    start(run)
    checkpoint(run, "sft", 2)
    write_json(run / "phases.json", {"sft": 0})
    checkpoint(run, "grpo", 2)
    checkpoint(run, "grpo", 4, state="{")
    checkpoint(tmp_path / "other", "grpo", 2)
    monkeypatch.chdir(run)
    if good:
        start(run, resume=str(run / chosen))
        return start(run, resume=chosen)
    with pytest.raises(UsageError, match=f"^{chosen} is no checkpoint to go") as no:
        start(run, resume=chosen)
    assert f"{run}/checkpoints" in no.value.remedy
    assert no.value.exit_code == 2


HOLDER = """
import fcntl, os, sys
lock = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
fcntl.flock(lock, fcntl.LOCK_EX)
print("held", flush=True)
sys.stdin.read()
"""


def test_two_processes_do_not_share_a_run_directory(tmp_path: Path) -> None:
    start(tmp_path)
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path / ".lock")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(UsageError, match="a process is running in"):
            start(tmp_path)
        assert holder.stdin is not None
        holder.stdin.close()
    start(tmp_path)


def test_a_lock_outlives_the_one_who_took_it(tmp_path: Path) -> None:
    """A phase inherits it: while a phase lives, nobody else may start."""
    descriptor = claim(tmp_path, IDENTITY, Namespace(**OPTIONS))
    child = subprocess.Popen(
        [sys.executable, "-c", "import sys; sys.stdin.read()"],
        stdin=subprocess.PIPE,
        pass_fds=(descriptor,),
    )
    os.close(descriptor)
    with child:
        with pytest.raises(UsageError, match="a process is running in"):
            start(tmp_path)
        assert child.stdin is not None
        child.stdin.close()
    start(tmp_path)


def in_phase(tmp_path: Path, result: Any, phase: str = "sft") -> int:
    def action(run: Run) -> int:
        assert (run.path, run.phase, run.resume) == (tmp_path, phase, "auto")
        if isinstance(result, Exception):
            raise result
        return int(result)

    return work(
        Namespace(run_dir=tmp_path, resume="auto", phase=phase, until=None), action
    )


@pytest.mark.parametrize("code", [0, 1, 3, 85])
def test_a_phase_leaves_its_code(tmp_path: Path, code: int) -> None:
    assert in_phase(tmp_path, code) == code
    assert read_json(tmp_path / "exit.json") == {"code": code, "phase": "sft"}


@pytest.mark.parametrize(
    ("result", "status"), [(0, 0), (1, 0), (3, 0), (85, 0), (UsageError("no"), 2)]
)
def test_the_code_is_that_of_the_first_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, result: Any, status: int
) -> None:
    """torchrun ends all ranks when one fails: another one fails by an error alone."""
    monkeypatch.setenv("RANK", "1")
    half = checkpoint(tmp_path, "sft", 2, state="{")
    assert in_phase(tmp_path, result) == status
    assert (tmp_path / "exit.json").exists() == (status != 0)
    assert Path(half).exists()


@pytest.mark.parametrize("supervised", [True, False])
def test_the_error_of_another_process_is_that_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, supervised: bool
) -> None:
    """What follows from it here is not told, nor written over it."""
    monkeypatch.setenv("RANK", "0")
    if supervised:
        monkeypatch.setenv("CARL_SUPERVISOR", str(os.getpid()))
    else:
        write_json(tmp_path / "exit.json", {"code": 2, "phase": "sft"})  # an old one

    def left_alone(run: Run) -> int:
        write_json(tmp_path / "exit.json", {"code": 5, "phase": "sft"})
        raise RuntimeError("connection closed by peer")

    monkeypatch.setattr(threading, "Thread", Mock())  # it would end these tests
    args = Namespace(run_dir=tmp_path, resume="auto", phase="sft", until=None)
    assert work(args, left_alone) == 5
    assert read_json(tmp_path / "exit.json")["code"] == 5
    printed = capsys.readouterr().err
    assert "another process failed" in printed
    assert "connection" not in printed


WAITING = """
import sys, time
from argparse import Namespace
from pathlib import Path
from carl_runtime_min.entry import work

def wait(run):
    print("waiting", flush=True)
    time.sleep(600)

work(Namespace(run_dir=Path(sys.argv[1]), resume="auto", phase="sft", until=None), wait)
"""


@pytest.mark.parametrize("report", [{"code": 5}, {"code": 85, "stalled": True}])
def test_a_process_that_waits_for_one_that_failed_ends_too(
    tmp_path: Path, report: dict[str, Any]
) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING, str(tmp_path)],
        env={**os.environ, "RANK": "1", "WORLD_SIZE": "2"},
        stdout=subprocess.PIPE,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"waiting\n"
        write_json(tmp_path / "exit.json", report)
        assert process.wait(timeout=60) == report["code"]


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (UsageError("no such column", remedy="name it"), 2, ["no such", "name it"]),
        (ConfigurationError("no token", remedy="log in"), 4, ["no token", "log in"]),
        (CarlError("odd", remedy="tell us"), 70, ["odd", "tell us"]),
        (OSError(errno.ENOSPC, "No space left on device"), 4, ["same command"]),
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


def test_what_nobody_foresaw_is_70(tmp_path: Path, capsys: Any) -> None:
    assert in_phase(tmp_path, ZeroDivisionError("x")) == 70
    assert "ZeroDivisionError" in capsys.readouterr().err


def test_a_full_disk_is_told_whatever_the_library_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    def full(self: Path, text: str) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    half = checkpoint(tmp_path, "sft", 2, state="{")
    monkeypatch.setattr(Path, "write_text", full)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: Namespace(free=0))
    assert in_phase(tmp_path, RuntimeError("unexpected pos 64 vs 0")) == 4
    assert f"error: no space left for {tmp_path}\n" in capsys.readouterr().err
    assert not Path(half).exists()
    assert not (tmp_path / "exit.json").exists()  # the exit status tells it


def parsed(monkeypatch: pytest.MonkeyPatch, *given: str) -> Namespace:
    monkeypatch.setattr(sys, "argv", ["train.py", *given])
    return parse_arguments("What this run does.\n\n    python train.py", "runs/x")


def test_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    default = parsed(monkeypatch)
    assert (default.run_dir, default.resume) == (Path("runs/x"), "auto")
    assert not any((default.dry_run, default.self_test, default.phase))
    assert parsed(monkeypatch, "--run-dir", "a b").run_dir == Path("a b")
    assert parsed(monkeypatch, "--resume", "a/checkpoint-3").resume == "a/checkpoint-3"


def test_phases_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert parsed(monkeypatch, "--phase", "sft").phase == "sft"
    accepted = parsed(monkeypatch, "--accept", "sft", "--accept", "grpo").accept
    assert accepted == ["sft", "grpo"]


def test_help_is_the_docstring(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed(monkeypatch, "--help")
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "What this run does.\n\n    python train.py" in shown
    for option in ("--resume", "--dry-run", "--self-test", "--run-dir", "--accept"):
        assert option in shown
    assert "--phase" not in shown


def test_an_unknown_option_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SystemExit) as ended:
        parsed(monkeypatch, "--learning-rate", "1")
    assert ended.value.code == 2


def test_libraries_do_not_report_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ENVIRONMENT:
        monkeypatch.setenv(name, "0")
    assert here(render(tmp_path, {"name": "quiet"}), "--self-test") == 0
    assert os.environ["HF_HUB_DISABLE_TELEMETRY"] == "1"
    assert os.environ["DO_NOT_TRACK"] == "1"
