"""Reward functions that remember what they saw, and whose memory is checkpointed."""

from __future__ import annotations

import inspect
from typing import Any

from carl_runtime_min.errors import UsageError


def made_reward(found: Any) -> Any:
    """A reward function as it is; of a class, its one instance, which has a state.

    UsageError: The class has no `state_dict()` and `load_state_dict(state)`.
    """
    if not isinstance(found, type):
        return found
    if not (hasattr(found, "state_dict") and hasattr(found, "load_state_dict")):
        remedy = "add state_dict() and load_state_dict(state), or make it a function"
        raise UsageError(f"the reward {found.__name__} has no state", remedy=remedy)
    made = found()
    made.__name__ = found.__name__  # as TRL names it
    return made


def remembering(trainer: Any) -> dict[str, Any]:
    """The rewards of a trainer that carry a state, by name."""
    rewards = map(inspect.unwrap, vars(trainer).get("reward_funcs", ()))
    return {one.__name__: one for one in rewards if hasattr(one, "load_state_dict")}
