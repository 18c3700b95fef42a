"""A model directory of any type: small random weights, tokenizer, chat template."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tools.matrix.shrink import ABSENT, TOKENS, small

MOST_PARAMETERS = 80_000_000
TEMPLATE = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
MAPPINGS = {
    "causal-lm": "MODEL_FOR_CAUSAL_LM_MAPPING_NAMES",
    "image-text-to-text": "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES",
}
"""The mappings of transformers whose types are tried."""


@dataclass(frozen=True, order=True)
class Case:
    """One model class of one model type, as an auto class of transformers gives it."""

    model_type: str
    auto_class: str
    architecture: str

    @property
    def name(self) -> str:
        return f"{self.model_type}.{self.auto_class}"


def cases() -> list[Case]:
    """Every model type; twice where text alone has another class than images."""
    from transformers.models.auto import modeling_auto

    found: dict[tuple[str, str], Case] = {}
    for auto_class, mapping in MAPPINGS.items():
        for model_type, architecture in getattr(modeling_auto, mapping).items():
            case = Case(model_type, auto_class, architecture)
            found[model_type, architecture] = case  # images win over text alone
    return sorted(found.values())


def build(case: Case) -> Any:
    """A small random model; fields left None are filled only if it needs them."""
    try:
        return built(case, {})
    except Exception as error:  # any class may refuse in any way
        try:
            return built(case, ABSENT)
        except Exception:
            raise error from None


def built(case: Case, absent: dict[str, Any]) -> Any:
    """Raises ValueError if the model is still large, and what its class raises.

    A class for one part of a configuration gets that part, as from auto classes.
    """
    import torch
    import transformers
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    config = CONFIG_MAPPING[case.model_type].from_dict(settings(case, absent))
    model_class = getattr(transformers, case.architecture)
    parts = [getattr(config, name) for name in config.sub_configs]
    if not isinstance(config, model_class.config_class):
        own = [part for part in parts if isinstance(part, model_class.config_class)]
        config = own[0] if own else config
    torch.manual_seed(0)
    with torch.device("meta"):
        count = sum(p.numel() for p in model_class._from_config(config).parameters())
    if count > MOST_PARAMETERS:
        raise ValueError(f"still {count} parameters: a rule is missing")
    return model_class._from_config(config)


def settings(case: Case, absent: dict[str, Any]) -> dict[str, Any]:
    """The values of the small configuration."""
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    values = small(complete(CONFIG_MAPPING[case.model_type]()), absent)
    if "is_decoder" in values:  # without it such a model sees both sides of a token
        values["is_decoder"] = True
    return values


def complete(config: Any) -> dict[str, Any]:
    """The values of `config`, with rotary settings that its class knows and lacks."""
    values: dict[str, Any] = config.to_dict()
    rope = values.get("rope_parameters")
    if "mrope_section" in getattr(config, "ignore_keys_at_rope_validation", ()):
        own = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [22, 22, 20]}
        kinds = values.get("layer_types") or ()
        values["rope_parameters"] = (
            {**own, **rope} if rope else dict.fromkeys(kinds, own) or own
        )
    for name in config.sub_configs:
        part = getattr(config, name)
        if part is not None:
            values[name] = complete(part)
    return values


@cache
def tokenizer() -> Any:
    """One token a byte, and a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    special = {"pad": "<|pad|>", "bos": "<|im_start|>", "eos": "<|im_end|>"}
    tokens = [special[name] for name in sorted(TOKENS, key=TOKENS.__getitem__)]
    tokens += sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(tokens)}
    inner = Tokenizer(models.BPE(vocabulary, []))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    given = {f"{name}_token": token for name, token in special.items()}
    made = PreTrainedTokenizerFast(tokenizer_object=inner, **given)
    made.chat_template = TEMPLATE
    return made


def save(case: Case, folder: Path) -> int:
    """Write the model directory; how many parameters it has."""
    model = build(case)
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return int(model.num_parameters())
