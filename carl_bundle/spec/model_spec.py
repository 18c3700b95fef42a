"""ModelSpec: what a model is, read from its small files, without torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from carl_bundle.spec.architecture import Architecture, read_architecture
from carl_bundle.spec.attention import ORDER, Attention, read_attention
from carl_bundle.spec.config_reader import MAX_LAYERS, ConfigReader, known_types
from carl_bundle.spec.model_files import ModelFiles
from carl_bundle.spec.quantization import Quantization, read_quantization
from carl_bundle.spec.thinking import TemplateError, Thinking, detect_thinking
from carl_bundle.spec.tokenizer_files import (
    chat_template,
    special_tokens,
    tokenizer_length,
)
from carl_bundle.spec.unknown import Unknown

if TYPE_CHECKING:
    from carl_bundle.spec.measure import Measurement

_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
_ACTIVE = (
    "num_experts_per_tok",
    "num_experts_per_token",
    "top_k_experts",
    "moe_topk",
    "moe_k",
)
_TEXT_KEYS = ("text_config", "decoder", "generator")


@dataclass(frozen=True)
class Experts:
    """A mixture of experts: how many there are, how many a token meets."""

    total: int
    active: int | Unknown


@dataclass(frozen=True)
class ModelSpec:
    """What a model is. A field that no file tells is Unknown, with a remedy.

    Attributes:
        source: Directory or hub id.
        commit: Commit it was read at; None for a directory.
        architecture: Class, auto class, modalities.
        thinking: How the chat template treats thinking; None without a template.
        quantization: How the weights are stored; None for plain weights.
        context_length: Longest sequence, in tokens.
        vocab_size: Rows of the output head (padded rows included).
        tokenizer_length: Tokens that the tokenizer knows.
        layers: Depth. hidden_size: Width. intermediate_size: That of the widest MLP.
        attention: What each layer caches.
        experts: None for a dense model.
        tied: Whether the output head is the embedding.
        weight_bytes: Size of the weights on disk.
        weight_dtype: Number format of the weights, as config.json calls it.
        config_sha256, chat_template_sha256: Digests of the files.
    """

    source: str
    commit: str | None
    architecture: Architecture
    thinking: Thinking | Unknown | None
    quantization: Quantization | None
    context_length: int | Unknown
    vocab_size: int | Unknown
    tokenizer_length: int | Unknown
    layers: int | Unknown
    hidden_size: int | Unknown
    intermediate_size: int | Unknown
    attention: Attention | Unknown
    experts: Experts | None
    tied: bool | Unknown
    weight_bytes: int | Unknown
    weight_dtype: str | Unknown
    config_sha256: str
    chat_template_sha256: str | None

    @classmethod
    def from_pretrained(
        cls,
        id_or_dir: str | Path,
        revision: str | None = None,
        *,
        trust_remote_code: bool = False,
    ) -> ModelSpec:
        """Read a local directory, or a repository of the hub.

        Args:
            id_or_dir: A directory with a config.json, or `owner/name`.
            revision: Branch, tag or commit on the hub; its default branch if None.
            trust_remote_code: Accept a model type that transformers does not know.
                No code is ever run; fewer fields are known.

        Raises:
            UsageError: It is not there, cannot be read, or is refused.
            RemoteError: The hub does not answer.
        """
        from carl_bundle.spec.locate import locate

        return cls.from_files(
            locate(str(id_or_dir), revision), trust_remote_code=trust_remote_code
        )

    @classmethod
    def from_files(
        cls,
        files: ModelFiles,
        *,
        trust_remote_code: bool = False,
        tokenizer: bool = True,
    ) -> ModelSpec:
        """Read files at hand; `tokenizer=False` leaves the large one alone."""
        values = files.json("config.json") or {}
        source = f"{files.source}: config.json"
        entry = known_types().get(str(values.get("model_type")), {})
        config = ConfigReader(source, "", values, entry)
        architecture = read_architecture(config, trust_remote_code)
        text = _text_reader(config)
        template = chat_template(files)
        tie = config.boolean("tie_word_embeddings")
        return cls(
            source=files.source,
            commit=files.commit,
            architecture=architecture,
            thinking=_thinking(files, template),
            quantization=read_quantization(config) or read_quantization(text),
            context_length=_context_length(text),
            vocab_size=_integer(text, "vocab_size"),
            tokenizer_length=(
                tokenizer_length(files) if tokenizer else Unknown("not read")
            ),
            layers=_integer(text, "num_hidden_layers"),
            hidden_size=_integer(text, "hidden_size"),
            intermediate_size=_widest(text, "intermediate_size"),
            attention=read_attention(text),
            experts=_experts(text),
            tied=tie if tie is not None else Unknown("no field tells"),
            weight_bytes=_weight_bytes(files),
            weight_dtype=_dtype(config, text),
            config_sha256=files.digest("config.json") or "",
            chat_template_sha256=_sha256(template),
        )

    @property
    def kv_bytes_per_token(self) -> int | Unknown:
        """Bytes of bfloat16 cache that each further token adds."""
        if isinstance(self.attention, Unknown):
            return self.attention
        return self.attention.kv_bytes_per_token()

    def measure(self) -> Measurement:
        """Build the model without weights and count exactly (extra `train`)."""
        from carl_bundle.spec.measure import measure

        return measure(self)

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values; an unknown is `{reason, remedy}`."""
        values = asdict(self)
        if isinstance(self.attention, Attention):
            counts = {kind: self.attention.kinds.count(kind) for kind in ORDER}
            values["attention"]["kinds"] = {k: n for k, n in counts.items() if n}
        kv = self.kv_bytes_per_token
        values["kv_bytes_per_token"] = asdict(kv) if isinstance(kv, Unknown) else kv
        return values


