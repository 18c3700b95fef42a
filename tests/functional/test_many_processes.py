"""Several processes train one model, here on CPUs, and end together."""

from __future__ import annotations

import fcntl
import json
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

from carl_runtime_min.run import read_json
from tests import tiny
from tests.scripts import GROUPS, SMALL, environment, render
from tools.kills import differing, left

pytestmark = pytest.mark.xdist_group("processes")  # they need the cores for themselves

WITNESS = '''"""Runs the script, and notes on every rank what it trained."""

import hashlib
import json
import os
import sys
from pathlib import Path

script = sys.argv[0] = sys.argv.pop(1)
sys.path.insert(0, str(Path(script).parent))
import train

original, rank = train.fit, os.environ.get("RANK", 0)


def fit(trainer, run, *rest, **named):
    loss, last = trainer.compute_loss, trainer.accelerator.num_processes - 1

    def broken_loss(*given, **named):
        broken = trainer.state.global_step == 2 and int(rank) == last
        return loss(*given, **named) * (float("nan") if broken else 1.0)

    trainer.compute_loss = broken_loss
    done = original(trainer, run, *rest, **named)
    digest = hashlib.sha256()
    for name, tensor in sorted(trainer.model.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    facts = {
        "world": trainer.accelerator.num_processes,
        "weights": digest.hexdigest(),
        "skipped": trainer.skipped,
        "cascade": vars(trainer.cascade),
        "metrics": [x for x in trainer.state.log_history if "reward" in x],
    }
    Path(f"rank-{rank}.json").write_text(json.dumps(facts))
    return done


train.fit = fit
sys.exit(train.main())
'''
SHORT = """import os

calls = []


def text(turns):
    return turns if isinstance(turns, str) else turns[-1]["content"]


def score(completions, **rest):
    calls.append(0)
    last = int(os.environ.get("WORLD_SIZE", 1)) - 1
    found = [len(text(one)) / 8 for one in completions]
    if len(calls) == 2 and int(os.environ.get("RANK", 0)) == last:
        {what}
    return found
"""
BROKEN = SHORT.format(what='found[-1] = float("nan")')
RAISES = SHORT.format(what='raise OSError("the judge is gone")')
NOTED = """import os
import time
from pathlib import Path

calls = []


def score(completions, **rest):
    calls.append(0)
    if os.environ["RANK"] == "1":
        Path("calls").write_text(str(len(calls)))
        time.sleep(600 if Path("hang").exists() and len(calls) == 2 else 0.3)
    return [len(one[0]["content"]) / 8 for one in completions]
"""
PARENT = """import sys

import torch

torch.cuda.device_count = lambda: 2  # in the parent, which counts GPUs
sys.argv = sys.argv[1:]
sys.path.insert(0, ".")
import train

sys.exit(train.main())
"""


def spec(
    folder: Path, model: Path, method: str = "grpo", **more: Any
) -> dict[str, Any]:
    """Three steps of a tiny model, on rows that lie in `folder`."""
    rows = tiny.write_jsonl(folder / "qa.jsonl", tiny.questions(16))
    sizes = {**SMALL, **(GROUPS if method == "grpo" else {})}
    steps = {**sizes, "max_steps": 3, "learning_rate": 0.001}
    common = {"name": "ranks", "method": method, "model": str(model), "data": str(rows)}
    return {**common, "lora": False, method: steps, **more}


