"""Length of the generated scripts against their limits.

    python -m benchmarks.script_length

Counted are the lines of the golden scripts that hold something (comments and docstrings
too), without licence and metadata block, CONFIG, user code and the built-in model,
tokenizer and task, which have a limit of their own. RLOO has the limit of GRPO, methods
of preference that of SFT.
"""

from __future__ import annotations

import ast
import sys
from pathlib import Path

from benchmarks.measure import Row, report
from carl_bundle.bundler.provenance import Script

GOLDEN = Path(__file__).parent.parent / "golden"
LIMITS = {"sft": 350, "grpo": 700, "tools": 950, "pipeline": 950}
BUILTIN, BUILTIN_LIMIT = "carl_runtime_min/builtin", 150
LONGEST_FUNCTION, WIDEST_LINE = 60, 88


def held(text: str) -> int:
    """Lines that are not blank."""
    return sum(bool(line.strip()) for line in text.split("\n"))


def measure(path: Path) -> tuple[str, int, int, int, int]:
    """Recipe, lines, built-in lines, longest function, widest line outside CONFIG."""
    script = Script.read(path)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef)]
    longest = max((n.end_lineno or 0) - n.lineno + 1 for n in functions)
    counted = [
        section.text
        for section in script.sections
        if section.name == "wiring"
        or (
            section.name.startswith("carl_runtime_min/")
            and not section.name.startswith(BUILTIN)
        )
    ]
    header = next(s.text for s in script.sections if s.name == "header")
    counted.append(header[header.index('"""') :])
    builtin = [s.text for s in script.sections if s.name.startswith(BUILTIN)]
    widest = max(len(line) for text in counted for line in text.split("\n"))
    kind = "pipeline" if "eval" in script.config else "sft"
    if kind == "sft" and {"grpo", "rloo"} & set(script.config):
        kind = "tools" if "tools" in script.config.get("grpo", {}) else "grpo"
    return kind, sum(map(held, counted)), sum(map(held, builtin)), longest, widest


def rows() -> list[Row]:
    print(
        f"{'golden':22}{'lines':>7}{'limit':>7}{'built-in':>10}{'function':>10}{'width':>7}"
    )
    found, longest = dict.fromkeys(LIMITS, 0), [0, 0, 0]
    for path in sorted(GOLDEN.glob("*/train.py")):
        kind, lines, *others = measure(path)
        row = f"{lines:>7}{LIMITS[kind]:>7}{others[0]:>10}{others[1]:>10}{others[2]:>7}"
        print(f"{path.parent.name:22}{row}")
        found[kind] = max(found[kind], lines)
        longest = [max(pair) for pair in zip(longest, others, strict=True)]
    whole = [
        Row(f"lines of the longest script, {kind}", found[kind], limit, form="d")
        for kind, limit in LIMITS.items()
    ]
    names = ("lines of built-in model and task", "lines of a function", "columns")
    limits = (BUILTIN_LIMIT, LONGEST_FUNCTION, WIDEST_LINE)
    return whole + [
        Row(f"{name} in a script", most, limit, form="d")
        for name, most, limit in zip(names, longest, limits, strict=True)
    ]


if __name__ == "__main__":
    sys.exit(report(rows()))
