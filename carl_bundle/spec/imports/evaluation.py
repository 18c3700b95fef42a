"""An evaluation every so many steps, which all formats leave to transformers."""

from __future__ import annotations

from typing import Any

from carl_bundle.spec.document import get
from carl_bundle.spec.imports.draft import Draft

NOT_GIVEN = "it belongs to an evaluation every so many steps, which the file has not"
SHARE = "it is a share of the rows; eval.items counts them"
OFTEN = "to keep the best model, a checkpoint is written at each evaluation"
ROWS = "set eval.data to these rows"

_STRATEGIES = ("eval_strategy", "evaluation_strategy")


def evaluation(
    draft: Draft,
    *,
    held_out: str = "",
    patience: str = "",
    test_split: str = "",
    needs_strategy: bool = True,
) -> None:
    """Set `eval` from the settings of the file.

    Args:
        draft: The spec in the making; its `data` is set.
        held_out: The setting for how many rows are held out.
        patience: The setting for early stopping, in evaluations.
        test_split: The setting for the split with the rows, `test` if not given.
        needs_strategy: Whether `eval_steps` means nothing by itself.
    """
    names = ("metric_for_best_model", "greater_is_better", "load_best_model_at_end")
    if not _every(draft, needs_strategy):
        for key in (*names, held_out, patience, test_split, "eval_steps"):
            if draft.settings.get(key):
                draft.drop(key, NOT_GIVEN)
        return
    draft.move("load_best_model_at_end", "eval.best")
    if get(draft.document, "eval.best") is None:
        draft.imply("eval.best", False)
    every, saved = get(draft.document, "eval.every"), draft.settings.get("save_steps")
    if get(draft.document, "eval.best") and saved != every:
        draft.drop("save_steps", OFTEN)
    _metric(draft)
    draft.move(patience, "eval.patience")
    given = draft.settings.get(held_out)
    if type(given) is int and given:
        draft.put(held_out, "eval.items", given)
    elif given:
        draft.drop(held_out, SHARE)
    data = draft.document.get("data", {})
    is_file = str(data.get("id")).endswith((".jsonl", ".json", ".parquet"))
    if test_split and data.get("id") and not is_file:
        rows = {key: data[key] for key in ("id", "config") if key in data}
        rows["split"] = draft.take(test_split) or "test"
        draft.imply("eval.data", rows)


def _every(draft: Draft, needs_strategy: bool) -> bool:
    """Set `eval.every`; whether there is an evaluation."""
    given = [draft.settings.get(key) for key in _STRATEGIES]
    strategy = next((value for value in given if value is not None), None)
    steps = draft.settings.get("eval_steps")
    on = strategy == "steps" or (strategy is None and not needs_strategy)
    if on and type(steps) is int and steps > 0:
        for key in _STRATEGIES:
            draft.take(key)
        draft.put("eval_steps", "eval.every", steps)
        return True
    for key in _STRATEGIES:
        if draft.settings.get(key) not in ("no", False):
            draft.drop(key, "an evaluation counts steps; set eval.every")
    return False


def _metric(draft: Draft) -> None:
    metric: Any = draft.settings.get("metric_for_best_model")
    draft.move("metric_for_best_model", "eval.metric")
    higher = draft.settings.get("greater_is_better")
    if higher is (not str(metric or "loss").endswith("loss")):
        draft.take("greater_is_better")
    draft.drop("greater_is_better", "higher is better unless the name ends in loss")
