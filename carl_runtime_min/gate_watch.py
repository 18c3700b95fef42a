"""What shows a phase gate the training."""

from __future__ import annotations

from typing import Any

from carl_runtime_min.fit import Observer
from carl_runtime_min.gate import Gate


class GateWatch(Observer):
    """Shows the gate every optimizer step, however rarely the run logs.

    The trainer keeps one value per micro-batch until it logs, which comes after this
    event: the last `gradient_accumulation_steps` values are this step's.
    """

    def __init__(self, trainer: Any, gate: Gate, metric: str, stop: bool) -> None:
        self.trainer, self.gate, self.metric, self.stop = trainer, gate, metric, stop

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        kept = self.trainer._metrics["train"]
        count = self.trainer.current_gradient_accumulation_steps
        last = [kept.get(name, [])[-count:] for name in (self.metric, "entropy")]
        value, entropy = (sum(x) / len(x) if x else None for x in last)
        if self.gate.check(value, entropy, state.global_step):
            if state.is_world_process_zero:
                step = state.global_step
                print(f"gate: fired at step {step}, {self.metric} {value:.3f}")
            if self.stop:
                control.should_evaluate |= args.do_eval  # it may be the best one
                control.should_save = control.should_training_stop = True
