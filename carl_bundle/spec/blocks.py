"""The blocks of a `carl.yaml` beside the training phases."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from carl_bundle.spec.text import AS_TUPLE, Identifier, Text

BUILTIN = "builtin"
"""The id of the model and of the task that a script carries within itself."""

GYM = "reasoning-gym:"
"""How the id of rows begins that the task after it generates."""

Column = Literal[
    "prompt",
    "answer",
    "completion",
    "messages",
    "chosen",
    "rejected",
    "label",
    "tools",
    "expected_tools",
    "bbox",
    "width",
    "height",
    "environment",
    "tests",
    "databases",
    "query",
    "image",
    "images",
]
Positive = Annotated[int, Field(ge=1, le=2**31 - 1)]
NonNegative = Annotated[int, Field(ge=0, le=2**31 - 1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Open01 = Annotated[float, Field(gt=0.0, lt=1.0)]
Scorer = Literal[
    "exact_answer",
    "math_answer",
    "reasoning_gym",
    "pattern",
    "length",
    "tool_call_format",
    "tool_selection",
    "tool_chain",
    "structure",
    "conciseness",
    "click_inside",
    "click_distance",
    "coordinate_format",
]
Names = Annotated[tuple[Identifier, ...], Field(min_length=1), AS_TUPLE]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class Block(BaseModel):
    """Base of every block: immutable, strictly typed, no unknown key."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        defer_build=True,
        allow_inf_nan=False,
        # `model` and `model_*` are names of this domain.
        protected_namespaces=(),
    )


class FrozenModel(Block):
    """What was read from the model's files when the spec was frozen.

    A spec that holds it renders without network and without those files.
    """

    commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    tokenizer_commit: Annotated[str, Field(pattern=r"^[0-9a-f]{40}$")] | None = None
    config_sha256: Digest | None = None
    chat_template_sha256: Digest | None = None
    model_type: Identifier | None = None
    architecture: Identifier | None = None
    auto_class: Literal["causal-lm", "image-text-to-text"] | None = None
    thinking: Literal["none", "switchable", "always", "unknown"] | None = None
    thinking_switch: Identifier | None = None
    quantization: Identifier | None = None
    vocab_size: Positive | None = None
    context_length: Positive | None = None
    experts: NonNegative | None = None


class ModelSettings(Block):
    """The model to train. A bare string stands for its `id`."""

    id: Identifier = BUILTIN
    revision: Identifier | None = None
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    quantize: Literal["4bit", "8bit"] | None = None
    attention: Identifier | None = None
    trust_remote_code: bool = False
    tokenizer: Identifier | None = None
    chat_template: Text | None = None
    thinking: Literal["auto", "on", "off"] = "auto"
    frozen: FrozenModel | None = None

    @model_validator(mode="before")
    @classmethod
    def _bare_id(cls, value: Any) -> Any:
        return {"id": value} if isinstance(value, str) else value

    @property
    def is_builtin(self) -> bool:
        return self.id == BUILTIN


class Rows(Block):
    """Rows of one data set. A bare string stands for their `id`."""

    id: Identifier = BUILTIN
    revision: Identifier | None = None
    config: Identifier | None = None
    split: Identifier = "train"
    columns: dict[Column, Identifier] = Field(default_factory=dict)
    limit: Positive | None = None
    system_prompt: Text | None = None
    sha256: Digest | None = None
    streaming: bool = False

    @model_validator(mode="before")
    @classmethod
    def _bare_id(cls, value: Any) -> Any:
        return {"id": value} if isinstance(value, str) else value

    @property
    def is_builtin(self) -> bool:
        return self.id == BUILTIN

    @property
    def is_gym(self) -> bool:
        """Whether a task of reasoning-gym generates the rows."""
        return self.id.startswith(GYM)

    @property
    def has_images(self) -> bool:
        """Whether a column of images is named."""
        return not {"image", "images"}.isdisjoint(self.columns)

    @property
    def is_file(self) -> bool:
        """Whether `id` names a local file, by its suffix."""
        return self.id.endswith((".jsonl", ".json", ".parquet"))

    @property
    def source(self) -> str:
        """Where the rows come from: "builtin", "gym", "file" or "hub"."""
        if self.is_builtin or self.is_gym:
            return "builtin" if self.is_builtin else "gym"
        return "file" if self.is_file else "hub"


