"""docs/models.md, from what was measured."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import count

from tools.matrix.cache import Outcome, versions
from tools.matrix.instance import MOST_PARAMETERS, Case
from tools.matrix.sides import METHODS, STEPS

Runs = Mapping[str, Outcome]
NOTHING = Outcome("not measured")
TITLES = {
    "causal-lm": "Language models",
    "image-text-to-text": "Models for images and text, with rows of text",
}
INTRODUCTION = """# Models

What the scripts train, by trying. `make matrix` takes every model type that
transformers maps to a causal language model, or to a model for images and text. From
the type's own configuration class it makes a random model with few layers and small
widths (at most {most} million parameters; the rules are on names of fields, in
`tools/matrix/shrink.py`). It saves that with a tokenizer of bytes and a chat template,
lets `carl bundle` render SFT, and GRPO with CARL, for the directory, and runs {steps}
steps of each on a CPU. A run counts if all losses are finite, the file lacked no
weight, and in SFT a gradient reached the adapters.

The control is TRL's own trainer on the same directory and rows, with PEFT's
`target_modules="all-linear"`. What a short run does not need has its default on both
sides; that includes adapters and activation checkpointing.

What a class cannot do is known before a script is written: `make tables` tries two
tokens on a small model of each, in the way in which TRL uses it
(`carl_bundle/spec/tables/class_limits.json`). `carl bundle` refuses a class that fails,
with what it says. It leaves out, and says so, the checkpointing of activations where a
class has none, and the loss that balances experts where TRL cannot compute it.

This says that the code of a type works. It says nothing of the quality of a model, of
GPUs, of quantised weights, or of files in an older layout. Types for images and text
got text: there are no recipes for images yet. A type with another class for text alone
is in both tables.

Measured with {versions}.
"""
WORDS = """
| word | meaning |
|---|---|
| runs | it trained |
| refused | a message with the reason and what to do, before training |
| fails | an error; the number leads to it below |
| no model | transformers makes no model of the type from its defaults, here |
| – | not measured |
"""


class Notes:
    """Reasons, numbered as they come up; equal ones have one number."""

    def __init__(self) -> None:
        self.numbers: dict[str, int] = {}
        self.next = count(1)

    def cell(self, outcome: Outcome) -> str:
        if outcome is NOTHING:
            return "–"
        if not outcome.reason:
            return outcome.word
        text = " ".join(outcome.reason.split()).replace("|", "\\|").replace("`", "'")
        if text not in self.numbers:
            self.numbers[text] = next(self.next)
        return f"{outcome.word} [{self.numbers[text]}]"

    def lines(self) -> Iterable[str]:
        return (f"{number}. `{text}`" for text, number in self.numbers.items())


def trains(runs: Runs, side: str) -> bool:
    return all(runs.get(f"{side}/{m}", NOTHING).word == "runs" for m in METHODS)


def measured(runs: Runs) -> bool:
    complete = {f"{side}/{m}" for side in ("ours", "plain") for m in METHODS}
    no_model = runs.get("instance", NOTHING).word not in ("runs", NOTHING.word)
    return no_model or complete <= runs.keys()


def totals(found: Mapping[Case, Runs]) -> str:
    """How often which side trains, by method and kind of model."""
    lines = [
        "| | types | no model | TRL trains | of those, CARL too | CARL alone "
        "| neither | not measured |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for auto_class, title in TITLES.items():
        for method in METHODS:
            tally = Counter(
                verdict(runs, method)
                for case, runs in found.items()
                if case.auto_class == auto_class
            )
            both = tally["both"]
            numbers = [
                tally.total(),
                tally["no model"],
                both + tally["plain"],
                both,
                tally["ours"],
                tally["neither"],
                tally["not measured"],
            ]
            cells = " | ".join(map(str, numbers))
            lines.append(f"| {title}: {method.upper()} | {cells} |")
    return "\n".join(lines)


def verdict(runs: Runs, method: str) -> str:
    if not measured(runs):
        return "not measured"
    if runs["instance"].word != "runs":
        return "no model"
    words = [runs[f"{side}/{method}"].word == "runs" for side in ("ours", "plain")]
    return {(1, 1): "both", (1, 0): "ours", (0, 1): "plain", (0, 0): "neither"}[
        (int(words[0]), int(words[1]))
    ]


def table(found: Mapping[Case, Runs], notes: Notes) -> str:
    lines = [
        "| type | class | SFT | GRPO | TRL alone: SFT | GRPO |",
        "|---|---|---|---|---|---|",
    ]
    columns = [f"{side}/{m}" for side in ("ours", "plain") for m in METHODS]
    for case, runs in found.items():
        made = runs.get("instance", NOTHING)
        if made.word == "runs" or made is NOTHING:
            cells = [notes.cell(runs.get(column, NOTHING)) for column in columns]
        else:
            cells = [notes.cell(Outcome("no model", made.reason)), "", "", ""]
        row = [f"`{case.model_type}`", f"`{case.architecture}`", *cells]
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join(lines)


def report(found: Mapping[Case, Runs]) -> str:
    """The page: counts, a table of each kind, and the reasons."""
    named = ", ".join(f"{name} {number}" for name, number in versions().items())
    most = MOST_PARAMETERS // 1_000_000
    text = INTRODUCTION.format(most=most, steps=STEPS, versions=named)
    parts, notes = [text, totals(found), WORDS], Notes()
    for auto_class, title in TITLES.items():
        of_kind = {c: found[c] for c in found if c.auto_class == auto_class}
        parts += [f"## {title}\n", table(of_kind, notes), ""]
    parts += ["## Reasons\n", *notes.lines(), ""]
    return "\n".join(parts)
