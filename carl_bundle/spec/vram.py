"""VRAMBudget: where the memory of a training phase goes, with its formulas.

Terms are reasoned, not measured: real runs differ by allocator, kernels and
framework buffers.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

from carl_bundle.spec.phases import SampledSettings
from carl_bundle.spec.unknown import Unknown

if TYPE_CHECKING:
    from carl_bundle.spec.measure import Measurement
    from carl_bundle.spec.model_spec import ModelSpec
    from carl_bundle.spec.train_spec import TrainSpec

TILE_TOKENS, TILE_VOCABULARY = 4096, 32768
"""TRL's fused output head works on tiles of this size."""

CHECKPOINTED, STORED = 4, 34
"""Bytes of activations per token, hidden unit and layer in 16 bits.

34 without recomputation (Korthikanti et al. 2022, equation 2 without the attention
scores, which flash attention does not store); with recomputation the layer inputs
(2) and as much again for the layer at work.
"""

PAIRS = ("dpo", "orpo")
"""Phases in which a row of the batch is two answers."""

BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
Amount = int | Unknown


@dataclass(frozen=True)
class Row:
    """One term of the budget.

    Attributes:
        name: What the memory is for.
        bytes: How much.
        formula: How that came about.
        when: `always`, or only while the phase is `generating` or `training`.
    """

    name: str
    bytes: Amount
    formula: str
    when: Literal["always", "generating", "training"] = "always"


