"""An auditor finds what was changed after a run, by running some of it again."""

from __future__ import annotations

import json
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from carl_bundle.cli.app import main
from carl_runtime_min.run import chain_link, read_json
from tests.scripts import render, run

pytestmark = pytest.mark.xdist_group("processes")
SPEC = {
    "method": "grpo",
    "grpo": {
        "max_steps": 4,
        "save_steps": 2,
        "per_device_train_batch_size": 16,
        "num_iterations": 2,
    },
}


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("replay")
    done = run(render(folder, SPEC))
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "carl"


def replayed(path: Path, capfd: pytest.CaptureFixture[str], steps: str) -> str:
    """What a replay says of some steps, or why it does not run."""
    code = main(["replay", str(path), "--steps", steps])
    told = capfd.readouterr()
    line = (told.out + told.err).rpartition("replay: ")[2].partition(",")[0]
    return f"{code} {line.strip()}"


def digest_of(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()


def rewritten(path: Path, change: Callable[[list[dict[str, object]]], None]) -> None:
    """The records of a run with a change, and a chain that fits them."""
    file = path / "steps.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()]
    change(records)
    before = str(read_json(path / "run.json")["script_sha256"])
    for record in records:
        record.pop("chain", None)
        before = record["chain"] = chain_link(before, record)
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    ends = read_json(path / "records.json")
    (path / "records.json").write_text(json.dumps({**ends, "steps": before}))


def test_what_was_changed_after_a_run_is_found(
    original: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", str(original)]) == 0
    capfd.readouterr()
    assert replayed(original, capfd, "3:4") == "0 IDENTICAL"
    assert not (original / "replay").exists()

    records = (original / "steps.jsonl").read_text()
    ends = (original / "records.json").read_text()

    def better(rows: list[dict[str, object]]) -> None:
        rewards = rows[3]["rewards"]
        assert isinstance(rewards, list)
        rewards[5][0] += 1.0

    (original / "steps.jsonl").write_text(records.replace('"step": 4', '"step": 5'))
    assert main(["verify", str(original)]) == 1
    assert "steps.jsonl:4 breaks the chain" in capfd.readouterr().out
    (original / "steps.jsonl").write_text(records)
    rewritten(original, better)
    assert main(["verify", str(original)]) == 0, "the new chain fits"
    capfd.readouterr()
    assert replayed(original, capfd, "3:4") == "1 DIFFERENT: rewards of step 4"
    (original / "steps.jsonl").write_text(records)
    (original / "records.json").write_text(ends)

    checkpoint = original / "checkpoints/grpo/checkpoint-2/model.safetensors"
    kept, weights = checkpoint.read_bytes(), load_file(checkpoint)
    name = next(iter(weights))
    weights[name] = weights[name] + torch.full_like(weights[name], 1e-6)
    save_file(weights, checkpoint, {"format": "pt"})
    told = replayed(original, capfd, "3:3")
    assert told.startswith("1 DIFFERENT: "), told
    checkpoint.write_bytes(kept)

    model = original / "model" / "model.safetensors"
    kept = model.read_bytes()
    model.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
    assert main(["verify", str(original)]) == 1
    assert "model/ does not hold the weights" in capfd.readouterr().out
    summary = original / "summary.json"
    said = summary.read_text()
    summary.write_text(said.replace(sha256(kept).hexdigest(), digest_of(model)))
    assert main(["verify", str(original)]) == 0, "its new digest stands there, too"
    assert replayed(original, capfd, "3:3") == "0 IDENTICAL", "it leaves no model"
    told = replayed(original, capfd, "4:4")
    assert told == f"1 DIFFERENT: weights in {original / 'model'}"
    summary.write_text(said)
    model.write_bytes(kept)

    script = original / "train.py"
    script.write_text(script.read_text().replace("0.5 *", "0.6 *", 1) + "# x\n")
    assert main(["verify", str(original)]) == 1
    assert "is not the script that ran" in capfd.readouterr().out
    assert replayed(original, capfd, "3:3").startswith("2 ")


REWARD = """
def noted(completions, trainer_state, **rest):
    if trainer_state.global_step == 2:
        raise ValueError("nobody thought of that")
    return [float(len(turns[0]["content"])) for turns in completions]
"""


def test_an_edited_script_goes_on_and_either_one_replays_its_steps(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rewards = tmp_path / "rewards.py"
    rewards.write_text(REWARD)
    spec = {
        "method": "grpo",
        "grpo": {"max_steps": 4, "save_steps": 1, "per_device_train_batch_size": 16},
        "rewards": [{"function": "rewards.py:noted"}],
    }
    script, path = render(tmp_path, spec), tmp_path / "runs" / "carl"
    failed = run(script)
    assert "nobody thought of that" in failed.stderr
    rewards.write_text(REWARD.replace("raise ValueError(", "print("))
    render(tmp_path, spec)
    refused = run(script)
    assert refused.returncode == 2
    assert "--resume CHECKPOINT --accept-changes" in refused.stderr
    chosen = str(path / "checkpoints" / "grpo" / "checkpoint-2")
    done = run(script, "--resume", chosen, "--accept-changes")
    assert done.returncode == 0, done.stderr
    assert "edited" in done.stdout

    assert main(["verify", str(path)]) == 0
    capfd.readouterr()
    assert replayed(path, capfd, "1:2") == "0 IDENTICAL"
    assert replayed(path, capfd, "4:4") == "0 IDENTICAL"
    next(path.glob("train-*.py")).unlink()
    assert main(["verify", str(path)]) == 1
    assert "the script before a change, is not here" in capfd.readouterr().out
