"""What a dry run shows of the data: one row, as the model sees it."""

from __future__ import annotations

from functools import partial
from itertools import groupby
from typing import Any

from carl_runtime_min.data import tools_of


def show_row(tokenizer: Any, row: dict[str, Any], answers_only: bool = False) -> None:
    """Print a row as the model sees it, the tokens that it learns in ⟦ ⟧.

    Warns when no end-of-sequence token is among them: such a model never stops.
    """
    prompt, learned = row.get("prompt"), row.get("completion") or row.get("messages")
    tools = tools_of(row) if learned else None  # GRPO shows none of the rows
    render = partial(tokenizer.apply_chat_template, return_dict=True, tools=tools)
    if answers_only:  # TRL has templates that mark the answers, for those that do not
        from trl import chat_template_utils as trl

        if not trl.has_generation_markers(tokenizer.chat_template):
            marked = trl.get_training_chat_template(tokenizer)
            render = partial(render, chat_template=marked)
    if isinstance(prompt, str):
        start = len(tokenizer(prompt)["input_ids"])
        ids = tokenizer(prompt + (learned or ""))["input_ids"]
        ids += [tokenizer.eos_token_id] * bool(learned)  # TRL appends it to plain text
    else:
        asked = (
            render(prompt, add_generation_prompt=True)["input_ids"] if prompt else []
        )
        start, whole = len(asked), (prompt or []) + (learned or [])
        ids = render(whole)["input_ids"] if learned else asked
    mask = [place >= start for place in range(len(ids))]
    if answers_only:
        mask = render(whole, return_assistant_tokens_mask=True)["assistant_masks"]
    print(f"\none row, {len(ids)} tokens:")
    for learns, places in groupby(range(len(ids)), key=lambda place: bool(mask[place])):
        text = tokenizer.decode([ids[place] for place in places])
        print(f"⟦{text}⟧" if learns else text, end="")
    print()
    own = [token for token, learns in zip(ids, mask, strict=True) if learns]
    if learned and tokenizer.eos_token_id not in own:
        print(f"warning: no turn ends with {tokenizer.eos_token!r}, so the model may")
        print("  never stop; check the chat template and the end-of-sequence token")
