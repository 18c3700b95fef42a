"""Scripts that train on images, as users get them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from carl_runtime_min.run import read_json
from tests import tiny, tiny_vision
from tests.scripts import GROUPS, SMALL, here, load, render, run

MAKERS = {"qwen": tiny_vision.qwen, "gemma": tiny_vision.gemma}
CLICKS = [
    {"name": "click_inside", "scale": 1000},  # of sizes that the rows do not tell
    {"name": "coordinate_format", "weight": 0.5},
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("models")
    return {name: make(folder / name) for name, make in MAKERS.items()}


def spec_of(method: str, model: Path, folder: Path, **fields: Any) -> dict[str, Any]:
    """A spec of a run on clicks in `folder`."""
    sampled = method in ("grpo", "rloo")
    columns = {"image": "image", **({"bbox": "bbox"} if sampled else {})}
    spec = {
        "name": "x",
        "method": method,
        "model": str(model),
        "data": {"id": str(tiny_vision.clicks(folder)), "columns": columns},
        method: {**SMALL, "max_steps": 2, "learning_rate": 0.003},
        **fields,
    }
    if sampled:
        spec[method] |= GROUPS
        spec |= {"rewards": CLICKS}
        spec |= {"carl": {"cascade": "fixed", "carl_start": 0, "warmup_steps": 1}}
    return spec


def records(folder: Path, name: str) -> list[dict[str, Any]]:
    lines = (folder / "runs" / "x" / f"{name}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def moved(before: Path, after: Path) -> set[str]:
    """The parameters that differ between two models."""
    old, new = (load_file(path / "model.safetensors") for path in (before, after))
    assert old.keys() == new.keys()
    return {name for name in old if not old[name].equal(new[name])}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("lora", [False, {"r": 2}], ids=["all", "lora"])
@pytest.mark.parametrize("method", ["sft", "grpo"])
def test_both_kinds_of_models_train_on_images(
    tmp_path: Path, models: dict[str, Path], name: str, lora: Any, method: str
) -> None:
    spec = spec_of(method, models[name], tmp_path, lora=lora)
    script = render(tmp_path, spec)
    assert here(script, "--phase", method) == 0
    metrics = [row for row in records(tmp_path, "metrics") if "loss" in row]
    assert [row["step"] for row in metrics] == [1, 2]
    assert all(0 < row["phi"] < 1 for row in metrics)
    result = tmp_path / "runs" / "x" / "model"
    assert (result / "processor_config.json").exists()
    if lora:
        weights = load_file(result / "adapter_model.safetensors")
        assert weights
        assert not [n for n in weights if "vision" in n or "visual" in n]
    elif method == "sft":
        towers = {n for n in moved(models[name], result) if "vis" in n}
        assert towers, "no gradient reaches the images"
    if method == "grpo":
        sample = records(tmp_path, "samples")[0]
        assert len(sample["phi"]) == len(sample["token_ids"])
        assert 0 <= sample["rewards"]["click_inside"] <= 1
        assert "bytes" not in json.dumps(sample)
        assert all(row["carl/stage"] == 1 for row in metrics)


@pytest.mark.parametrize("method", ["rloo", "dpo", "kto"])
def test_the_other_methods_take_images_too(
    tmp_path: Path,
    models: dict[str, Path],
    method: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    spec = spec_of(method, models["qwen"], tmp_path)
    if method != "rloo":
        pairs = {"dpo": {"chosen": "8, 12", "rejected": "left"}, "kto": {"label": True}}
        tiny_vision.clicks(tmp_path, **pairs[method])
    script = render(tmp_path, spec)
    assert here(script, "--dry-run") == 0
    assert "its images: 24 x 32; " in capsys.readouterr().out
    assert here(script, "--phase", method) == 0
    assert [row["step"] for row in records(tmp_path, "metrics")] == [1, 2]


def test_a_run_from_the_command_line_and_its_evaluations(
    tmp_path: Path, models: dict[str, Path]
) -> None:
    spec = spec_of("sft", models["gemma"], tmp_path, eval={"every": 1, "items": 2})
    del spec["sft"]["save_steps"]
    done = run(render(tmp_path, spec))
    assert done.returncode == 0, done.stderr
    assert "eval_loss" in done.stdout
    assert len(read_json(tmp_path / "runs" / "x" / "summary.json")["weights_sha256"])


@pytest.mark.parametrize("method", ["sft", "grpo"])
def test_a_dry_run_shows_a_row_with_the_size_of_its_image(
    tmp_path: Path,
    models: dict[str, Path],
    method: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    script = render(tmp_path, spec_of(method, models["qwen"], tmp_path))
    assert here(script, "--dry-run") == 0
    shown = capsys.readouterr().out
    assert f"{tiny_vision.IMAGE}{tiny_vision.STOP}where is it?" in shown
    assert "its images: 24 x 32; " in shown


def test_a_broken_image_is_refused_before_the_model_is_loaded(
    tmp_path: Path, models: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    script = render(tmp_path, spec_of("sft", models["qwen"], tmp_path))
    (tmp_path / "pictures" / "4.png").write_text("no picture")
    module = load(script)
    module.load_model = lambda source: pytest.fail("the model was loaded")
    assert here(script, "--phase", "sft", module=module) == 2
    told = capsys.readouterr().err
    assert "row 5, column 'image'" in told
    assert "fix: mend or leave out the image" in told


def test_text_alone_has_nothing_of_images(tmp_path: Path, tiny_model_dir: Path) -> None:
    path = tiny.write_jsonl(tmp_path / "rows.jsonl", tiny.questions())
    spec = {"method": "sft", "model": str(tiny_model_dir), "data": str(path)}
    text = render(tmp_path, spec).read_text()
    assert "with_images" not in text
    assert "pillow" not in text
