"""What a run would do, shown before it costs anything."""

from __future__ import annotations

import json
from functools import partial
from typing import Any


def show_plan(config: dict[str, Any]) -> None:
    """Print the settings, without the reference vectors and the spec."""
    plan = {k: v for k, v in config.items() if k not in ("self_test", "spec")}
    print(json.dumps(plan, indent=2, ensure_ascii=False))


def show_row(tokenizer: Any, row: dict[str, Any]) -> None:
    """Print one row as the model sees it, the tokens that it learns in ⟦ ⟧.

    Warns when no end-of-sequence token is among them: such a model never stops.
    """
    prompt, learned = row.get("prompt", []), row.get("completion") or row.get(
        "messages"
    )
    if isinstance(prompt, str):
        start = len(tokenizer(prompt)["input_ids"])
        ids = tokenizer(prompt + (learned or ""))["input_ids"]
        ids += [tokenizer.eos_token_id] * bool(learned)  # TRL appends it to plain text
    else:
        render = partial(tokenizer.apply_chat_template, return_dict=False)
        shown = render(prompt, add_generation_prompt=True) if prompt else []
        start, ids = len(shown), render(prompt + learned) if learned else shown
    seen, new = tokenizer.decode(ids[:start]), tokenizer.decode(ids[start:])
    print(f"\none row, {len(ids)} tokens:\n{seen}⟦{new}⟧" if learned else f"\n{seen}")
    if learned and tokenizer.eos_token_id not in ids[start:]:
        print(f"warning: a turn ends without {tokenizer.eos_token!r}: what is trained")
        print("  may never stop; check the chat template and the end-of-sequence token")
