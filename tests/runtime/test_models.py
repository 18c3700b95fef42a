"""The model and its tokenizer, from a directory."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from carl_bundle import TrainSpec
from carl_bundle.recipes import plan
from carl_runtime_min.errors import CarlError, UsageError
from carl_runtime_min.lora import lora_targets
from carl_runtime_min.models import (
    add_adapter,
    load_adapter,
    load_model,
    load_tokenizer,
    templated_tokenizer,
)
from tests import tiny, trainers


def source(path: Path | str, **given: Any) -> dict[str, Any]:
    options = {"revision": None, "dtype": "auto", "attn_implementation": None}
    return {
        "id": str(path),
        "class": "AutoModelForCausalLM",
        "adapter": False,
        "options": {key: given.pop(key, options[key]) for key in options},
        "tokenizer": str(path),
        "tokenizer_options": {"revision": None},
        **given,
    }


LORA = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.0, "bias": "none"}


def test_a_local_model_is_loaded_as_saved(tiny_model_dir: Path) -> None:
    model = load_model(source(tiny_model_dir))
    assert trainers.same_weights(model, tiny.model())
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    words = load_tokenizer(source(tiny_model_dir))
    assert (words.pad_token, words.eos_token) == ("<|pad|>", tiny.END)
    assert words.chat_template == tiny.CHAT_TEMPLATE


THINKING = tiny.CHAT_TEMPLATE + (
    "{% if add_generation_prompt and enable_thinking is defined and "
    "enable_thinking is false %}<think></think>{% endif %}"
)
QUESTION = [{"role": "user", "content": "why?"}]


@pytest.mark.parametrize("on", [True, False])
def test_thinking_is_switched_by_default_and_may_still_be_set(
    tmp_path: Path, on: bool
) -> None:
    tiny.tokenizer(THINKING).save_pretrained(tmp_path / "given")
    template = {"text": None, "switch": "enable_thinking", "thinking": on}
    words = templated_tokenizer(source(tmp_path / "given", template=template))
    words.save_pretrained(tmp_path / "saved")
    for one in (words, load_tokenizer(source(tmp_path / "saved"))):
        for given, silent in (({}, not on), ({"enable_thinking": not on}, on)):
            text = one.apply_chat_template(
                QUESTION, tokenize=False, add_generation_prompt=True, **given
            )
            assert text.endswith("<think></think>") == silent
            assert text.startswith("<|im_start|>user\nwhy?")


def test_a_chat_template_of_the_spec_replaces_the_models(tiny_model_dir: Path) -> None:
    template = {"text": "T:{{ messages[0].content }}", "switch": None, "thinking": None}
    words = templated_tokenizer(source(tiny_model_dir, template=template))
    assert words.apply_chat_template(QUESTION, tokenize=False) == "T:why?"


def test_of_several_chat_templates_the_default_is_meant(tmp_path: Path) -> None:
    words = tiny.tokenizer()
    words.chat_template = {"default": THINKING, "tool_use": "T"}
    words.save_pretrained(tmp_path)
    template = {"text": None, "switch": "enable_thinking", "thinking": False}
    text = templated_tokenizer(source(tmp_path, template=template)).apply_chat_template(
        QUESTION, tokenize=False, add_generation_prompt=True
    )
    assert text.startswith("<|im_start|>user\nwhy?")
    assert text.endswith("<think></think>")


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("float32", torch.float32), ("bfloat16", torch.bfloat16)],
)
def test_the_type_of_the_weights_can_be_set(
    tiny_model_dir: Path, dtype: str, expected: torch.dtype
) -> None:
    model = load_model(source(tiny_model_dir, dtype=dtype, attn_implementation="eager"))
    assert {p.dtype for p in model.parameters()} == {expected}
    assert model.config._attn_implementation == "eager"


def test_a_tokenizer_without_padding_pads_with_its_end(tmp_path: Path) -> None:
    words = tiny.tokenizer()
    words.pad_token = None
    words.save_pretrained(tmp_path)
    assert load_tokenizer(source(tmp_path)).pad_token == tiny.END


def test_a_tokenizer_of_another_place(tmp_path: Path, tiny_model_dir: Path) -> None:
    tiny.tokenizer(template="{{ messages }}").save_pretrained(tmp_path)
    chosen = source(tiny_model_dir, tokenizer=str(tmp_path))
    assert load_tokenizer(chosen).chat_template == "{{ messages }}"


@pytest.mark.parametrize("load", [load_model, load_tokenizer])
def test_a_missing_directory_is_named(tmp_path: Path, load: Any) -> None:
    with pytest.raises((CarlError, OSError), match="nowhere"):
        load(source(tmp_path / "nowhere"))


def test_the_loaders_get_what_the_spec_pins(monkeypatch: pytest.MonkeyPatch) -> None:
    commit, asked = "a" * 40, {}
    pinned = {"id": "m/m", "revision": commit, "trust_remote_code": True}
    spec = {"model": {**pinned, "dtype": "bfloat16", "attention": "sdpa"}}
    spec |= {"method": "sft", "data": "x.jsonl"}
    model = plan(TrainSpec.model_validate(spec)).config["model"]
    for kind in (transformers.AutoModelForCausalLM, transformers.AutoTokenizer):

        def note(name: str, kind: type = kind, **options: Any) -> Any:
            told = options.pop("output_loading_info", False)
            asked[kind] = (name, options)
            return (tiny.model(), {"missing_keys": set()}) if told else tiny.tokenizer()

        monkeypatch.setattr(kind, "from_pretrained", note)
    load_model(model)
    load_tokenizer(model)
    code = {"revision": commit, "trust_remote_code": True}
    weights = {**code, "dtype": "bfloat16", "attn_implementation": "sdpa"}
    assert list(asked.values()) == [("m/m", weights), ("m/m", code)]


def test_a_model_without_weights_is_named(tmp_path: Path, tiny_model_dir: Path) -> None:
    folder = tmp_path / "half"
    shutil.copytree(tiny_model_dir, folder)
    (folder / "model.safetensors").unlink()
    with pytest.raises((CarlError, OSError), match="half"):
        load_model(source(folder))


def test_adapters_are_all_that_learns_and_change_nothing_at_first(
    tiny_model_dir: Path,
) -> None:
    base = load_model(source(tiny_model_dir))
    ids = torch.arange(10)[None]
    with torch.no_grad():
        before = base(ids).logits
    model = add_adapter(base, lora_targets(base), LORA)
    learning = {n for n, p in model.named_parameters() if p.requires_grad}
    assert learning
    assert all("lora_" in name for name in learning)
    adapted = {name.split(".lora_")[0].rpartition(".")[2] for name in learning}
    assert adapted == {
        *("q_proj", "k_proj", "v_proj", "o_proj"),
        *("gate_proj", "up_proj", "down_proj"),
    }
    with torch.no_grad():
        assert torch.equal(model(ids).logits, before)


def test_named_targets_are_the_only_ones(tiny_model_dir: Path) -> None:
    model = add_adapter(load_model(source(tiny_model_dir)), ["q_proj"], LORA)
    learning = [n for n, p in model.named_parameters() if p.requires_grad]
    assert len(learning) == 4
    assert all("q_proj" in name for name in learning)


def test_adapters_of_an_earlier_phase_are_trained_further(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    base = load_model(source(tiny_model_dir))
    model = add_adapter(base, lora_targets(base), LORA)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.1)
    model.save_pretrained(tmp_path)
    again = load_adapter(load_model(source(tiny_model_dir)), tmp_path)
    assert trainers.same_weights(model, again)
    learning = [n for n, p in again.named_parameters() if p.requires_grad]
    assert len(learning) == 28


def test_a_checkpoint_that_lacks_a_weight_is_refused(
    tmp_path: Path, tiny_model_dir: Path
) -> None:
    """transformers would train the weight from random numbers, with a warning."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path / "torn"
    shutil.copytree(tiny_model_dir, folder)
    weights = load_file(folder / "model.safetensors")
    lost = next(name for name in sorted(weights) if "mlp" in name)
    del weights[lost]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UsageError, match=lost.replace(".", r"\.")) as refused:
        load_model(source(folder))
    assert "whole checkpoint" in refused.value.remedy


def test_a_model_that_does_not_generate_token_by_token_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def found(name: str, **options: Any) -> Any:
        return torch.nn.Linear(1, 1), {"missing_keys": set()}

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", found)
    with pytest.raises(UsageError, match="does not generate token by token"):
        load_model(source(tmp_path))
