"""A check that TRL is the version whose private methods a script was written for."""

from __future__ import annotations

import inspect

from carl_runtime_min.errors import CarlError


def check_hooks(trainer_class: type, hooks: dict[str, str]) -> None:
    """Stop if a private method does not take, after self, the arguments in `hooks`."""
    for name, expected in hooks.items():
        method = getattr(trainer_class, name, lambda: None)
        found = ", ".join(inspect.signature(method).parameters)
        if not f"{found}, ".removeprefix("self, ").startswith(f"{expected}, "):
            remedy = "install the TRL version pinned at the top of this script"
            raise CarlError(f"TRL's {name} takes ({found})", remedy=remedy, exit_code=4)
