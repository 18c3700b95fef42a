"""Freezing pins what it can, and says what it cannot."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from huggingface_hub import constants

from carl_bundle.errors import (
    ConfigurationError,
    RemoteError,
    SpecError,
    UsageError,
)
from carl_bundle.spec.freeze import freeze
from carl_bundle.spec.train_spec import TrainSpec
from tests.fake_hub import COMMIT, FakeHub
from tests.spec.conftest import QWEN3, MakeModel

REWARDS = [{"name": "exact_answer"}]
TEMPLATE = "{% for m in messages %}{{ m.content }}{% endfor %}"


def spec_of(model: str, data: str = "builtin", **fields: object) -> TrainSpec:
    return TrainSpec.model_validate(
        {"model": model, "data": data, "rewards": REWARDS, **fields}
    )


def test_the_embedded_default_freezes_to_itself() -> None:
    assert freeze(TrainSpec()) == TrainSpec()


def test_a_local_model_is_described_without_network(make_model: MakeModel) -> None:
    directory = make_model(QWEN3, chat_template__jinja=TEMPLATE)
    notes: list[str] = []
    frozen = freeze(spec_of(str(directory)), notes.append).model.frozen

    assert frozen is not None
    config = (directory / "config.json").read_bytes()
    assert frozen.config_sha256 == hashlib.sha256(config).hexdigest()
    digest = hashlib.sha256(TEMPLATE.encode()).hexdigest()
    assert frozen.chat_template_sha256 == digest
    assert frozen.auto_class == "causal-lm"
    assert (frozen.vocab_size, frozen.context_length) == (320, 512)
    assert frozen.thinking == "none"
    assert notes == [f"{directory} is a local directory: its weights are not pinned"]


SWITCHED = TEMPLATE + (
    "{% if add_generation_prompt %}A:{% if enable_thinking is false %}"
    "<think></think>{% endif %}{% endif %}"
)


def test_a_chat_template_of_the_spec_is_described_for_the_models(
    make_model: MakeModel,
) -> None:
    directory = make_model(QWEN3, chat_template__jinja=TEMPLATE)
    model = {"id": str(directory), "chat_template": SWITCHED, "thinking": "off"}
    spec = TrainSpec.model_validate({"model": model, "method": "sft"})
    frozen = freeze(spec).model.frozen
    assert frozen is not None
    assert (frozen.thinking, frozen.thinking_switch) == (
        "switchable",
        "enable_thinking",
    )
    digest = hashlib.sha256(SWITCHED.encode()).hexdigest()
    assert frozen.chat_template_sha256 == digest


def test_thinking_cannot_be_switched_without_a_switch(make_model: MakeModel) -> None:
    directory = make_model(QWEN3, chat_template__jinja=TEMPLATE)
    model = {"id": str(directory), "thinking": "off"}
    with pytest.raises(SpecError) as caught:
        freeze(TrainSpec.model_validate({"model": model, "method": "sft"}))
    assert [problem.where for problem in caught.value.problems] == ["model.thinking"]


def test_a_frozen_spec_needs_neither_files_nor_network(
    make_model: MakeModel, tmp_path: Path
) -> None:
    directory = make_model(QWEN3)
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"prompt": "a", "answer": "b"}\n')
    frozen = freeze(spec_of(str(directory), str(rows)))
    (directory / "config.json").unlink()
    rows.unlink()
    document = json.loads(json.dumps(frozen.document()))

    assert freeze(TrainSpec.model_validate(document)) == frozen


def test_a_local_data_file_is_hashed_where_it_is_at_hand(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("{}\n")
    spec = TrainSpec.model_validate(
        {
            "data": str(rows),
            "sft": {"data": str(tmp_path / "gone.jsonl")},
            "rewards": REWARDS,
        }
    )
    notes: list[str] = []
    frozen = freeze(spec, notes.append)

    assert frozen.data.sha256 == hashlib.sha256(b"{}\n").hexdigest()
    assert frozen.sft.data is not None
    assert frozen.sft.data.sha256 is None
    assert len(notes) == 1
    assert "gone.jsonl is not pinned" in notes[0]


def test_a_hub_id_is_pinned_to_its_commit(hub: FakeHub) -> None:
    hub.models["org/model"] = {
        "config.json": json.dumps(QWEN3).encode(),
        "chat_template.jinja": TEMPLATE.encode(),
        "model.safetensors": b"x" * 100,
    }
    hub.datasets.add("org/rows")
    frozen = freeze(spec_of("org/model", "org/rows"))

    assert frozen.model.revision == COMMIT
    assert frozen.model.frozen is not None
    assert frozen.model.frozen.commit == COMMIT
    assert frozen.model.frozen.chat_template_sha256 is not None
    assert frozen.data.revision == COMMIT
    assert not [r for r in hub.requests if r.startswith("GET") and "safetensors" in r]


def test_a_frozen_hub_spec_asks_nothing_of_the_hub(hub: FakeHub) -> None:
    hub.models["org/model"] = {"config.json": json.dumps(QWEN3).encode()}
    hub.datasets.add("org/rows")
    frozen = freeze(spec_of("org/model", "org/rows"))
    hub.requests.clear()

    assert freeze(frozen) == frozen
    assert hub.requests == []


def test_an_unpinned_id_is_refused_offline(hub: FakeHub, offline: None) -> None:
    with pytest.raises(UsageError, match="not pinned") as caught:
        freeze(spec_of("org/model"))

    assert "--resolved" in caught.value.remedy
    assert "40-digit" in caught.value.remedy


def test_unpinned_data_is_refused_offline(hub: FakeHub, offline: None) -> None:
    with pytest.raises(UsageError, match="not pinned") as caught:
        freeze(TrainSpec(data="org/rows", method="sft"))

    assert "data.revision" in caught.value.remedy


def test_a_pinned_model_in_the_cache_is_read_offline(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.models["org/model"] = {
        "config.json": json.dumps(QWEN3).encode(),
        "chat_template.jinja": TEMPLATE.encode(),
    }
    online = freeze(spec_of("org/model"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    pinned = spec_of("org/model").model_copy(
        update={
            "model": spec_of("org/model").model.model_copy(update={"revision": COMMIT})
        }
    )

    assert freeze(pinned) == online


@pytest.mark.parametrize(
    ("model", "error", "message"),
    [
        ("org/nothing", UsageError, "there is no model 'org/nothing'"),
        ("org/closed", ConfigurationError, "gated"),
        ("org/empty", UsageError, "holds no config.json"),
        ("./no/such/directory", UsageError, "no directory"),
        ("/no/such/directory", UsageError, "no directory"),
        ("a/b/c", UsageError, "no directory"),
    ],
)
def test_a_model_that_cannot_be_read_is_explained(
    hub: FakeHub, model: str, error: type[Exception], message: str
) -> None:
    hub.gated.add("org/closed")
    hub.models["org/empty"] = {}
    with pytest.raises(error, match=message) as caught:
        freeze(spec_of(model))

    assert caught.value.remedy  # type: ignore[attr-defined]


def test_an_unknown_revision_is_explained(hub: FakeHub) -> None:
    hub.models["org/model"] = {"config.json": b"{}"}
    spec = TrainSpec.model_validate({"model": {"id": "org/model", "revision": "v9"}})
    with pytest.raises(UsageError, match="no revision 'v9'"):
        freeze(spec)


def test_a_hub_that_does_not_answer_is_a_remote_error(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(RemoteError, match="does not answer"):
        freeze(spec_of("org/model"))


@pytest.mark.parametrize("data", ["rows.csv/../x", "./rows", "/no/dir"])
def test_data_that_is_neither_file_nor_repository_is_refused(data: str) -> None:
    with pytest.raises(SpecError, match=r"data\.id"):
        freeze(TrainSpec(data=data, method="sft"))


def test_a_directory_of_data_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="is a directory"):
        freeze(TrainSpec(data=str(tmp_path), method="sft"))


def test_a_local_directory_has_no_revision(make_model: MakeModel) -> None:
    directory = str(make_model(QWEN3))
    with pytest.raises(SpecError, match=r"model\.revision"):
        freeze(
            TrainSpec.model_validate({"model": {"id": directory, "revision": "main"}})
        )


def test_what_is_found_must_go_with_the_spec(make_model: MakeModel) -> None:
    directory = str(make_model(QWEN3))
    with pytest.raises(SpecError, match="context of 512"):
        freeze(spec_of(directory, sft={"max_length": 1024}))


@pytest.mark.parametrize(
    ("method", "message"),
    [("higgs", "cannot be trained"), ("a-new-one", "cannot be trained")],
)
def test_weights_that_cannot_be_trained_are_refused(
    make_model: MakeModel, method: str, message: str
) -> None:
    config = {**QWEN3, "quantization_config": {"quant_method": method}}
    with pytest.raises(SpecError, match=message):
        freeze(spec_of(str(make_model(config))))


def test_adapters_on_quantised_weights_are_allowed(make_model: MakeModel) -> None:
    config = {**QWEN3, "quantization_config": {"quant_method": "gptq", "bits": 4}}
    directory = str(make_model(config))
    frozen = freeze(spec_of(directory)).model.frozen

    assert frozen is not None
    assert frozen.quantization == "gptq"
    with pytest.raises(SpecError, match="only adapters can train"):
        freeze(spec_of(directory, lora=False))