@dataclass(frozen=True)
class VRAMBudget:
    """The memory of one phase on one GPU.

    Attributes:
        phase: Its name in the spec.
        rows: What must be there, and when.
        disk: Checkpoints on disk.
        calibrated: Whether the terms were measured; False until they are.
    """

    phase: str
    rows: tuple[Row, ...]
    disk: Row
    calibrated: bool = False

    @classmethod
    def estimate(
        cls,
        spec: TrainSpec,
        model: ModelSpec,
        phase: str,
        *,
        measurement: Measurement | None = None,
        gpu_bytes: int | None = None,
    ) -> VRAMBudget:
        """Return the budget of a phase.

        Args:
            spec: A resolved spec (see `carl_bundle.spec.defaults.resolve`).
            model: Its model.
            phase: Its name in the spec.
            measurement: Exact counts, where the model was measured.
            gpu_bytes: Memory of the GPU, which a share of vLLM refers to.
        """
        settings = getattr(spec, phase)
        total = measurement.parameters if measurement else parameters(model)
        trained = _trained(spec, total, measurement)
        width = _width(spec)
        # PEFT keeps adapters in float32 whatever the weights are.
        trained_width = 4 if spec.lora else width
        moments = _times(2 * trained_width, trained)
        weights, gradients = _weights(spec, total), _times(trained_width, trained)
        rows = [
            Row("weights", weights, _WEIGHTS[spec.model.quantize]),
            Row("gradients", gradients, "trained parameters x bytes each"),
            Row("optimizer", moments, "trained parameters x 2 x bytes each (AdamW)"),
            Row("activations", *_activations(settings, model, phase), "training"),
            Row("logits tile", *_tile(settings, model), "training"),
            Row("kv cache", *_kv(settings, model), "generating"),
            Row("reference", *_reference(spec, phase, weights)),
            Row("vllm share", *_vllm(settings, gpu_bytes)),
        ]
        disk = Row(
            "checkpoints on disk",
            _times(settings.save_total_limit or 1, _sum([gradients, moments])),
            "kept checkpoints x trained parameters x 3 x bytes each",
        )
        return cls(phase, tuple(rows), disk)

    @property
    def total(self) -> Amount:
        """Bytes at the fullest moment; Unknown as soon as one term is.

        The cache is free again when training starts, so the larger of the two counts.
        """
        always, generating, training = (
            _sum([row.bytes for row in self.rows if row.when == when])
            for when in ("always", "generating", "training")
        )
        if isinstance(generating, Unknown) or isinstance(training, Unknown):
            return generating if isinstance(generating, Unknown) else training
        return _sum([always, max(generating, training)])

    def as_dict(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        total = self.total
        return {
            **asdict(self),
            "total": asdict(total) if isinstance(total, Unknown) else total,
        }


def parameters(model: ModelSpec) -> Amount:
    """Return the number of parameters by the size of the weights on disk.

    Raises nothing: Unknown where the weights are quantised, or of unknown width.
    """
    if isinstance(model.weight_bytes, Unknown):
        return Unknown("the model was not measured, and no safetensors are at hand")
    if model.quantization is not None:
        return Unknown("quantised weights do not tell the number of parameters")
    if isinstance(model.weight_dtype, Unknown):
        return model.weight_dtype
    width = BYTES.get(model.weight_dtype)
    if width is None:
        return Unknown(f"weights of type {model.weight_dtype} have no fixed width")
    return model.weight_bytes // width


_WEIGHTS = {
    None: "parameters x bytes each",
    "8bit": "parameters x 1 (embeddings and head take more)",
    "4bit": "parameters x 1/2 (embeddings and head take more)",
}


def _weights(spec: TrainSpec, total: Amount) -> Amount:
    halves = {"8bit": 2, "4bit": 1}.get(spec.model.quantize or "", 2 * _width(spec))
    halved = _times(halves, total)
    return halved if isinstance(halved, Unknown) else halved // 2


def _width(spec: TrainSpec) -> int:
    """Return bytes of one weight as the script loads it on a GPU.

    `auto` is bfloat16 under adapters and float32 where all weights train.
    """
    dtype = spec.model.dtype
    if dtype == "auto":
        dtype = "bfloat16" if spec.lora else "float32"
    return BYTES[dtype]


def _trained(spec: TrainSpec, total: Amount, measurement: Measurement | None) -> Amount:
    if not spec.lora:
        return total
    if spec.lora.targets != "auto":
        return Unknown("the size of adapters on named layers is not computed")
    if measurement is None:
        return Unknown("the size of the adapters needs the layers' shapes")
    return measurement.lora_parameters(spec.lora.r)


def _activations(settings: Any, model: ModelSpec, phase: str) -> tuple[Amount, str]:
    factor = CHECKPOINTED if settings.gradient_checkpointing else STORED
    factor *= 2 if phase in PAIRS else 1
    formula = f"batch x max_length x hidden x layers x {factor}"
    if isinstance(model.hidden_size, Unknown):
        return model.hidden_size, formula
    if isinstance(model.layers, Unknown):
        return model.layers, formula
    tokens: int = settings.per_device_train_batch_size * settings.max_length
    return tokens * model.hidden_size * model.layers * factor, formula


def _tile(settings: Any, model: ModelSpec) -> tuple[Amount, str]:
    formula = f"min(tokens, {TILE_TOKENS}) x min(V, {TILE_VOCABULARY}) x 2"
    if isinstance(model.vocab_size, Unknown):
        return model.vocab_size, formula
    tokens = settings.per_device_train_batch_size * settings.max_length
    rows, columns = min(tokens, TILE_TOKENS), min(model.vocab_size, TILE_VOCABULARY)
    return rows * columns * 2, formula


def _kv(settings: Any, model: ModelSpec) -> tuple[Amount, str]:
    formula = "completions at once x cache of max_length tokens"
    if not isinstance(settings, SampledSettings):
        return 0, "no generation in this phase"
    if isinstance(model.attention, Unknown):
        return model.attention, formula
    completions = (settings.per_device_train_batch_size or 1) * (
        settings.steps_per_generation or 1
    )
    return completions * model.attention.kv_bytes(settings.max_length or 0), formula


def _reference(spec: TrainSpec, phase: str, weights: Amount) -> tuple[Amount, str]:
    settings = getattr(spec, phase)
    if phase in ("sft", "orpo"):
        return 0, "no reference in this phase"
    if not settings.beta:
        return 0, "no reference (beta is 0)"
    if spec.lora:
        return 0, "the reference is the model with its adapters off"
    return weights, "a second copy of the weights (all weights train)"


def _vllm(settings: Any, gpu_bytes: int | None) -> tuple[Amount, str]:
    trainer = settings.trainer
    if getattr(settings, "vllm", None) != "colocate":
        return 0, "no vLLM on this GPU"
    share = trainer.get("vllm_gpu_memory_utilization", 0.3)
    formula = f"{share} x memory of the GPU"
    if gpu_bytes is None:
        return Unknown("the GPU is not known", "give its memory"), formula
    return int(share * gpu_bytes), formula


def _times(factor: int, amount: Amount) -> Amount:
    return amount if isinstance(amount, Unknown) else factor * amount


def _sum(amounts: list[Amount]) -> Amount:
    total = 0
    for amount in amounts:
        if isinstance(amount, Unknown):
            return amount
        total += amount
    return total
