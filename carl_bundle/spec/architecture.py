"""Which class of transformers loads a model, and which models are refused."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from carl_bundle.errors import UsageError
from carl_bundle.spec.config_reader import ConfigReader, known_types, other_types
from carl_bundle.spec.unknown import Unknown

AutoClass = Literal["causal-lm", "image-text-to-text", "multimodal-lm"]
PREFERENCE: tuple[AutoClass, ...] = ("causal-lm", "image-text-to-text", "multimodal-lm")
"""Auto classes that generate text, the plainest first."""

_REFUSED = ("seq2seq-lm", "masked-lm")
_MODALITIES = {
    "image": re.compile(r"vision|visual|image"),
    "audio": re.compile(r"audio|speech"),
    "video": re.compile(r"video"),
}


@dataclass(frozen=True)
class Architecture:
    """How transformers loads a model.

    Attributes:
        model_type: As in config.json.
        name: The model class.
        auto_class: The auto class that yields it.
        modalities: `text`, and what else goes in.
    """

    model_type: str
    name: str | Unknown
    auto_class: AutoClass | Unknown
    modalities: tuple[str, ...]


def read_architecture(config: ConfigReader, remote_code: bool) -> Architecture:
    """Return how a model is loaded.

    Args:
        config: The top of config.json.
        remote_code: Whether the spec allows code from the repository.

    Raises:
        UsageError: It writes no text left to right, needs code that is not
            allowed, or config.json says something impossible.
    """
    model_type = config.name("model_type")
    if model_type is None:
        raise UsageError(
            f"{config.source} names no model_type",
            remedy="use a checkpoint that save_pretrained wrote",
        )
    listed = config.strings("architectures")
    given = listed[0] if listed else None
    _refuse_foreign(config, model_type, remote_code)
    if config.boolean("is_encoder_decoder"):
        raise UsageError(
            f"{config.source}: {model_type} is an encoder-decoder",
            remedy="choose a decoder-only model: CARL scores one stream of tokens",
        )
    auto = config.entry.get("auto", {})
    if config.entry:
        _refuse_masked(config, model_type, given, auto)
    name, auto_class = _choose(given, auto)
    if given is not None and config.entry and isinstance(auto_class, Unknown):
        raise UsageError(
            f"{config.source}: {given} is no class that generates text",
            remedy="choose the checkpoint of the language model itself",
        )
    return Architecture(model_type, name, auto_class, _modalities(config, auto_class))


def _refuse_foreign(config: ConfigReader, model_type: str, remote_code: bool) -> None:
    if config.entry:
        return
    if model_type in other_types():
        raise UsageError(
            f"{config.source}: {model_type} generates no text",
            remedy="choose a causal language model",
        )
    if remote_code:
        return
    if config.values.get("auto_map"):
        raise UsageError(
            f"{config.source}: {model_type} needs code from its repository",
            remedy="choose a model that transformers knows, or set "
            "model.trust_remote_code with model.revision pinned to a commit",
        )
    raise UsageError(
        f"{config.source}: the pinned transformers knows no model type {model_type!r}",
        remedy="check model_type, or choose a model that transformers knows",
    )


def _refuse_masked(
    config: ConfigReader, model_type: str, given: str | None, auto: dict[str, str]
) -> None:
    """A masked language model sees both sides of a token."""
    writes = [auto[name] for name in PREFERENCE if name in auto]
    masked = auto.get("masked-lm")
    decoder = config.boolean("is_decoder")
    if masked and not decoder and (not writes or given not in writes or _both(auto)):
        raise UsageError(
            f"{config.source}: {model_type} is a masked language model",
            remedy="choose a causal language model",
        )
    if not writes and auto:
        kinds = ", ".join(name for name in _REFUSED if name in auto)
        raise UsageError(
            f"{config.source}: {model_type} can only be loaded as {kinds}",
            remedy="choose a causal language model",
        )


def _both(auto: dict[str, str]) -> bool:
    """Whether a type is both masked and causal, which `is_decoder` then decides."""
    return "masked-lm" in auto and "causal-lm" in auto


def _choose(
    given: str | None, auto: dict[str, str]
) -> tuple[str | Unknown, AutoClass | Unknown]:
    """Return model class and auto class: the file's own class comes first."""
    if given is None:
        for auto_class in PREFERENCE:
            if auto_class in auto:
                return auto[auto_class], auto_class
        unknown = Unknown("config.json names no architecture", "add `architectures`")
        return unknown, unknown
    for auto_class in PREFERENCE:
        if auto.get(auto_class) == given:
            return given, auto_class
    for entry in known_types().values():
        for auto_class in PREFERENCE:
            if entry["auto"].get(auto_class) == given:
                return given, auto_class
    return given, Unknown(f"no auto class of transformers yields {given}")


def _modalities(
    config: ConfigReader, auto_class: AutoClass | Unknown
) -> tuple[str, ...]:
    """Return what goes in, by the sub-configurations of the file."""
    blocks = [key for key, value in config.values.items() if isinstance(value, dict)]
    found = [
        name
        for name, pattern in _MODALITIES.items()
        if any(key.endswith("_config") and pattern.search(key) for key in blocks)
    ]
    if auto_class == "image-text-to-text" and "image" not in found:
        found.insert(0, "image")
    return ("text", *found)
