"""The page says of every type what was measured, and that some were not."""

from __future__ import annotations

from pathlib import Path

from tools.matrix import cache
from tools.matrix.cache import Outcome
from tools.matrix.instance import Case, cases
from tools.matrix.report import report

OK, BAD = Outcome("runs"), Outcome("fails", "ValueError: a | b")
BUILT = {"instance": OK}


def four(ours: Outcome, plain: Outcome) -> dict[str, Outcome]:
    runs = {f"ours/{m}": ours for m in ("sft", "grpo")}
    return {**BUILT, **runs, **{f"plain/{m}": plain for m in ("sft", "grpo")}}


def test_counts_who_trains_what() -> None:
    outcomes = [
        four(OK, OK),
        four(OK, BAD),
        four(BAD, OK),
        four(BAD, BAD),
        {"instance": Outcome("fails", "ImportError: timm")},
        {},
        {**BUILT, "ours/sft": OK},
    ]
    found = {
        Case(f"type{i}", "causal-lm", "X"): runs for i, runs in enumerate(outcomes)
    }
    page = report(found)
    assert "| Language models: SFT | 7 | 1 | 2 | 1 | 1 | 1 | 2 |" in page
    row = next(line for line in page.splitlines() if "`type2`" in line)
    assert row == "| `type2` | `X` | fails [1] | fails [1] | runs | runs |"
    assert "1. `ValueError: a \\| b`" in page
    assert "| `type4` | `X` | no model [2] |  |  |  |" in page
    assert "| `type5` | `X` | – | – | – | – |" in page


def test_what_was_measured_holds_until_something_changes(tmp_path: Path) -> None:
    keys = {"instance": "a", "plain": "a", "ours": "b"}
    cache.store(tmp_path, "x", keys, four(OK, BAD))
    assert cache.load(tmp_path, "x", keys) == four(OK, BAD)
    kept = cache.load(tmp_path, "x", {**keys, "ours": "c"})
    assert kept == {**BUILT, "plain/sft": BAD, "plain/grpo": BAD}
    assert cache.load(tmp_path, "y", keys) == {}


def test_every_type_of_both_mappings_is_a_case() -> None:
    from transformers.models.auto import modeling_auto

    found = {case.model_type for case in cases()}
    assert found >= modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys()
    assert found >= modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES.keys()
