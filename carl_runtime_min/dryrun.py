"""What a run would do, shown before it costs anything."""

from __future__ import annotations

from typing import Any


def show_plan(config: dict[str, Any], phases: list[str]) -> None:
    """Print the settings of every phase."""
    print(f"run {config['name']} in {config['run_dir']}, seed {config['seed']}")
    for phase in phases:
        print(f"\n{phase}")
        settings = config[phase]
        for name, value in {**settings, **settings.get("trainer", {})}.items():
            if name != "trainer":
                print(f"  {name}: {value}")


def show_row(tokenizer: Any, row: dict[str, Any]) -> None:
    """Print one row as the model sees it, the tokens that it learns in ⟦ ⟧.

    Warns when no end-of-sequence token is among them: such a model never stops.
    """
    render, chat = tokenizer.apply_chat_template, not isinstance(row.get("prompt"), str)
    if "messages" in row:
        ids = render(row["messages"], tokenize=True, return_dict=False)
        start = 0
    elif chat:
        start = len(render(row["prompt"], add_generation_prompt=True)["input_ids"])
        turns = row["prompt"] + row.get("completion", [])
        last = "completion" not in row
        ids = render(turns, add_generation_prompt=last)["input_ids"]
    else:
        start = len(tokenizer(row["prompt"])["input_ids"])
        ids = tokenizer(row["prompt"] + row.get("completion", ""))["input_ids"]
    seen, learned = tokenizer.decode(ids[:start]), tokenizer.decode(ids[start:])
    print(f"\none row, {len(ids)} tokens:\n{seen}⟦{learned}⟧" if learned else seen)
    if chat and learned and tokenizer.eos_token_id not in ids[start:]:
        print(f"warning: the end of a turn is not {tokenizer.eos_token!r}, the end of")
        print("  sequence: what is trained may never stop. Check the chat template.")
