"""Rendered scripts that train, each phase called as its process would call it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset

from carl_runtime_min.run import checkpoints, read_json, weights_sha256
from tests import tiny
from tests.scripts import GROUPS, SMALL, here, load, render

REWARDS = '''"""Rewards of a user."""

LETTERS = "abcdefghijklmnopqrstuvwxyz"


def share(text):
    return sum(x in LETTERS for x in text) / max(1, len(text))


def letters(prompts, completions, answer, **rest):
    """The share of letters, in TRL's own terms: conversations in, scores out."""
    assert len(prompts) == len(completions) == len(answer)
    assert prompts[0][-1]["role"] == "user"
    return [share(turns[0]["content"]) for turns in completions]
'''


def rows(run: Path, name: str = "metrics") -> list[dict[str, Any]]:
    return [
        json.loads(line) for line in (run / f"{name}.jsonl").read_text().splitlines()
    ]


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    return tiny.write_jsonl(folder / "qa.jsonl", tiny.questions(24))


def test_sft_trains_all_weights_until_the_plateau_and_is_tracked(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    turns = [
        {
            "messages": [
                {"role": "user", "content": row["prompt"]},
                {"role": "assistant", "content": row["answer"]},
            ]
        }
        for row in tiny.questions(8)
    ]
    spec = {
        "name": "tracked",
        "method": "sft",
        "model": str(tiny_model_dir),
        "data": str(tiny.write_jsonl(tmp_path / "chats.jsonl", turns)),
        "lora": False,
        "sft": {**SMALL, "max_steps": 150, "learning_rate": 0.01, "save_steps": 100},
        "gate": {"mode": "plateau", "stop": True},
        "report_to": ["tensorboard", "trackio"],
    }
    script = render(tmp_path, spec)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "board"))
        assert here(script, "--phase", "sft") == 0
    run = tmp_path / "runs" / "tracked"
    summary, metrics = read_json(run / "summary.json"), rows(run)
    assert 40 <= summary["gate_step"] < 150
    assert [row["step"] for row in metrics if "loss" in row] == [
        *range(1, summary["gate_step"] + 1)
    ]
    assert summary["weights_sha256"] == weights_sha256(run / "model")
    assert summary["weights_sha256"] != weights_sha256(tiny_model_dir)
    assert metrics[-1]["mean_token_accuracy"] > metrics[0]["mean_token_accuracy"]
    assert list((tmp_path / "board").iterdir())
    assert (Path(os.environ["TRACKIO_DIR"]) / "tracked.db").is_file()
    assert read_json(run / "exit.json")["code"] == 0
    states = checkpoints(run / "checkpoints" / "sft").values()
    last = max(states, key=lambda state: state["global_step"])
    assert last["global_step"] == summary["gate_step"]
    kept = last["stateful_callbacks"]["carl"]
    assert kept["finished"]
    assert kept["parts"]["gate"]["step"] == summary["gate_step"]


def test_sft_trains_adapters_on_mapped_columns(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    from peft import PeftConfig
    from transformers import AutoTokenizer

    data = [{"q": row["prompt"], "a": row["answer"]} for row in tiny.questions(12)]
    Dataset.from_list(data).to_parquet(tmp_path / "rows.parquet")
    spec = {
        "name": "adapted",
        "method": "sft",
        "model": str(tiny_model_dir),
        "data": {
            "id": str(tmp_path / "rows.parquet"),
            "columns": {"prompt": "q", "answer": "a"},
        },
        "lora": {"r": 2},
        "sft": {**SMALL, "max_steps": 3},
    }
    assert here(render(tmp_path, spec), "--phase", "sft") == 0
    model = tmp_path / "runs" / "adapted" / "model"
    assert PeftConfig.from_pretrained(model).r == 2
    assert not (model / "model.safetensors").exists()
    assert AutoTokenizer.from_pretrained(model).chat_template == tiny.CHAT_TEMPLATE
    summary = read_json(model.parent / "summary.json")
    assert summary["gate_step"] is None


GRPO: dict[str, Any] = {
    "method": "grpo",
    "grpo": {**SMALL, **GROUPS, "max_steps": 4, "learning_rate": 0.001},
    "carl": {"cascade": "fixed", "carl_start": 2, "warmup_steps": 2},
}


def test_grpo_with_a_users_reward_and_carl(
    tmp_path: Path, tiny_model_dir: Path, questions: Path
) -> None:
    (tmp_path / "rewards.py").write_text(REWARDS)
    spec = {
        **GRPO,
        "name": "users",
        "model": str(tiny_model_dir),
        "data": str(questions),
        "rewards": [
            {"function": "rewards.py:letters"},
            {"name": "length", "target": 4, "weight": 0.5},
        ],
    }
    script = render(tmp_path, spec)
    assert "def share(text):" in script.read_text()
    assert here(script, "--phase", "grpo") == 0
    run = tmp_path / "runs" / "users"
    summary = read_json(run / "summary.json")
    assert (summary["stage"], summary["cascade_step"]) == ("B", 2)
    metrics = [row for row in rows(run) if "loss" in row]
    assert [row["carl/weight"] for row in metrics] == [0, 0, 0.25, 0.5]
    for row in metrics:
        assert 0 < row["rewards/letters/mean"] < 1
        assert 0 <= row["phi"] <= 1
    samples = rows(run, "samples")
    assert set(samples[0]["rewards"]) == {"letters", "length", "carl"}
    assert len(samples[0]["phi"]) == len(samples[0]["token_ids"])
    assert (run / "model" / "adapter_model.safetensors").is_file()


def test_the_control_has_no_carl_and_the_same_samples_at_first(
    tmp_path: Path, tiny_model_dir: Path, questions: Path
) -> None:
    """One flag away. Until CARL joins, both runs are one."""
    spec = {
        **GRPO,
        "name": "x",
        "model": str(tiny_model_dir),
        "data": str(questions),
        "rewards": [{"name": "pattern", "pattern": "[a-m]"}],
        "lora": False,
    }
    carl = render(tmp_path / "carl", spec)
    control = render(tmp_path / "control", spec, no_carl=True)
    assert "Cascade" in carl.read_text()
    assert "Cascade" not in control.read_text()
    for script in (carl, control):
        assert here(script, "--phase", "grpo") == 0
    runs = [script.parent / "runs" / "x" for script in (carl, control)]
    both = [[row for row in rows(run) if "loss" in row] for run in runs]
    assert "carl/weight" not in both[1][0]
    for name in ("loss", "reward", "entropy", "grad_norm"):
        assert [row[name] for row in both[0][:2]] == [row[name] for row in both[1][:2]]
        assert both[0][3][name] != both[1][3][name] or name == "loss"
    summaries = [read_json(run / "summary.json") for run in runs]
    assert "stage" not in summaries[1]
    assert summaries[0]["weights_sha256"] != summaries[1]["weights_sha256"]


PIPELINE: dict[str, Any] = {
    "method": "pipeline",
    "name": "whole",
    "sft": {**SMALL, "max_steps": 3},
    "grpo": {**GRPO["grpo"], "max_steps": 2, "learning_rate": 1e-12},
    "carl": {"cascade": "adaptive", "open_by": 1},
    "gate": {"on_miss": "continue"},
    "rewards": [{"function": "rewards.py:letters"}],
    "eval": {"items": 6, "item_pass": 0.2},
}


@pytest.mark.parametrize("lora", [False, {"r": 2}])
def test_a_pipeline_goes_from_phase_to_phase(
    tmp_path: Path, tiny_model_dir: Path, questions: Path, lora: Any
) -> None:
    (tmp_path / "rewards.py").write_text(REWARDS)
    given = {"model": str(tiny_model_dir), "data": str(questions), "lora": lora}
    script = render(tmp_path, {**PIPELINE, **given})
    module, run = load(script), tmp_path / "runs" / "whole"
    assert here(script, "--phase", "sft", module=module) == 0
    assert read_json(run / "summary.json")["gate_step"] is None
    started = weights_sha256(run / "checkpoints" / "sft" / "model")
    if lora is False:  # at a learning rate of nothing, GRPO ends where it started
        assert started != weights_sha256(tiny_model_dir)
    assert here(script, "--phase", "grpo", module=module) == 0
    ended = {
        path: {
            name: tensor
            for file in path.glob("*.safetensors")
            for name, tensor in load_tensors(file).items()
        }
        for path in (run / "checkpoints" / "sft" / "model", run / "model")
    }
    first, last = ended.values()
    assert first.keys() == last.keys()
    for name, tensor in first.items():
        assert torch.allclose(tensor, last[name], atol=1e-6)
    code = here(script, "--phase", "eval", module=module)
    summary = read_json(run / "summary.json")
    assert summary["verdict"] == "INCONCLUSIVE"
    assert code == 3
    assert summary["evaluation"]["items"] == 6
    assert summary["stage"] == "B"
    assert read_json(run / "exit.json") == {"code": 3, "phase": "eval"}
    trained = {row["prompt"][0]["content"] for row in rows(run, "samples")}
    held_out = {row["prompt"] for row in tiny.questions(24)[-6:]}
    assert trained <= {row["prompt"] for row in tiny.questions(24)[:-6]} - held_out


def load_tensors(path: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    tensors: dict[str, torch.Tensor] = load_file(path)
    return tensors


@pytest.mark.parametrize("method", ["sft", "grpo", "pipeline"])
def test_a_dry_run_and_a_self_test_spend_nothing(
    tmp_path: Path, tiny_model_dir: Path, questions: Path, method: str, capsys: Any
) -> None:
    (tmp_path / "rewards.py").write_text(REWARDS)
    given = {"model": str(tiny_model_dir), "data": str(questions), "method": method}
    spec = {key: PIPELINE[key] for key in PIPELINE if key in ("sft", "grpo", "rewards")}
    if method == "sft":
        spec = {"sft": PIPELINE["sft"]}
    elif method == "grpo":
        spec.pop("sft")
    else:
        spec["eval"] = PIPELINE["eval"]
    script = render(tmp_path, {**spec, **given, "name": "x"})
    module = load(script)
    capsys.readouterr()
    assert here(script, "--dry-run", module=module) == 0
    shown = capsys.readouterr().out
    assert '"max_steps"' in shown
    assert ("<|im_end|>\n⟧" in shown) == (method != "grpo")
    assert "<|im_start|>assistant" in shown
    assert here(script, "--self-test", module=module) == 0
    assert "self-test: OK" in capsys.readouterr().out
    assert not (tmp_path / "runs").exists()


def test_a_perturbed_vector_fails_the_self_test(tmp_path: Path, capsys: Any) -> None:
    script = render(tmp_path, {"method": "sft"})
    module = load(script)
    module.CONFIG["self_test"]["phi"][0][0] += 1e-3
    assert here(script, "--self-test", module=module) == 1
    shown = capsys.readouterr().out
    assert "FAILED" in shown
    assert "1.0e-03" in shown


@pytest.mark.parametrize("broken", ["data", "model", "column", "template"])
def test_what_is_missing_on_the_machine_is_named_without_a_traceback(
    tmp_path: Path, tiny_model_dir: Path, broken: str, capsys: Any
) -> None:
    """A script is rendered here and runs there."""
    model = tiny.save(tmp_path / "model", seed=1)
    data = tiny.write_jsonl(tmp_path / "qa.jsonl", tiny.questions(8))
    spec = {
        "method": "sft",
        "name": "x",
        "model": str(model),
        "data": {"id": str(data)},
        "sft": {**SMALL, "max_steps": 1},
    }
    script = render(tmp_path, spec)
    if broken == "data":
        data.unlink()
    elif broken == "model":
        model.rename(tmp_path / "elsewhere")
    elif broken == "column":
        tiny.write_jsonl(data, [{"text": "x"}])
    else:
        tiny.tokenizer(template=None).save_pretrained(model)
        (model / "chat_template.jinja").unlink(missing_ok=True)
        tiny.write_jsonl(data, [{"messages": [{"role": "user", "content": "x"}]}])
    capsys.readouterr()
    for arguments in (("--dry-run",), ("--phase", "sft")):
        code = here(script, *arguments)
        shown = capsys.readouterr().err
        assert "Traceback" not in shown
        assert "error: " in shown
        assert "fix: " in shown
        assert code in (2, 4)
        expected = {"data": "qa.jsonl", "model": str(model), "column": "prompt"}
        assert expected.get(broken, "chat template") in shown