class Source(Rows):
    """One data set of a mixture, and how often it is drawn from."""

    weight: Annotated[float, Field(gt=0.0)] = 1.0


class DataSettings(Rows):
    """The rows to train on. A list stands for `mix`, a bare string for `id`."""

    mix: Annotated[tuple[Source, ...], Field(min_length=2), AS_TUPLE] | None = None

    @model_validator(mode="before")
    @classmethod
    def _bare_list(cls, value: Any) -> Any:
        return {"mix": value} if isinstance(value, list) else value

    @property
    def is_builtin(self) -> bool:
        return self.mix is None and self.id == BUILTIN

    @property
    def sources(self) -> tuple[Rows, ...]:
        """The data sets that are read: those of the mixture, or this one."""
        return self.mix or (self,)

    @property
    def source(self) -> str:
        """The kind of the data set; of a mixture "mix" and the kinds, in order."""
        if self.mix is None:
            return super().source
        return "_".join(["mix", *sorted({one.source for one in self.mix})])


class LoraSettings(Block):
    """Low-rank adapters; `targets: auto` finds the linear layers at run time."""

    r: Annotated[int, Field(ge=1, le=4096)] = 16
    alpha: Annotated[float, Field(gt=0.0)] = 32.0
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    targets: (
        Literal["auto"]
        | Annotated[tuple[Identifier, ...], Field(strict=False, min_length=1)]
    ) = "auto"
    bias: Literal["none", "all", "lora_only"] = "none"


class Reward(Block):
    """One task reward: a built-in scorer by `name`, or `path.py:function`."""

    name: Scorer | None = None
    function: Identifier | None = None
    weight: Annotated[float, Field(ge=0.0)] = 1.0
    extract: Text | None = None
    pattern: Text | None = None
    full: bool = False
    target: Positive | None = None
    tolerance: Positive | None = None
    tools: (
        Annotated[tuple[dict[str, Any], ...], Field(min_length=1), AS_TUPLE] | None
    ) = None
    width: Positive | None = None
    height: Positive | None = None
    scale: Literal[1, 1000] | None = None


class Environment(Block):
    """Where a model calls tools: `python`, `sql`, or `path.py:Class` of the user's."""

    name: Literal["python", "sql"] | None = None
    factory: Identifier | None = None
    weight: Annotated[float, Field(ge=0.0)] = 1.0

    @model_validator(mode="before")
    @classmethod
    def _bare_name(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        return {"factory" if ":" in value else "name": value}

    @property
    def label(self) -> str:
        """What rows call it in their column `environment`."""
        return self.name or (self.factory or "").rpartition(":")[2]


class CarlSettings(Block):
    """The coherence reward and the cascade that lets it in."""

    enabled: bool = True
    weight: Annotated[float, Field(gt=0.0)] = 0.5
    field: Literal["auto", "generation", "pass"] = "auto"
    weights: Annotated[
        tuple[Share, ...], Field(min_length=3, max_length=3), AS_TUPLE
    ] = (0.5, 0.3, 0.2)
    tie_weight: Share = 0.5
    warmup_steps: Positive = 10
    cascade: Literal["adaptive", "fixed"] = "adaptive"
    carl_start: NonNegative | None = None
    open_by: Positive | None = None


class GateSettings(Block):
    """When token accuracy counts as crystallised, and what happens then."""

    mode: Literal["threshold", "plateau"] = "threshold"
    threshold: Annotated[float, Field(gt=0.0, le=1.0)] = 0.99
    window: Positive = 5
    min_above: Positive = 3
    metric: Identifier = "mean_token_accuracy"
    stop: bool | None = None
    on_miss: Literal["stop", "continue"] = "stop"


class EvalSettings(Block):
    """The evaluation at the end of a pipeline, or in the course of another method."""

    data: DataSettings | None = None
    items: Positive | None = None
    temperature: Annotated[float, Field(ge=0.0)] = 1.0
    max_new_tokens: Positive | None = None
    item_pass: float = 1.0
    alpha: Open01 = 0.05
    threshold: Open01 | None = None
    baseline: Literal["sft"] | None = "sft"
    every: Positive | None = None
    metric: Identifier | None = None
    best: bool | None = None
    patience: Positive | None = None


class PushSettings(Block):
    """Where the result goes on the hub; nothing is pushed unless enabled."""

    repo: Identifier | None = None
    private: bool = True
    enabled: bool = False
