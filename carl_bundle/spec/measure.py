"""Counting a model exactly, by building it without its weights.

The only module of this package that imports torch and transformers, when called.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from carl_bundle.errors import ConfigurationError, UsageError
from carl_bundle.spec.unknown import Unknown

if TYPE_CHECKING:
    from carl_bundle.spec.model_spec import ModelSpec


@dataclass(frozen=True)
class Measurement:
    """What a model is made of.

    Attributes:
        parameters: All of them; tied ones count once.
        active_parameters: Those that one token meets, for a mixture of experts.
        lora_modules: Full names of the layers that `lora.targets: auto` adapts.
        lora_parameters_per_rank: Parameters of all adapters at rank 1.
    """

    parameters: int
    active_parameters: int | Unknown
    lora_modules: tuple[str, ...]
    lora_parameters_per_rank: int

    def lora_parameters(self, rank: int) -> int:
        """Return the parameters of the adapters at a rank."""
        return self.lora_parameters_per_rank * rank


def measure(spec: ModelSpec) -> Measurement:
    """Build the model of a spec on the meta device and count.

    Code of the repository is never run.

    Raises:
        ConfigurationError: The extra `train` is not installed.
        UsageError: transformers cannot build the model from its config.json.
    """
    try:
        import torch
        import transformers
    except ImportError as error:
        raise ConfigurationError(
            f"measuring needs {error.name}, which is not installed",
            remedy="pip install 'carl-bundle[train]'",
        ) from error
    from carl_runtime_min.lora import lora_targets

    if isinstance(spec.architecture.name, Unknown):
        raise UsageError(
            f"{spec.source}: the model class is {spec.architecture.name}",
            remedy=spec.architecture.name.remedy,
        )
    model_class = getattr(transformers, spec.architecture.name, None)
    if model_class is None:
        raise UsageError(
            f"transformers {transformers.__version__} has no "
            f"{spec.architecture.name}",
            remedy="measuring never runs code from a repository; give the numbers "
            "from its model card",
        )
    try:
        config = transformers.AutoConfig.from_pretrained(
            spec.source, revision=spec.commit, trust_remote_code=False
        )
        if not isinstance(config, model_class.config_class):
            config = config.get_text_config()
        with torch.device("meta"):
            model = model_class._from_config(config)
    except (ArithmeticError, AttributeError, ImportError, LookupError) as error:
        raise _unbuildable(spec, error) from error
    except (OSError, RuntimeError, TypeError, ValueError) as error:
        raise _unbuildable(spec, error) from error
    names = tuple(lora_targets(model))
    modules = dict(model.named_modules())
    return Measurement(
        parameters=sum(p.numel() for p in model.parameters()),
        active_parameters=_active(spec, model),
        lora_modules=names,
        lora_parameters_per_rank=sum(_features(modules[name]) for name in names),
    )


def _unbuildable(spec: ModelSpec, error: Exception) -> UsageError:
    reason = (str(error).strip().splitlines() or [""])[0]
    return UsageError(
        f"{spec.source}: transformers cannot build {spec.architecture.name}: "
        f"{type(error).__name__}: {reason}",
        remedy="correct config.json, or install what the message names",
    )


def _features(module: Any) -> int:
    """Return inputs plus outputs of a linear layer: its adapter's size at rank 1."""
    if hasattr(module, "nf"):
        return int(module.nx + module.nf)
    return int(module.in_features + module.out_features)


def _active(spec: ModelSpec, model: Any) -> int | Unknown:
    """Return how many parameters a token meets.

    Formula: total - stacked expert weights x (1 - experts used / experts).
    """
    total = int(sum(p.numel() for p in model.parameters()))
    if spec.experts is None:
        return total
    if isinstance(spec.experts.active, Unknown):
        return spec.experts.active
    from carl_runtime_min.lora import stacked_experts

    stacked = int(
        sum(
            p.numel()
            for module in model.modules()
            if spec.experts.total in stacked_experts(module)
            for p in module.parameters(recurse=False)
            if p.dim() == 3
        )
    )
    return total - stacked + stacked * spec.experts.active // spec.experts.total
