"""The check that TRL has the private methods that the mixins build on."""

from __future__ import annotations

from typing import Any

import pytest
from trl import DPOTrainer, GRPOTrainer, KTOTrainer, RLOOTrainer

from carl_runtime_min.errors import CarlError
from carl_runtime_min.grpo import HOOKS
from carl_runtime_min.hooks import check_hooks
from carl_runtime_min.preference import LOSS_HOOKS, ORPO_HOOKS


@pytest.mark.parametrize(
    ("trainer", "hooks"),
    [
        (GRPOTrainer, HOOKS),
        (RLOOTrainer, HOOKS),
        (DPOTrainer, LOSS_HOOKS),
        (KTOTrainer, LOSS_HOOKS),
    ],
)
def test_the_pinned_trl_has_the_hooks(trainer: type, hooks: dict[str, str]) -> None:
    check_hooks(trainer, hooks)


def test_the_pinned_trl_has_the_hooks_of_orpo(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRL_EXPERIMENTAL_SILENCE", "1")
    from trl.experimental.orpo import ORPOTrainer

    check_hooks(ORPOTrainer, ORPO_HOOKS)


def test_one_trainer_does_not_pass_for_another() -> None:
    with pytest.raises(CarlError, match="TRL's concatenated_forward takes"):
        check_hooks(DPOTrainer, ORPO_HOOKS)


@pytest.mark.parametrize(
    ("name", "method"),
    [
        ("_generate", lambda self, inputs: None),
        ("_calculate_rewards", lambda self, inputs, prompts, completions: None),
        (
            "_get_per_token_logps_and_entropies",
            lambda self, model, input_ids, attention_mask, batch_size: None,
        ),
        ("_generate_and_score_completions", None),
    ],
)
def test_a_changed_hook_stops_the_script_before_it_trains(
    name: str, method: Any
) -> None:
    methods = {hook: getattr(GRPOTrainer, hook) for hook in HOOKS} | {name: method}
    changed = type(
        "Changed", (), {hook: methods[hook] for hook in HOOKS if methods[hook]}
    )
    with pytest.raises(CarlError, match=f"TRL's {name} takes") as refused:
        check_hooks(changed, HOOKS)
    assert refused.value.exit_code == 4
    assert "TRL version" in refused.value.remedy


@pytest.mark.parametrize(
    ("found", "fits"),
    [
        (lambda self, model, inputs, return_outputs, more=None: None, True),
        (lambda self, model, inputs, return_outputs_too: None, False),
        (lambda self, inputs, model, return_outputs: None, False),
        (staticmethod(lambda model, inputs, return_outputs: None), True),
    ],
)
def test_arguments_may_be_added_at_the_end_alone(found: Any, fits: bool) -> None:
    trainer = type("Trainer", (DPOTrainer,), {"_compute_loss": found})
    if fits:
        check_hooks(trainer, LOSS_HOOKS)
    else:
        with pytest.raises(CarlError, match="_compute_loss"):
            check_hooks(trainer, LOSS_HOOKS)
