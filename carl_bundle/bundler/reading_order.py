"""The order in which a script presents the runtime modules.

It is meant to be read from top to bottom: how a run is kept, what is measured, what is
rewarded, what is trained, what comes out. A module that is missing here is a build
error, so that its place is a decision.
"""

from __future__ import annotations

READING_ORDER = (
    "errors",
    "strict_json",
    "run",
    "constants",
    "field",
    "rewards",
    "snapshot",
    "trace",
    "gate",
    "cascade",
    "verdict",
    "tasks",
    "judge",
    "math_reward",
    "gym",
    "tool_rewards",
    "click_rewards",
    "sandbox",
    "environments",
    "builtin",
    "builtin_environments",
    "data",
    "mixture",
    "streaming",
    "lora",
    "models",
    "vision",
    "limits",
    "vllm",
    "supervisor",
    "steps",
    "resume",
    "fit",
    "tracking",
    "gate_watch",
    "hooks",
    "grpo",
    "capture",
    "thinking",
    "preference",
    "evaluation",
    "summary",
    "push",
    "selftest",
    "dryrun",
    "entry",
    "replay",
)
