"""From the command line to the phases: one parent, one fresh process per phase."""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import platform
import shutil
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from datetime import timedelta
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch
from torch.distributed.rendezvous import rendezvous

from carl_runtime_min.errors import CarlError, UsageError
from carl_runtime_min.run import (
    Run,
    checkpoints,
    data_of,
    folder_sha256,
    read_json,
    sha256,
    spec_sha256,
    write_json,
)
from carl_runtime_min.supervisor import accept_signals, supervise

ENDS = (0, 1, 3, 85)  # done, verdicts, to be resumed: other codes are errors
MACHINE = ("hardware", "versions")  # what rounding depends on
EDITED = ("script_sha256", "spec_sha256", "data_revision")  # by who edits a script
UNSET = "correct the name, grant the access or free the space"


def parse_arguments(description: str | None, run_dir: str) -> argparse.Namespace:
    """The command line of a script."""
    shape = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=shape)
    option = parser.add_argument
    option("--run-dir", type=Path, default=Path(run_dir))
    option("--resume", default="auto", help="auto, never, or a checkpoint")
    option("--accept", action="append", default=[], metavar="PHASE")
    option("--accept-changes", action="store_true", help="go on as an edited script")
    option("--dry-run", action="store_true")
    option("--self-test", action="store_true")
    option("--replay", metavar="PHASE:A:B", help="run recorded steps again, compare")
    option("--phase", help=argparse.SUPPRESS)  # what a supervisor asks of its child
    option("--until", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def identity(config: dict[str, Any], phases: list[str]) -> dict[str, Any]:
    """What must be the same when a run continues, the most telling first."""
    data = data_of(config, phases)
    files = {one["id"] for one in data if Path(one["id"]).is_file()}
    model = Path(config["model"]["id"])  # here or, more often, on a hub
    launched = int(os.environ.get("WORLD_SIZE", 0))  # by whoever starts processes
    return {
        "world_size": launched or max(1, torch.cuda.device_count()),
        "data_revision": [one["revision"] for one in data],
        "data_sha256": {name: sha256(Path(name)) for name in sorted(files)},
        "model_sha256": folder_sha256(model) if model.is_dir() else None,
        "spec_sha256": spec_sha256(config),
        "script_sha256": sha256(Path(sys.argv[0])),
    }


def claim(path: Path, facts: dict[str, Any], args: argparse.Namespace) -> int:
    """Lock the run directory, until the last process with the returned descriptor ends.

    UsageError: another process has it, or it belongs to a run that is not this one. An
    edited script may go on with `--accept-changes`; one that was may replay its steps.
    """
    path.mkdir(parents=True, exist_ok=True)
    lock, remedy = os.open(path / ".lock", os.O_RDWR | os.O_CREAT), "use --run-dir DIR"
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise UsageError(f"a process is running in {path}", remedy=remedy) from error
    recorded, chosen = read_json(path / "run.json"), Path(args.resume).resolve()
    named = args.resume not in ("auto", "never")
    if recorded and args.resume == "never":
        raise UsageError(f"{path} holds a run already", remedy=remedy)
    if args.accept_changes and not named:
        changed = "name the checkpoint to go on from: --resume CHECKPOINT"
        raise UsageError("--accept-changes needs --resume", remedy=changed)
    for before in recorded.get("changes", ()):
        if args.replay and before["script_sha256"] == facts["script_sha256"]:
            recorded |= before
    for key, now in facts.items():
        edited = key in EDITED
        if recorded.get(key, now) != now and not (edited and args.accept_changes):
            then = f"{path} was started with {key} {recorded[key]}"
            remedy += ", or --resume CHECKPOINT --accept-changes" * edited
            raise UsageError(f"{then}, this run has {now}", remedy=remedy)
    phase = chosen.parent.name
    whole = chosen in checkpoints(path / "checkpoints" / phase)
    useful = whole and phase not in read_json(path / "phases.json")
    if named and not useful:
        remedy = f"choose a whole one, of a phase not done, in {path}/checkpoints"
        raise UsageError(f"{args.resume} is no checkpoint to go on from", remedy=remedy)
    return lock


def against_lock(lock: Path, versions: dict[str, str]) -> dict[str, Any] | None:
    """Whether the packages are those of a lock beside the script; None without one."""
    lines = lock.read_text().splitlines() if lock.is_file() else []
    pins = [line.split()[0] for line in lines if " --hash=" in line]
    same = str.maketrans("_.", "--")  # spellings of one name
    given = {f"{name}=={versions[name]}".lower().translate(same) for name in versions}
    differs = [pin for pin in pins if pin.lower().translate(same) not in given]
    told = {"matched": not differs, "differs": differs}
    return {"sha256": sha256(lock), **told} if pins else None


def surroundings(config: dict[str, Any]) -> dict[str, Any]:
    """What else decides the result: machine and packages."""
    cuda = torch.cuda
    gpu = cuda.get_device_name() if cuda.is_available() else None
    cpu = f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    versions = {one.name: one.version for one in distributions()}
    return {
        "seed": config["seed"],
        "hardware": gpu or f"{cpu}, {os.cpu_count()} cores",
        "versions": versions,
        "lock": against_lock(Path(f"{sys.argv[0]}.lock"), versions),
        "resume": "exact on a CPU or with full_determinism, else approximate",
        "untried": config.get("untried", []) + ["a GPU"] * cuda.is_available(),
    }


def enrol(
    args: argparse.Namespace, config: dict[str, Any], phases: dict[str, Any]
) -> tuple[int, int]:
    """Claim the run directory and say there what runs: the lock, how many processes."""
    path, facts = args.run_dir.resolve(), identity(config, list(phases))
    lock, script = claim(path, facts, args), path / "train.py"
    before, here = read_json(path / "run.json"), surroundings(config)
    moved = any(before.get(key, here[key]) != here[key] for key in MACHINE)
    here["moved"] = moved or before.get("moved", False)
    then = {key: before.get(key, now) for key, now in facts.items()}
    if then != facts:  # edited: what it was, and its script, are kept
        changes = [*before.get("changes", []), {**then, "resume": args.resume}]
        if sha256(script) == then["script_sha256"]:  # else it was edited in its place
            script.replace(path / f"train-{then['script_sha256'][:12]}.py")
        here["changes"] = changes
        print(f"the script was edited: changes[{len(changes) - 1}] of run.json")
    elif "changes" in before:
        here["changes"] = before["changes"]
    write_json(path / "run.json", {**facts, **here})
    if here["untried"]:
        print("rendered, but not run by CARL's tests:", ", ".join(here["untried"]))
    with contextlib.suppress(shutil.SameFileError):  # that copy may be run, too
        shutil.copyfile(sys.argv[0], script)
    (path / "stop").unlink(missing_ok=True)
    return lock, facts["world_size"]


def lead(
    args: argparse.Namespace, config: dict[str, Any], phases: dict[str, Any]
) -> int:
    """Run the phases that are not done yet, each in a process of its own."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        return join(args, config, phases)
    lock, world_size = enrol(args, config, phases)
    path = args.run_dir.resolve()
    done = read_json(path / "phases.json")
    for phase in phases:
        code = done.get(phase)
        if code is None:
            if (path / "stop").exists():
                return 85
            processes = 1 if phase in ("eval", "push") else world_size
            code = supervise([*sys.argv, "--phase", phase], path, lock, processes)
        if code in (0, 1, 3):  # done, or a verdict: it is not run again
            write_json(path / "phases.json", done := {**done, phase: code})
        if code != 0 and not (code in (1, 3) and phase in args.accept):
            print(f"{phase}: ended with code {code}", file=sys.stderr)
            return int(code)
    return 0


def join(
    args: argparse.Namespace, config: dict[str, Any], phases: dict[str, Any]
) -> int:
    """Run the training phase as one of the processes that a launcher has started."""
    names, path = [name for name in phases if name != "push"], args.run_dir.resolve()
    if len(names) > 1:
        remedy = "start it with plain python: it starts torchrun on all visible GPUs"
        reason = f"a launcher runs one phase, and this script has {', '.join(names)}"
        raise UsageError(reason, remedy=remedy)
    store, rank, _ = next(rendezvous("env://"))
    if first := rank == 0:
        enrol(args, config, phases)
        store.set("enrolled", "")
    else:  # should that be refused, the launcher's signal ends this one here
        store.wait(["enrolled"], timedelta(days=1))
    done, code = read_json(path / "phases.json"), 0
    for args.phase in names + ["push"] * (first and "push" in phases):
        if args.phase not in done and code == 0:
            code = work(args, phases[args.phase])
            if first and code in (0, 1, 3):
                write_json(path / "phases.json", done := {**done, args.phase: code})
    return code


def work(args: argparse.Namespace, phase: Callable[[Run], int]) -> int:
    """Run one phase in this process; leave its exit code in the run directory."""
    accept_signals(args.run_dir.resolve())
    run = Run(args.run_dir.resolve(), args.phase, args.resume)
    run.until = args.until
    with together(run.path / "exit.json") as failed:

        def attempt() -> int:
            try:
                return phase(run)
            except Exception as error:
                if code := failed():  # this one waited for that one
                    reason, remedy = "another process failed", "see its own error"
                    raise CarlError(reason, remedy=remedy, exit_code=code) from error
                raise

        code = guarded(attempt, run.path)
        if run.first:
            run.clean(checkpoints(run.checkpoints))
        if (run.first or code not in ENDS) and not failed():
            with contextlib.suppress(OSError):  # a full disk: then it is the status
                write_json(run.path / "exit.json", {"code": code, "phase": run.phase})
    # torchrun would end rank 0, which may still write, if another rank seemed to fail
    return code if run.first or code not in ENDS else 0


@contextlib.contextmanager
def together(report: Path) -> Iterator[Callable[[], int]]:
    """End this process if another one of the launch leaves the code of an error.

    It may wait for that one for ever, in an operation that needs all of them. What the
    context gives tells that code, 0 for none.
    """
    launched, ours = "RANK" in os.environ, "CARL_SUPERVISOR" in os.environ
    over, old = threading.Event(), 0  # a supervisor has removed the old report
    if report.exists() and not ours:
        old = report.stat().st_mtime_ns

    def failed() -> int:
        new = launched and report.exists() and report.stat().st_mtime_ns != old
        told = read_json(report) if new else {}
        code = int(told.get("code", 0))
        return code if code not in ENDS or "stalled" in told else 0

    def watch() -> None:
        while not over.wait(0.5):
            if code := failed():
                os._exit(code)

    if launched:
        threading.Thread(target=watch, daemon=True).start()
    try:
        yield failed
    finally:
        over.set()


def guarded(action: Callable[[], int], path: Path) -> int:
    """Run `action`; turn an error made for people into its message and exit code."""
    try:
        return action()
    except Exception as caught:
        error: Exception = caught
        disk = shutil.disk_usage(path if path.exists() else ".")
        if "No space left" in str(error) or not disk.free:
            remedy = "free some, then run the same command: it goes on where it was"
            error = CarlError(f"no space left for {path}", remedy=remedy, exit_code=4)
        expected = isinstance(error, CarlError | OSError)
        remedy = getattr(error, "remedy", UNSET)
        with contextlib.suppress(OSError):  # where stderr is a file on a full disk
            if expected:
                print(f"error: {error}", f"  fix: {remedy}", sep="\n", file=sys.stderr)
            else:
                traceback.print_exc()
        return getattr(error, "exit_code", 4 if expected else 70)