def start(folder: Path, *command: str) -> subprocess.Popen[str]:
    """A python process on CPUs, in `folder`."""
    return subprocess.Popen(
        [sys.executable, *command],
        cwd=folder,
        env={**environment(), "ACCELERATE_USE_CPU": "true"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def ended(*processes: subprocess.Popen[str]) -> list[tuple[int, str]]:
    """The status and the output of each, once all have ended."""
    outputs = [process.communicate(timeout=400)[0] for process in processes]
    codes = [process.returncode for process in processes]
    return list(zip(codes, outputs, strict=True))


def torchrun(count: int, *more: str) -> list[str]:
    where = more or ("--standalone",)
    return ["-m", "torch.distributed.run", *where, "--nproc_per_node", str(count)]


def weights(folder: Path) -> str:
    return str(read_json(folder / "runs/ranks/summary.json")["weights_sha256"])


@pytest.mark.parametrize("world", [1, 2, 4])
def test_ranks_train_one_model_and_decide_as_one(
    tmp_path: Path, tiny_model_dir: Path, world: int
) -> None:
    """A reward or a loss that is broken on one rank is left out on all of them."""
    (tmp_path / "rewards.py").write_text(BROKEN)
    more = {
        "rewards": [{"function": "rewards.py:score"}],
        "carl": {"cascade": "adaptive", "open_by": 1, "warmup_steps": 2},
        "non_finite": "skip",
    }
    script = render(tmp_path, spec(tmp_path, tiny_model_dir, **more))
    (tmp_path / "witness.py").write_text(WITNESS)
    command = ["witness.py", str(script), "--phase", "grpo"]
    launcher = torchrun(world) if world > 1 else []
    ((code, output),) = ended(start(tmp_path, *launcher, *command))
    assert code == 0, output
    ranks = [read_json(tmp_path / f"rank-{rank}.json") for rank in range(world)]
    assert [rank["world"] for rank in ranks] == [world] * world
    for rank in ranks[1:]:
        assert rank["weights"] == ranks[0]["weights"]
        assert rank["cascade"] == ranks[0]["cascade"]
        for a, b in zip(rank["metrics"], ranks[0]["metrics"], strict=True):
            for name in ("rewards/carl/mean", "carl/weight", "rewards/non_finite"):
                assert a[name] == b[name]
            name = "rewards/carl/length_correlation"
            assert a[name] == b[name]
    assert ranks[0]["cascade"]["opened_at"] == 1
    assert [x["rewards/non_finite"] for x in ranks[0]["metrics"]] == [0, 1, 0]
    path = tmp_path / "runs" / "ranks"
    lines = (path / "non_finite.jsonl").read_text().splitlines()
    reward, loss = map(json.loads, lines)
    assert (reward["step"], reward["sample"]) == (2, 4 * world - 1)
    assert (loss["step"], loss["what"]) == (3, "the loss")
    assert [rank["skipped"] for rank in ranks] == [1] * world
    assert read_json(path / "summary.json")["grpo_skipped_steps"] == 1
    lines = (path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]  # one rank writes
    assert read_json(path / "summary.json")["stage"] == "B"
    assert read_json(path / "exit.json")["code"] == 0


def test_an_error_in_one_rank_ends_all_with_its_code(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    """The one who started them reports the error, not what it led to elsewhere."""
    (tmp_path / "rewards.py").write_text(RAISES)
    rewards = [{"function": "rewards.py:score"}]
    script = render(tmp_path, spec(tmp_path, tiny_model_dir, rewards=rewards))
    (tmp_path / "parent.py").write_text(PARENT)
    ((code, output),) = ended(start(tmp_path, "parent.py", script.name))
    assert code == 4, output
    assert "error: the judge is gone" in output
    assert "Connection closed" not in output
    assert read_json(tmp_path / "runs/ranks/exit.json") == {"code": 4, "phase": "grpo"}


def test_an_error_before_the_ranks_have_met_ends_all(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    """One of them cannot read its rows; the others would wait for it for minutes."""
    script = render(tmp_path, spec(tmp_path, tiny_model_dir, "sft"))
    text = script.read_text()
    rows = "    rows = sft_data(tokenizer, settings)\n"
    assert text.count(rows) == 1
    broken = (
        '    if os.environ["RANK"] == "1":\n        settings["data"]["id"] = "no"\n'
    )
    script.write_text(text.replace(rows, broken + rows))
    (tmp_path / "parent.py").write_text(PARENT)
    ((code, output),) = ended(start(tmp_path, "parent.py", script.name))
    assert code == read_json(tmp_path / "runs/ranks/exit.json")["code"], output
    assert code in (2, 4)
    assert "error: " in output
    assert "(SIGKILL)" not in output  # as torchrun does it after half a minute


def test_processes_that_hang_or_are_killed_go_on_as_if_nothing_had_been(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    """One that hangs, one that is killed, the launcher, the script that started it."""
    more = {"rewards": [{"function": "rewards.py:score"}], "stall_timeout": 3}
    (tmp_path / "rewards.py").write_text(NOTED)
    (tmp_path / "parent.py").write_text(PARENT)
    given, calls = spec(tmp_path, tiny_model_dir, **more), tmp_path / "calls"
    given["grpo"] |= {"max_steps": 8, "logging_steps": 3}
    render(tmp_path, given)

    def begin(folder: str) -> subprocess.Popen[str]:
        calls.unlink(missing_ok=True)
        return start(tmp_path, "parent.py", "train.py", "--run-dir", folder)

    def until_call(number: int) -> list[psutil.Process]:
        """The processes below the script, once the reward is called so often."""
        while not calls.exists() or int(calls.read_text() or 0) < number:
            assert process.poll() is None, process.communicate()
            time.sleep(0.05)
        return psutil.Process(process.pid).children(recursive=True)

    def all_gone(processes: list[psutil.Process], seconds: float = 5) -> bool:
        assert len(processes) == 3
        return not psutil.wait_procs(processes, timeout=seconds)[1]

    ((code, output),) = ended(begin("whole"))
    assert code == 0, output

    process = begin("run")
    _, _, worker = processes = until_call(3)  # after a checkpoint at step 2
    worker.kill()
    ((code, output),) = ended(process)
    assert code == 70, output
    assert all_gone(processes)

    (tmp_path / "hang").touch()
    process = begin("run")
    processes, hung = until_call(2), time.monotonic()
    ((code, output),) = ended(process)
    assert time.monotonic() - hung < 15  # 2 * stall_timeout, not torchrun's half minute
    assert code == 85, output
    assert "continuing after step 2" in output
    assert output.count("in score") == 1  # the stack of the one, which the other awaits
    assert output.count("most recent call first") >= 2
    assert all_gone(processes)
    (tmp_path / "hang").unlink()

    process = begin("run")
    launcher, *_ = processes = until_call(3)
    launcher.kill()
    ((code, output),) = ended(process)
    assert code == 70, output
    assert "continuing after step 2" in output
    assert "same command again" in output
    assert all_gone(processes)

    process = begin("run")
    processes = until_call(2)
    process.kill()
    process.wait()
    assert all_gone(processes, 60)  # they stop by themselves, after a checkpoint

    ((code, output),) = ended(begin("run"))
    assert code == 0, output
    assert "continuing after step 6" in output
    assert differing(left(tmp_path / "whole"), left(tmp_path / "run")) is None


def test_a_launch_that_is_refused_ends_at_once_and_touches_nothing(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    """A run that goes on in its directory is not stopped by it either."""
    render(tmp_path, spec(tmp_path, tiny_model_dir, "sft"))
    path = tmp_path / "runs" / "ranks"
    path.mkdir(parents=True)
    with (path / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        ((code, output),) = ended(start(tmp_path, *torchrun(2), "train.py"))
    assert code == 1
    assert output.count("error: ") == 1
    assert f"error: a process is running in {path}" in output
    assert "exitcode  : 2 " in output
    assert "(SIGKILL)" not in output  # as torchrun does it after half a minute
    assert [one.name for one in path.iterdir()] == [".lock"]


def port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def test_two_machines_train_what_two_processes_of_one_train(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    """Two agents of torchrun that meet at an address, and see one run directory."""
    found, rewards = [], [{"name": "pattern", "pattern": "[a-m]"}]
    for agents in (1, 2):
        folder = tmp_path / str(agents)
        folder.mkdir()
        render(folder, spec(folder, tiny_model_dir, rewards=rewards))
        meet = ["--rdzv_backend", "c10d", "--rdzv_endpoint", f"127.0.0.1:{port()}"]
        where = ["--nnodes", str(agents), *meet] if agents > 1 else []
        command = [*torchrun(2 // agents, *where), "train.py"]
        for code, output in ended(*(start(folder, *command) for _ in range(agents))):
            assert code == 0, output
        found.append(weights(folder))
        assert read_json(folder / "runs/ranks/run.json")["world_size"] == 2
        assert read_json(folder / "runs/ranks/phases.json") == {"grpo": 0}
    assert found[0] == found[1]


def test_what_a_launcher_has_done_is_not_done_again(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    """Each process trains as one of those that were started."""
    render(tmp_path, spec(tmp_path, tiny_model_dir, "sft"))
    path = tmp_path / "runs" / "ranks"
    for _ in range(2):
        ((code, output),) = ended(start(tmp_path, *torchrun(2), "train.py"))
        assert code == 0, output
    lines = map(json.loads, (path / "metrics.jsonl").read_text().splitlines())
    assert [row["step"] for row in lines if "loss" in row] == [1, 2, 3]
    assert read_json(path / "phases.json") == {"sft": 0}
    assert read_json(path / "run.json")["world_size"] == 2
    assert not list(path.glob("checkpoints/sft/checkpoint-result"))