def _text_reader(config: ConfigReader) -> ConfigReader:
    """Return the block that describes the text decoder, with its type's entry."""
    key, default_type = config.entry.get("text", (None, None))
    if key is None and not config.entry:
        key = next((k for k in _TEXT_KEYS if config.values.get(k)), None)
    if key is None:
        return config
    block = config.block(key)
    if block is None:
        # Older files have the text fields at the top.
        entry = known_types().get(default_type, {})
        return ConfigReader(config.source, "", config.values, entry)
    own = ConfigReader(config.source, f"{key}.", block, {}).name("model_type")
    entry = known_types().get(own or default_type, {})
    return ConfigReader(config.source, f"{key}.", block, entry)


def _integer(text: ConfigReader, name: str) -> int | Unknown:
    value = text.integer(name, 1)
    if value is None:
        return Unknown(f"neither config.json nor its class tells {name}")
    return value


def _widest(text: ConfigReader, name: str) -> int | Unknown:
    """Return a width; of a list with one for each layer, the largest."""
    given = text.raw(name)
    if not isinstance(given, list):
        return _integer(text, name)
    layers = [
        replace(text, values={name: width}, entry={}) for width in given[:MAX_LAYERS]
    ]
    widths = [width for layer in layers if (width := layer.integer(name, 1))]
    return max(widths) if widths else Unknown(f"{name} is an empty list")


def _context_length(text: ConfigReader) -> int | Unknown:
    """Return the longest sequence: trained positions, stretched by rotary scaling."""
    positions = text.integer("max_position_embeddings", 1)
    if positions is None:
        return Unknown("this architecture has no longest sequence", "set max_length")
    for name in ("rope_parameters", "rope_scaling"):
        block = text.block(name)
        if block is None:
            continue
        rope = ConfigReader(text.source, f"{text.prefix}{name}.", block, {})
        factor = rope.number("factor")
        original = rope.integer("original_max_position_embeddings", 1)
        if factor is not None:
            # A file written after stretching has the stretched number already.
            return max(positions, int((original or positions) * factor))
    return positions


def _experts(text: ConfigReader) -> Experts | None:
    counts = [text.integer(name) for name in _EXPERTS]
    total = max((count for count in counts if count), default=0)
    if total < 2:
        return None
    active = [text.integer(name, 1) for name in _ACTIVE]
    each = next((count for count in active if count is not None), None)
    return Experts(
        total, each if each is not None else Unknown("no field tells how many are used")
    )


def _dtype(config: ConfigReader, text: ConfigReader) -> str | Unknown:
    for reader in (config, text):
        for name in ("dtype", "torch_dtype"):
            value = reader.name(name)
            if value is not None:
                return value
    return Unknown("config.json names no dtype", "set model.dtype")


def _weight_bytes(files: ModelFiles) -> int | Unknown:
    index = files.json("model.safetensors.index.json")
    if index is not None:
        reader = ConfigReader(
            f"{files.source}: model.safetensors.index.json", "", index, {}
        )
        metadata = reader.block("metadata") or {}
        size = ConfigReader(reader.source, "metadata.", metadata, {}).integer(
            "total_size", 1
        )
        if size is not None:
            return size
    if files.weight_bytes is not None:
        return files.weight_bytes
    return Unknown("no safetensors are at hand", "download the weights")


def _sha256(text: str | None) -> str | None:
    from hashlib import sha256

    return None if text is None else sha256(text.encode()).hexdigest()


def _thinking(files: ModelFiles, template: str | None) -> Thinking | Unknown | None:
    if template is None:
        return None
    try:
        return detect_thinking(template, special_tokens(files))
    except TemplateError as error:
        return Unknown(f"the chat template does not render: {error}", "correct it")
