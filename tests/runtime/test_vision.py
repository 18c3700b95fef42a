"""Images in rows, the tokens that stand for them, and the scores that see them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from carl_runtime_min.data import file_rows, prepared, sft_rows, within
from carl_runtime_min.errors import CarlError, UsageError
from carl_runtime_min.grpo import CoherenceReward, CoherentPolicy, ReusedScores
from carl_runtime_min.lora import lora_targets
from carl_runtime_min.models import add_adapter, load_model
from carl_runtime_min.vision import (
    SeesImages,
    TextLoss,
    load_processor,
    show_images,
    stored_images,
    with_images,
)
from tests import tiny, tiny_vision, trainers

MAKERS = {"qwen": tiny_vision.qwen, "gemma": tiny_vision.gemma}
PARTS = {"gradient_accumulation_steps": 2}
PROMPT = {"columns": {"prompt": "prompt", "image": "image"}}


@pytest.fixture(scope="module", params=MAKERS)
def folder(request: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return MAKERS[request.param](tmp_path_factory.mktemp("vision") / request.param)


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return load_processor(model_source(tiny_vision.qwen(tmp_path_factory.mktemp("q"))))


def model_source(folder: Path, **given: Any) -> dict[str, Any]:
    named = {"id": str(folder), "tokenizer": str(folder), "tokenizer_options": {}}
    named["class"] = transformers.AutoConfig.from_pretrained(folder).architectures[0]
    return {**named, "adapter": False, "options": {"dtype": "float32"}, **given}


def loaded(path: Path, processor: Any, shape: Any = prepared, **given: Any) -> Any:
    """Rows as a script gets them."""
    source = tiny_vision.source(path, **{**PROMPT, **given})
    rows = stored_images(file_rows(source), source)
    return with_images(shape(rows, source, processor), source, processor)


def exact(model: Any, processor: Any, prompt: Any, tokens: list[int]) -> torch.Tensor:
    """(log p, H) of each token, [2, T]: a plain forward of one row, in float64."""
    render = processor.apply_chat_template
    asked = render(
        [prompt],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
        return_tensors="pt",
    )
    start, inputs = asked["input_ids"].shape[1], {}
    for name, values in asked.items():
        values = values.double() if values.is_floating_point() else values
        if values.shape == asked["input_ids"].shape:  # by token
            rest = torch.tensor([tokens]) if name == "input_ids" else None
            fill = int(name == "attention_mask")
            rest = torch.full((1, len(tokens)), fill) if rest is None else rest
            values = torch.cat([values, rest], 1)
        inputs[name] = values
    kind = type(model)
    copy = kind(model.config).double().eval()
    copy.load_state_dict(model.state_dict())
    with torch.no_grad():
        logits = copy(**inputs).logits[0, start - 1 : -1]
    log_p = logits.log_softmax(-1)  # [T, V]
    entropy = -(log_p.exp() * log_p).sum(-1)
    return torch.stack([log_p[range(len(tokens)), tokens], entropy])


class Witness(CoherenceReward):
    """R_CARL, noting what it was given and what the model says at that moment."""

    def __init__(self, model: Any, processor: Any) -> None:
        super().__init__(320, trainers.WEIGHTS)
        self.model, self.processor, self.rows = model, processor, []

    def __call__(self, completion_ids: list[Any], **given: Any) -> list[float | None]:
        rows = zip(given["prompts"], completion_ids, strict=True)
        for i, (prompt, tokens) in enumerate(rows):
            found = torch.stack([given["token_logps"][i], given["token_entropies"][i]])
            truth = exact(self.model, self.processor, prompt, tokens)
            self.rows.append((found.double(), truth, prompt, tokens))
        return super().__call__(completion_ids, **given)


@pytest.mark.parametrize(
    ("mixin", "given"),
    [
        (CoherentPolicy, {}),
        (CoherentPolicy, {"per_device_train_batch_size": 4, **PARTS}),
        (ReusedScores, {"method": "RLOO"}),
    ],
    ids=["one pass", "in parts", "reused"],
)
def test_the_field_is_that_of_a_plain_forward_with_the_images(
    tmp_path: Path, folder: Path, mixin: type, given: dict[str, Any]
) -> None:
    source = model_source(folder)
    model, processor = load_model(source), load_processor(source)
    rows = loaded(tiny_vision.clicks(tmp_path), processor)
    witness = Witness(model, processor)
    trainer = trainers.grpo(
        tmp_path / "run",
        type("Seeing", (SeesImages, mixin), {}),
        model=model,
        carl=witness,
        rows=rows,
        words=processor,
        samples_every=1,
        max_steps=1,
        max_completion_length=24,
        **given,
    )
    image, passes = model.config.image_token_id, []

    def watch(module: Any, _: Any, inputs: dict[str, Any]) -> None:
        if "labels" in inputs:  # a pass that scores, TRL's or ours
            types = [inputs[n] for n in inputs if n.endswith("token_type_ids")]
            aligned = torch.equal(types[0] == 1, inputs["input_ids"] == image)
            passes.append((torch.is_grad_enabled(), aligned))

    model.register_forward_pre_hook(watch, with_kwargs=True)
    trainer.train()
    assert set(passes) == {(False, True), (True, True)}
    assert len(witness.rows) == 8
    assert len({len(tokens) for _, _, _, tokens in witness.rows}) > 1
    for found, truth, _, _ in witness.rows:
        assert torch.allclose(found, truth, atol=2e-4)
    _, truth, prompt, tokens = witness.rows[0]
    for part in prompt[0]["content"]:
        if part["type"] == "image":
            part["image"] = tiny_vision.picture(5)
    other = exact(trainer.model, processor, prompt, tokens)
    assert (other - truth).abs().max() > 0.01
    assert "PIL" not in (tmp_path / "run" / "samples.jsonl").read_text()


def test_a_row_gets_a_place_for_its_image_its_length_and_its_size(
    tmp_path: Path, folder: Path
) -> None:
    processor = load_processor(model_source(folder))
    rows = loaded(tiny_vision.clicks(tmp_path), processor, system_prompt="Look.")
    system, question = rows[1]["prompt"]
    assert system["content"] == [{"type": "text", "text": "Look."}]
    assert [part["type"] for part in question["content"]] == ["image", "text"]
    image = rows[1]["images"][0]
    assert (rows[1]["width"], rows[1]["height"]) == image.size == (32, 32)
    assert "completion" not in rows.column_names  # or TRL would take it for a talk
    text = processor.apply_chat_template(
        rows[1]["prompt"], add_generation_prompt=True, tokenize=False
    )
    inputs = processor(images=[image], text=[text], add_special_tokens=False)
    assert rows[1]["tokens"] == len(inputs["input_ids"][0]) > len(question["content"])


def test_rows_that_are_too_long_with_their_images_are_left_out(
    tmp_path: Path, qwen: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny_vision.clicks(tmp_path)
    rows = loaded(path, qwen)
    longest = sorted(rows["tokens"])[3]
    source = tiny_vision.source(path, longest=longest)
    kept = within(rows, rows["tokens"], source)
    assert 0 < len(kept) < len(rows)
    assert max(kept["tokens"]) == longest
    assert f"have over {longest} tokens: left out" in capsys.readouterr().out
    show_images(kept[0])
    assert "its images: 24 x 32; " in capsys.readouterr().out


def stored_as(kind: str, path: Path, target: Path) -> Path:
    """The rows of `path` again, their images kept in another way."""
    from datasets import Dataset, Image, List, load_dataset

    rows = load_dataset("json", data_files=str(path), split="train")
    files = [path.parent / name for name in rows["image"]]
    if kind == "lists of paths":
        lists = [[str(file), str(file)] for file in files]
        return tiny.write_jsonl(
            target / "rows.jsonl",
            [{"prompt": "compare", "image": names} for names in lists],
        )
    data = [file.read_bytes() for file in files]
    values: list[Any] = [{"bytes": one, "path": None} for one in data]
    values = data if kind == "bytes" else values
    made = Dataset.from_dict({"prompt": rows["prompt"], "image": values})
    if kind == "an image feature":
        made = made.cast_column("image", Image())
    if kind == "lists of a feature":
        made = Dataset.from_dict(
            {"prompt": rows["prompt"], "image": [[one, one] for one in values]}
        ).cast_column("image", List(Image()))
    made.to_parquet(target / "rows.parquet")
    return target / "rows.parquet"


@pytest.mark.parametrize(
    "kind",
    ["bytes", "structs", "an image feature", "lists of paths", "lists of a feature"],
)
def test_images_are_read_however_they_are_stored(
    tmp_path: Path, qwen: Any, kind: str
) -> None:
    path = stored_as(kind, tiny_vision.clicks(tmp_path / "a"), tmp_path)
    ours = "images" if kind.startswith("lists") else "image"
    rows = loaded(path, qwen, columns={"prompt": "prompt", ours: "image"})
    assert len(rows) == 8
    for number, row in enumerate(rows):
        assert len(row["images"]) == (2 if ours == "images" else 1)
        for image in row["images"]:
            assert image.tobytes() == tiny_vision.picture(number).tobytes()


def broken(kind: str, path: Path) -> dict[str, Any]:
    """Spoil row 3 of the clicks in `path`, or the column."""
    import json

    rows = [json.loads(line) for line in path.read_text().splitlines()]
    picture = path.parent / rows[2]["image"]
    if kind == "torn":
        picture.write_bytes(picture.read_bytes()[:60])
    elif kind == "text":
        picture.write_text("no picture")
    elif kind == "absent":
        picture.unlink()
    elif kind == "address":
        rows[2]["image"] = "https://example.org/x.png"
    elif kind == "none":
        rows[2]["image"] = None
    elif kind == "numbers":
        rows = [{**row, "image": 3} for row in rows]
    elif kind == "lists":
        rows = [{**row, "image": [row["image"]]} for row in rows]
    parts = {"two places": ["image", "image", "text"], "a video": ["video", "text"]}
    if kind in parts:
        for row in rows:
            content = [{"type": one, "text": "x"} for one in ["image", "text"]]
            row["prompt"] = [{"role": "user", "content": content}]
        content = [{"type": one, "text": "x"} for one in parts[kind]]
        rows[2]["prompt"] = [{"role": "user", "content": content}]
    tiny.write_jsonl(path, rows)
    return (
        {"columns": {"prompt": "prompt", "image": "picture"}} if kind == "name" else {}
    )


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("torn", "row 3, column 'image': "),
        ("text", "row 3, column 'image': cannot identify"),
        ("absent", "row 3, column 'image': .*No such file"),
        ("address", "row 3, column 'image': .*No such file"),
        ("none", "row 3, column 'image': no image"),
        ("numbers", r"column 'image' holds Value\('int64'\)"),
        ("lists", "column 'image' holds List"),
        ("two places", "row 3, .*messages have 2 places for 1 images"),
        ("a video", "row 3, .*a message holds {'type': 'video'"),
        ("name", "no column 'picture'"),
    ],
)
def test_bad_images_are_refused_by_row_and_column(
    tmp_path: Path, qwen: Any, kind: str, said: str
) -> None:
    path = tiny_vision.clicks(tmp_path)
    given = broken(kind, path)
    with pytest.raises(UsageError, match=said) as caught:
        loaded(path, qwen, **given)
    assert caught.value.remedy


def test_a_row_of_the_last_ones_is_named_as_such(tmp_path: Path, qwen: Any) -> None:
    path = tiny_vision.clicks(tmp_path)
    (tmp_path / "pictures" / "6.png").unlink()
    with pytest.raises(UsageError, match="row 2 of the last 3, column"):
        loaded(path, qwen, part=[-3, None])


def test_sft_learns_rows_without_images_beside_rows_with(
    tmp_path: Path, folder: Path
) -> None:
    from trl.trainer.sft_trainer import DataCollatorForVisionLanguageModeling

    processor = load_processor(model_source(folder))
    path = tiny_vision.clicks(tmp_path)
    broken("none", path)
    rows = loaded(path, processor, sft_rows, columns={"image": "image"})
    assert [len(row["images"]) for row in rows][1:4] == [1, 0, 1]
    collate = DataCollatorForVisionLanguageModeling(processor)
    image = processor.tokenizer.convert_tokens_to_ids(tiny_vision.IMAGE)
    batch = TextLoss(collate, image)([rows[2], rows[3]])
    learned = batch["labels"] != -100
    assert (batch["input_ids"] == image).any()
    assert torch.equal(
        learned, (batch["input_ids"] != image) & (batch["attention_mask"] == 1)
    )


def test_adapters_stay_out_of_the_tower(folder: Path) -> None:
    model = load_model(model_source(folder))
    names = lora_targets(model)
    assert names
    assert not [n for n in names if "visual" in n or "vision" in n or "projector" in n]
    settings = {"r": 2, "lora_alpha": 4.0}
    adapted = add_adapter(model, names, settings)
    trained = [n for n, p in adapted.named_parameters() if p.requires_grad]
    assert all("language_model" in name for name in trained)


def test_a_model_of_text_has_no_processor_of_images(tiny_model_dir: Path) -> None:
    with pytest.raises(UsageError, match="no image processor"):
        load_processor(model_source(tiny_model_dir))


def test_a_library_that_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(*_: Any, **__: Any) -> None:
        raise ImportError("\nX requires the Torchvision library\nbut it is not there")

    monkeypatch.setattr(transformers.AutoProcessor, "from_pretrained", absent)
    with pytest.raises(CarlError, match="requires the Torchvision") as caught:
        load_processor({"tokenizer": "x", "tokenizer_options": {}})
    assert (caught.value.exit_code, "uv run" in caught.value.remedy) == (4, True)


def test_the_template_of_the_spec_is_that_of_processor_and_tokenizer(
    tmp_path: Path,
) -> None:
    source = model_source(tiny_vision.gemma(tmp_path))
    template = {"text": "{{ deep }}", "switch": "deep", "thinking": False}
    processor = load_processor({**source, "template": template})
    turn = [{"role": "user", "content": []}]
    assert processor.apply_chat_template(turn, tokenize=False) == "False"
    assert processor.tokenizer.chat_template == processor.chat_template


def test_prompts_are_not_padded_by_the_processor(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Gemma 4's pads by itself, and TRL takes what it returns for the prompts."""
    monkeypatch.setattr(
        transformers.Gemma3Processor, "text_kwargs", {"padding": True}, raising=False
    )
    processor = load_processor(model_source(tiny_vision.gemma(tmp_path)))
    talks = [
        [{"role": "user", "content": [{"type": "text", "text": text}]}]
        for text in ("a", "abcdefgh")
    ]
    ids = processor.apply_chat_template(talks, tokenize=True, return_dict=True)
    assert len({len(row) for row in ids["input_ids"]}) == 2


def test_tools_that_a_model_would_not_be_shown_are_refused(
    tmp_path: Path, qwen: Any
) -> None:
    path = tiny_vision.clicks(tmp_path, tools=[{"name": "click"}])
    assert len(loaded(path, qwen)) == 8  # those may be for rewards
    qwen.chat_template += "{{ tools }}"
    with pytest.raises(UsageError, match="shows no tools"):
        loaded(path, qwen, sft_rows, columns={"image": "image"})
