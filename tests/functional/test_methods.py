"""Every method of training on a user's model and rows, as its script does it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from carl_runtime_min.run import read_json, sha256, weights_sha256
from tests import tiny
from tests.scripts import GROUPS, SMALL, here, load, render, stop_in_step

TALK = [{"role": "user", "content": "one more letter?"}]
RIGHT, WRONG = ({"role": "assistant", "content": text} for text in ("yes", "never"))


def preferences(method: str, folder: Path) -> Path:
    """A file of rows for a method: plain text, or conversations with their prompt."""
    questions = tiny.questions(16)
    if method == "dpo":
        rows = [{"chosen": [*TALK, RIGHT], "rejected": [*TALK, WRONG]}] * 16
    elif method == "orpo":
        rows = [{**q, "chosen": q["answer"], "rejected": "no"} for q in questions]
    elif method == "kto":
        rows = [
            {"prompt": q["prompt"], "completion": q["answer"], "label": i % 3 == 0}
            for i, q in enumerate(questions)
        ]
    else:
        rows = (
            questions
            if method != "sft"
            else [{**q, "completion": q["answer"]} for q in questions]
        )
    return tiny.write_jsonl(folder / "rows.jsonl", rows)


def spec_of(method: str, model: Path, folder: Path, **fields: Any) -> dict[str, Any]:
    phase = {**SMALL, "max_steps": 4, "learning_rate": 0.003}
    rewards = {"rewards": [{"name": "pattern", "pattern": "[a-m]"}]}
    sampled = method in ("grpo", "rloo")
    return {
        "name": "x",
        "method": method,
        "model": str(model),
        "data": str(preferences(method, folder)),
        method: {**phase, **(GROUPS if sampled else {})},
        **(rewards if sampled else {}),
        **fields,
    }


def logged(run: Path) -> list[dict[str, Any]]:
    lines = (run / "metrics.jsonl").read_text().splitlines()
    return [row for row in map(json.loads, lines) if "loss" in row]


@pytest.mark.parametrize("lora", [False, {"r": 2}])
@pytest.mark.parametrize("method", ["dpo", "kto", "orpo"])
def test_preferences_train_and_are_measured(
    tmp_path: Path, tiny_model_dir: Path, method: str, lora: Any
) -> None:
    script = render(tmp_path, spec_of(method, tiny_model_dir, tmp_path, lora=lora))
    assert here(script, "--phase", method) == 0
    run = tmp_path / "runs" / "x"
    steps = logged(run)
    assert [row["step"] for row in steps] == [1, 2, 3, 4]
    for row in steps:
        found = [row[f"phi/{kind}"] for kind in ("chosen", "rejected")]
        assert all(0 < phi < 1 for phi in found)
        assert found[0] != found[1]
    if method == "dpo":  # equal to the reference at first, better after it has learned
        assert steps[0]["loss"] == pytest.approx(0.6931, abs=1e-3)
        assert steps[-1]["rewards/margins"] > steps[0]["rewards/margins"]
    summary = read_json(run / "summary.json")
    assert summary["weights_sha256"] == weights_sha256(run / "model")
    assert (run / "model" / "adapter_model.safetensors").exists() == bool(lora)
    assert not (run / "model" / "ref").exists()  # TRL's own copy of the adapters


@pytest.mark.parametrize("method", ["dpo", "rloo"])
def test_a_stopped_run_ends_as_one_that_was_not(
    tmp_path: Path, tiny_model_dir: Path, method: str
) -> None:
    """Stopped at the beginning of the second step, which is then given up."""
    digests = []
    for name in ("whole", "stopped"):
        folder = tmp_path / name
        folder.mkdir()
        script = render(folder, spec_of(method, tiny_model_dir, folder, lora=False))
        run = folder / "runs" / "x"
        if name == "stopped":
            run.mkdir(parents=True)
            stop_in_step(module := load(script), 2)
            assert here(script, "--phase", method, module=module) == 85
            assert [row["step"] for row in logged(run)] == [1]
            (run / "stop").unlink()
        assert here(script, "--phase", method) == 0
        assert [row["step"] for row in logged(run)] == [1, 2, 3, 4]
        digests.append(read_json(run / "summary.json")["weights_sha256"])
    assert digests[0] == digests[1]


@pytest.mark.parametrize(("method", "at"), [("sft", 4), ("dpo", 3), ("grpo", 3)])
def test_the_best_checkpoint_is_the_result_and_patience_survives_a_stop(
    tmp_path: Path, tiny_model_dir: Path, method: str, at: int
) -> None:
    """A rate that ruins the model: it never gets better than after the first steps."""
    spec = spec_of(method, tiny_model_dir, tmp_path, lora=False)
    spec |= {
        "eval": {"every": 2, "items": 4, "patience": 2},
        "carl": {"enabled": False},
    }
    spec[method] |= {"max_steps": 40, "learning_rate": 0.5, "save_total_limit": 1}
    spec[method] |= {"lr_scheduler_type": "constant", "warmup_steps": 0}
    del spec[method]["save_steps"]
    script = render(tmp_path, spec)
    run = tmp_path / "runs" / "x"
    run.mkdir(parents=True)
    module = load(script)
    stop_in_step(module, at + 1)
    assert here(script, "--phase", method, module=module) == 85
    assert [row["step"] for row in logged(run)] == [*range(1, at + 1)]
    kept = run / "checkpoints" / method
    assert (kept / f"checkpoint-{at}").is_dir()  # beside the best one
    (run / "stop").unlink()
    assert here(script, "--phase", method, module=module) == 0
    lines = (run / "metrics.jsonl").read_text().splitlines()
    name = "eval_reward" if method == "grpo" else "eval_loss"
    scores = {r["step"]: r[name] for r in map(json.loads, lines) if name in r}
    sign = 1 if method == "grpo" else -1
    best = max(scores, key=lambda step: (sign * scores[step], -step))
    assert list(scores) == list(range(2, min(best + 4, 40) + 1, 2))
    assert method == "dpo" or max(scores) < 40
    summary = read_json(run / "summary.json")
    assert (summary["best_global_step"], summary["best_metric"]) == (best, scores[best])
    best_weights = kept / f"checkpoint-{best}" / "model.safetensors"
    assert weights_sha256(run / "model") == sha256(best_weights)


def test_rloo_lets_carl_in(tmp_path: Path, tiny_model_dir: Path) -> None:
    cascade = {"cascade": "fixed", "carl_start": 2, "warmup_steps": 2}
    spec = spec_of("rloo", tiny_model_dir, tmp_path, carl=cascade, lora={"r": 2})
    spec["rloo"]["beta"] = 0.05
    assert here(render(tmp_path, spec), "--phase", "rloo") == 0
    steps = logged(tmp_path / "runs" / "x")
    assert [row["carl/weight"] for row in steps] == [0, 0, 0.25, 0.5]
    assert [row["rewards/carl/mean"] is None for row in steps] == [True] * 2 + [
        False
    ] * 2
    assert all("kl" in row for row in steps)
    samples = (tmp_path / "runs" / "x" / "samples.jsonl").read_text().splitlines()
    assert set(json.loads(samples[0])["rewards"]) == {"pattern", "carl"}


@pytest.mark.parametrize("method", ["sft", "grpo", "rloo", "dpo", "kto", "orpo"])
def test_columns_are_checked_before_any_weights_are_read(
    tmp_path: Path, tiny_model_dir: Path, method: str, capsys: Any
) -> None:
    model = tiny.save(tmp_path / "model")
    spec = spec_of(method, model, tmp_path)
    script = render(tmp_path, spec)
    tiny.write_jsonl(tmp_path / "rows.jsonl", [{"text": "x"}])
    (model / "model.safetensors").unlink()
    assert here(script, "--phase", method) == 2
    shown = capsys.readouterr().err
    assert "rows.jsonl: no column" in shown
    assert "data.columns" in shown


def test_rows_without_an_answer_are_found_before_the_reward_is(
    tmp_path: Path, tiny_model_dir: Path, capsys: Any
) -> None:
    spec = spec_of("grpo", tiny_model_dir, tmp_path)
    spec["rewards"] = [{"name": "exact_answer"}]
    script = render(tmp_path, spec)
    tiny.write_jsonl(tmp_path / "rows.jsonl", [{"prompt": "1+1?"}] * 8)
    assert here(script, "--phase", "grpo") == 2
    assert "rows.jsonl: no column 'answer'" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["dpo", "kto", "orpo", "rloo"])
def test_a_dry_run_shows_what_is_learned(
    tmp_path: Path, tiny_model_dir: Path, method: str, capsys: Any
) -> None:
    script = render(tmp_path, spec_of(method, tiny_model_dir, tmp_path))
    assert here(script, "--dry-run") == 0
    shown = capsys.readouterr().out
    learned = {"dpo": ["yes", "never"], "orpo": ["no"], "kto": [], "rloo": []}
    for text in learned[method]:
        assert f"⟦{text}<|im_end|>" in shown
    assert shown.count("⟦") == {"dpo": 2, "orpo": 2, "kto": 1, "rloo": 0}[method]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("method", "bits"), [("sft", "4bit"), ("grpo", "4bit"), ("dpo", "8bit")]
)
def test_adapters_train_on_weights_in_fewer_bits(
    tmp_path: Path, method: str, bits: str
) -> None:
    """Blocks of 64 weights share a scale, which needs a model that wide."""
    shape = {"hidden_size": 128, "intermediate_size": 128, "head_dim": 64}
    model = tiny.save(tmp_path / "model", num_key_value_heads=2, **shape)
    spec = spec_of(method, model, tmp_path)
    spec["model"] = {"id": str(model), "quantize": bits}
    script = render(tmp_path, spec)
    assert '#     "bitsandbytes==' in script.read_text()
    module, dtypes = load(script), []
    fit = module.fit

    def noting(trainer: Any, *rest: Any, **named: Any) -> bool:
        layer = trainer.model.get_base_model().model.layers[0].mlp.up_proj.base_layer
        dtypes.append(str(layer.weight.dtype))
        return bool(fit(trainer, *rest, **named))

    module.fit = noting
    assert here(script, "--phase", method, module=module) == 0
    assert dtypes == ["torch.uint8" if bits == "4bit" else "torch.int8"]
    assert (tmp_path / "runs" / "x" / "model" / "adapter_model.safetensors").is_file()
    assert [row["step"] for row in logged(tmp_path / "runs" / "x")] == [1, 2, 3, 4]
