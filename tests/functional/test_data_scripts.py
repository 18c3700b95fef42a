"""Rows as scripts read them: mixed, streamed, packed, or refused in good time."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from carl_bundle.errors import SpecError
from carl_runtime_min.run import read_json
from tests import tiny
from tests.functional.test_methods import logged, preferences, spec_of
from tests.scripts import here, load, render, stop_in_step

METHODS = ["sft", "grpo", "rloo", "dpo", "kto", "orpo"]


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def mixed_spec(method: str, model: Path, folder: Path) -> dict[str, Any]:
    """The rows of `spec_of` and five of them in another file, drawn three times."""
    spec = spec_of(method, model, folder)
    more = folder / "more.jsonl"
    more.write_text("\n".join(lines(preferences(method, folder))[:5]) + "\n")
    spec["data"] = [spec["data"], {"id": str(more), "weight": 3}]
    spec[method] |= {"max_steps": 1}
    return spec


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_on_a_mixture(
    tmp_path: Path, tiny_model_dir: Path, method: str, capsys: Any
) -> None:
    spec = mixed_spec(method, tiny_model_dir, tmp_path)
    script = render(tmp_path, spec)
    assert here(script, "--phase", method) == 0
    shown = capsys.readouterr().out
    assert "rows.jsonl 16 (has 16)" in shown
    assert "(has 5)" in shown
    assert len(logged(tmp_path / "runs" / "x")) == 1
    assert here(script, "--dry-run") == 0
    assert "one row" in capsys.readouterr().out


def test_a_mixture_takes_the_built_in_task(
    tmp_path: Path, tiny_model_dir: Path, capsys: Any
) -> None:
    spec = mixed_spec("sft", tiny_model_dir, tmp_path)
    spec["data"][1] = {"id": "builtin", "limit": 6}
    assert here(render(tmp_path, spec), "--phase", "sft") == 0
    assert "builtin " in capsys.readouterr().out


def test_rows_that_are_evaluated_are_not_trained_on(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    rows = [{"prompt": f"row {i}", "answer": "a"} for i in range(12)]
    path = tiny.write_jsonl(tmp_path / "a.jsonl", rows)
    other = tiny.write_jsonl(tmp_path / "b.jsonl", [{"prompt": "b", "answer": "a"}])
    spec = spec_of("sft", tiny_model_dir, tmp_path)
    spec["data"] = [str(path), str(other)]
    spec["eval"] = {"every": 2, "items": 4, "data": str(path)}
    module = load(render(tmp_path, spec))
    words, settings = tiny.tokenizer(), module.CONFIG["sft"]

    def asked(given: dict[str, Any]) -> set[str]:
        return {row["prompt"][0]["content"] for row in module.sft_data(words, given)}

    held = {f"row {i}" for i in range(8, 12)}
    assert asked(settings["validation"]) == held
    assert asked(settings) == {"b", *(f"row {i}" for i in range(8))}


@pytest.mark.parametrize("form", ["file", "mixture", "packed"])
def test_a_stopped_stream_ends_as_one_that_was_not(
    tmp_path: Path, tiny_model_dir: Path, form: str
) -> None:
    """Also after the end of the file, where it starts over."""
    digests = []
    for name in ("whole", "stopped"):
        folder = tmp_path / name
        folder.mkdir()
        spec = spec_of("sft", tiny_model_dir, folder, lora=False)
        data = {"id": spec["data"], "streaming": True}
        more = {"id": str(tmp_path / "more.jsonl"), "streaming": True, "weight": 2}
        tiny.write_jsonl(tmp_path / "more.jsonl", tiny.questions(5))
        spec["data"] = [data, more] if form == "mixture" else data
        spec["sft"] |= {"max_steps": 5, "too_long": "drop"}
        spec["sft"] |= {"trainer": {"packing": form == "packed"}}
        run = folder / "runs" / "x"
        script = render(folder, spec)
        if name == "stopped":
            run.mkdir(parents=True)
            stop_in_step(module := load(script), 2)
            assert here(script, "--phase", "sft", module=module) == 85
            assert [row["step"] for row in logged(run)] == [1]
            (run / "stop").unlink()
        assert here(script, "--phase", "sft") == 0
        assert [row["step"] for row in logged(run)] == [1, 2, 3, 4, 5]
        digests.append(read_json(run / "summary.json")["weights_sha256"])
    assert digests[0] == digests[1]


def test_a_stream_is_evaluated_on_other_rows(
    tmp_path: Path, tiny_model_dir: Path, capsys: Any
) -> None:
    held = tiny.write_jsonl(tmp_path / "held.jsonl", tiny.questions(9))
    spec = spec_of("sft", tiny_model_dir, tmp_path)
    spec["data"] = {"id": spec["data"], "streaming": True}
    spec["eval"] = {"every": 2, "items": 4, "data": str(held)}
    script = render(tmp_path, spec)
    assert here(script, "--phase", "sft") == 0
    text = (tmp_path / "runs" / "x" / "metrics.jsonl").read_text()
    assert text.count("eval_loss") == 2
    assert here(script, "--dry-run") == 0
    assert "one row" in capsys.readouterr().out


@pytest.mark.parametrize("answers_only", [False, True])
def test_packed_rows_are_learned_as_if_they_were_alone(
    tmp_path: Path, answers_only: bool
) -> None:
    """One step over all rows: the same loss, token accuracy and field."""
    marked = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }} "
        "{% if m['role'] == 'assistant' %}{% generation %}{{ m['content'] }}<|im_end|>"
        "{% endgeneration %}{% else %}{{ m['content'] }}<|im_end|>{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant {% endif %}"
    )
    model, steps = tiny.save(tmp_path / "model", template=marked), []
    for packing in (False, True):
        folder = tmp_path / str(packing)
        folder.mkdir()
        spec = spec_of("sft", model, folder, lora=False)
        trainer = {"packing": packing, "assistant_only_loss": answers_only}
        size = 1 if packing else 8
        spec["data"] = {"id": spec["data"], "limit": 8}
        spec["sft"] |= {"max_steps": 1, "max_length": 256, "trainer": trainer}
        spec["sft"] |= {"per_device_train_batch_size": size}
        assert here(render(folder, spec), "--phase", "sft") == 0
        [step] = logged(folder / "runs" / "x")
        steps.append(step)
    for name in ("loss", "mean_token_accuracy", "entropy", "phi", "num_tokens"):
        assert steps[1][name] == pytest.approx(steps[0][name], rel=2e-3), name


def test_a_gate_that_ends_the_phase_is_evaluated_first(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    """Else the best checkpoint could miss the end."""
    spec = spec_of("sft", tiny_model_dir, tmp_path)
    spec["eval"] = {"every": 2, "items": 4}
    spec["sft"] |= {"max_steps": 9, "save_steps": 2}
    spec["gate"] = {"threshold": 1e-9, "window": 3, "min_above": 3, "stop": True}
    spec["gate"] |= {"metric": "entropy"}
    assert here(render(tmp_path, spec), "--phase", "sft") == 0
    rows = map(json.loads, lines(tmp_path / "runs" / "x" / "metrics.jsonl"))
    assert [row["step"] for row in rows if "eval_loss" in row] == [2, 3]


def refused(folder: Path, spec: dict[str, Any], capsys: Any) -> str:
    """What a script says of its rows; the model has no weights to load."""
    script = render(folder, spec)
    method = spec["method"]
    assert here(script, "--phase", method) == 2
    return str(capsys.readouterr().err)


ROW: dict[str, dict[str, Any]] = {
    "sft": {"prompt": "q", "answer": "a"},
    "grpo": {"prompt": "q", "answer": "a"},
    "rloo": {"prompt": "q", "answer": "a"},
    "dpo": {"prompt": "q", "chosen": "a", "rejected": "b"},
    "orpo": {"prompt": "q", "chosen": "a", "rejected": "b"},
    "kto": {"prompt": "q", "completion": "a", "label": True},
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("mistake", ["missing", "empty", "long"])
def test_bad_rows_are_refused_before_any_weights_are_read(
    tmp_path: Path, method: str, mistake: str, capsys: Any
) -> None:
    model = tiny.save(tmp_path / "model")
    (model / "model.safetensors").unlink()
    spec, good = spec_of(method, model, tmp_path), ROW[method]
    mistaken = {
        "missing": [{**good, "prompt": None}],
        "empty": [{**good, "prompt": []}],
        "long": [{**good, "prompt": "x" * 300}],
    }[mistake]
    if mistake == "empty":
        good = {**good, "prompt": [{"role": "user", "content": "q"}]}
    spec[method]["too_long"] = "refuse"
    tiny.write_jsonl(tmp_path / "rows.jsonl", [good, good, *mistaken])
    said = refused(tmp_path, spec, capsys)
    assert "rows.jsonl" in said
    assert "row 3" in said
    assert "fix: " in said
    assert ("max_length" if mistake == "long" else "'prompt'") in said


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"trainer": {"entropy_coef": 0.1}}, "grpo.trainer.entropy_coef"),
        ({"trainer": {"use_adaptive_entropy": True}}, "use_adaptive_entropy"),
        ({"per_device_train_batch_size": 6}, "grpo.num_generations"),
        ({"max_length": 100_000}, "exceed the model's context of 256"),
    ],
)
def test_settings_that_cannot_train_are_refused_by_the_bundler(
    tmp_path: Path, tiny_model_dir: Path, given: dict[str, Any], named: str
) -> None:
    spec = spec_of("grpo", tiny_model_dir, tmp_path)
    spec["grpo"] |= given
    with pytest.raises(SpecError, match=named) as caught:
        render(tmp_path, spec)
    assert all(problem.remedy for problem in caught.value.problems)
