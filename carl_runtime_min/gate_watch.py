"""Shows the gate every optimizer step and ends the phase when it fires."""

from __future__ import annotations

from typing import Any

from carl_runtime_min.fit import Observer
from carl_runtime_min.gate import PhaseTransitionGate


class GateWatch(Observer):
    """Trainer callback: one observation of the gate per optimizer step.

    The trainer collects one value per micro-batch and clears them when it logs, after
    this event; so the last `gradient_accumulation_steps` values are this step's,
    however rarely the run logs.
    """

    def __init__(
        self, trainer: Any, gate: PhaseTransitionGate, metric: str, stop: bool
    ) -> None:
        self.trainer, self.gate = trainer, gate
        self.metric, self.stop = metric, stop

    def step_mean(self, name: str) -> float | None:
        """Mean of metric `name` over this step's micro-batches, None if not measured."""
        count = self.trainer.current_gradient_accumulation_steps
        values = self.trainer._metrics["train"].get(name, [])[-count:]
        return sum(values) / len(values) if values else None

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        value = self.step_mean(self.metric)
        if value is None:
            return
        step = state.global_step
        if self.gate.check(value, self.step_mean("entropy"), step):
            print(f"gate: fired at step {step}, {self.metric} {value:.3f}", flush=True)
            if self.stop:
                control.should_save = control.should_training_stop = True
