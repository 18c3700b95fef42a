"""What `carl inspect` prints for people."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from carl_bundle.spec.attention import Attention
from carl_bundle.spec.thinking import Thinking
from carl_bundle.spec.unknown import Unknown
from carl_bundle.spec.vram import parameters

if TYPE_CHECKING:
    from carl_bundle.cli.inspect import Report
    from carl_bundle.spec.cost import Cost
    from carl_bundle.spec.measure import Measurement
    from carl_bundle.spec.model_spec import ModelSpec
    from carl_bundle.spec.train_spec import TrainSpec
    from carl_bundle.spec.vram import VRAMBudget

WIDTH = 88


def render(report: Report) -> Iterator[str]:
    """Yield the lines of a report: model, plan, memory, cost."""
    if report.model is not None:
        yield from _model_lines(report.model, report.measurement)
    else:
        yield "MODEL  built-in: made inside the script, about a million parameters"
    yield ""
    yield from _plan_lines(report.plan)
    for budget in report.budgets:
        yield ""
        yield from _budget_lines(budget)
    yield ""
    yield from _cost_lines(report.cost)


def _model_lines(model: ModelSpec, measurement: Measurement | None) -> Iterator[str]:
    yield f"MODEL  {model.source}" + (f" at {model.commit}" if model.commit else "")
    count = measurement.parameters if measurement else parameters(model)
    experts, quantization = model.experts, model.quantization
    values: dict[str, Any] = {
        "type": model.architecture.model_type,
        "class": model.architecture.name,
        "loaded as": model.architecture.auto_class,
        "takes": " + ".join(model.architecture.modalities),
        "thinking": _thinking(model.thinking),
        "parameters": count,
        "experts": "none (dense)",
        "weights": model.weight_dtype,
        "context": model.context_length,
        "V": model.vocab_size,
        "tokenizer": model.tokenizer_length,
        "layers": _layers(model.attention),
        "cache a token": _size(model.kv_bytes_per_token),
    }
    if experts is not None:
        values["experts"] = f"{experts.total}, {experts.active} used by a token"
    if quantization is not None:
        values["weights"] = f"{quantization.method}: {quantization.remedy}"
    if measurement is not None:
        names = measurement.lora_modules
        values["LoRA layers"] = f"{len(names)}, such as {names[0]}"
    for name, value in values.items():
        yield f"  {name:<15} {_value(value)}"


def _thinking(thinking: Thinking | Unknown | None) -> str | Unknown:
    if thinking is None:
        return "no chat template"
    if isinstance(thinking, Unknown):
        return thinking
    return thinking.mode + (f" by {thinking.switch}" if thinking.switch else "")


def _layers(attention: Attention | Unknown) -> str | Unknown:
    if isinstance(attention, Unknown):
        return attention
    counts = {
        kind: attention.kinds.count(kind) for kind in sorted(set(attention.kinds))
    }
    parts = [f"{count} {kind}" for kind, count in counts.items()]
    if attention.window:
        parts.append(f"window {attention.window}")
    if attention.latent:
        parts.append("latent keys and values")
    return ", ".join(parts)


def _plan_lines(plan: TrainSpec) -> Iterator[str]:
    yield f"PLAN  {plan.method} on {plan.data.id}, seed {plan.seed}, to {plan.run_dir}"
    for name, phase in plan.phases.items():
        values = phase.model_dump(exclude_none=True, exclude={"data", "trainer"})
        shown = ", ".join(f"{key} {value}" for key, value in values.items())
        yield from wrap(f"  {name}: {shown}", WIDTH, subsequent_indent="    ")
    lora = plan.lora
    yield f"  lora: {f'r {lora.r}, alpha {lora.alpha:g}' if lora else 'all weights'}"


def _budget_lines(budget: VRAMBudget) -> Iterator[str]:
    state = "measured" if budget.calibrated else "uncalibrated: formulas, not measured"
    yield f"MEMORY of {budget.phase} on one GPU ({state})"
    for row in (*budget.rows, budget.disk):
        when = "" if row.when == "always" else f"   while {row.when}"
        why = f" ({row.bytes.reason})" if isinstance(row.bytes, Unknown) else ""
        yield f"  {row.name:<20} {_size(row.bytes):>10}  {row.formula}{when}{why}"
    yield f"  {'at the fullest':<20} {_size(budget.total):>10}"


def _cost_lines(cost: Cost) -> Iterator[str]:
    yield "COST"
    for phase in cost.phases:
        tokens = _value(phase.tokens_per_step)
        yield f"  {phase.phase} steps: {_value(phase.steps)}"
        yield f"  {phase.phase} tokens a step: at most {tokens}"
    hours, dollars = cost.hours, cost.dollars
    yield f"  hours: {_value(hours) if isinstance(hours, Unknown) else f'{hours:.2f}'}"
    shown = _value(dollars) if isinstance(dollars, Unknown) else f"{dollars:.2f}"
    yield f"  dollars: {shown}"


def _value(value: Any) -> str:
    """Return a number with separators, an unknown with its remedy."""
    if isinstance(value, Unknown):
        return f"{value}; {value.remedy}" if value.remedy else str(value)
    return f"{value:,}" if isinstance(value, int) else str(value)


def _size(value: Any) -> str:
    """Return bytes in the unit that fits."""
    if isinstance(value, Unknown):
        return "UNKNOWN"
    amount = float(value)
    for unit in ("B", "KiB", "MiB"):
        if amount < 1024:
            return f"{amount:.0f} B" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} GiB"
