"""Change one constant, comparison or operator at a time; the tests must notice.

    python -m tools.mutants [--jobs N] [--list] [MODULE ...]

Script and library share their text, so a golden cannot tell a wrong formula from a
right one: only the tests of the mathematics can, and this shows that they do. Every
mutant is a copy of the package with one place changed, tried in a forked process that
finds torch already imported. The working tree is never touched. Results are kept in
.mutants/ and reused while module and tests stay the same.

Prints each survivor as file:line and the change. Exit code 1 if one is not explained
in tools/equivalent_mutants.toml, or if an explanation there no longer applies.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import os
import re
import shutil
import signal
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "carl_runtime_min"
TESTS = ROOT / "tests" / "runtime"
MODULES = ("constants", "field", "rewards", "gate", "cascade", "verdict")
TIME_LIMIT = 60  # seconds; a mutant that loops for ever is noticed too

OPERATORS: dict[type[ast.AST], tuple[str, tuple[str, ...]]] = {
    ast.Add: ("+", ("-",)),
    ast.Sub: ("-", ("+",)),
    ast.Mult: ("*", ("/",)),
    ast.Div: ("/", ("*",)),
    ast.FloorDiv: ("//", ("/",)),
    ast.Mod: ("%", ("*",)),
    ast.Pow: ("**", ("*",)),
    ast.LShift: ("<<", (">>",)),
    ast.BitAnd: ("&", ("|",)),
    ast.BitOr: ("|", ("&",)),
    ast.And: ("and", ("or",)),
    ast.Or: ("or", ("and",)),
    ast.Lt: ("<", ("<=", ">=")),
    ast.LtE: ("<=", ("<", ">")),
    ast.Gt: (">", (">=", "<=")),
    ast.GtE: (">=", (">", "<")),
    ast.Eq: ("==", ("!=",)),
    ast.NotEq: ("!=", ("==",)),
    ast.Is: ("is", ("is not",)),
    ast.IsNot: ("is not", ("is",)),
    ast.USub: ("-", ("",)),
    ast.Invert: ("~", ("",)),
    ast.Not: ("not", ("",)),
}


@dataclass(frozen=True)
class Mutant:
    """One change to the source of one module: bytes [start, end) become `text`."""

    module: str
    source: bytes
    start: int
    end: int
    text: str

    @property
    def changed(self) -> bytes:
        return self.source[: self.start] + self.text.encode() + self.source[self.end :]

    @property
    def line(self) -> int:
        return self.source.count(b"\n", 0, self.start) + 1

    @property
    def lines(self) -> tuple[str, str]:
        """The line before and after."""
        return tuple(
            text.decode().splitlines()[self.line - 1].strip()
            for text in (self.source, self.changed)
        )


def nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Nodes that decide a result: no annotation, no docstring, no error."""
    for name, value in ast.iter_fields(tree):
        if name in ("annotation", "returns", "decorator_list"):
            continue
        for child in value if isinstance(value, list) else [value]:
            silent = isinstance(child, (ast.JoinedStr, ast.Raise)) or (
                isinstance(child, ast.Expr) and isinstance(child.value, ast.Constant)
            )
            if isinstance(child, ast.AST) and not silent:
                yield child
                if not is_number(child):
                    yield from nodes(child)


def is_number(node: ast.AST) -> bool:
    """Whether it is a literal with a sign, which changes as one constant."""
    return isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant)


def values(constant: ast.expr) -> list[str]:
    """What to put in place of a constant."""
    value = ast.literal_eval(constant)
    if isinstance(value, bool):
        return [repr(not value)]
    if isinstance(value, int):
        return [repr(value + 1), repr(value - 1)]
    if isinstance(value, float):
        return [repr(value * 1.1), repr(value * 0.9)] if value else ["0.1"]
    return [repr(f"{value}!")] if isinstance(value, str) else []


def mutants_of(module: str, source: bytes) -> list[Mutant]:
    """Every mutant of a module, in source order."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def begin(node: ast.expr) -> int:
        return starts[node.lineno - 1] + node.col_offset

    def end(node: ast.expr) -> int:
        return starts[(node.end_lineno or 0) - 1] + (node.end_col_offset or 0)

    found: list[Mutant] = []

    def swap(operator: ast.AST, low: int, high: int) -> None:
        symbol, others = OPERATORS[type(operator)]
        place = re.search(
            re.escape(symbol).replace(r"\ ", r"\s+").encode(), source[low:high]
        )
        assert place, f"{symbol} not found in {source[low:high]!r}"
        a, b = low + place.start(), low + place.end()
        found.extend(Mutant(module, source, a, b, other) for other in others)

    for node in nodes(ast.parse(source)):
        if isinstance(node, ast.Constant) or is_number(node):
            found += [
                Mutant(module, source, begin(node), end(node), v) for v in values(node)
            ]
        elif isinstance(node, ast.UnaryOp) and type(node.op) in OPERATORS:
            swap(node.op, begin(node), begin(node.operand))
        elif isinstance(node, ast.BinOp):
            swap(node.op, end(node.left), begin(node.right))
        elif isinstance(node, ast.BoolOp):
            for left, right in zip(node.values, node.values[1:], strict=False):
                swap(node.op, end(left), begin(right))
        elif isinstance(node, ast.Compare):
            terms = [node.left, *node.comparators]
            for i, operator in enumerate(node.ops):
                swap(operator, end(terms[i]), begin(terms[i + 1]))
        elif isinstance(node, ast.AugAssign):
            swap(node.op, end(node.target), begin(node.value))
    return sorted(found, key=lambda mutant: mutant.start)


def relevant_tests(module: str) -> list[str]:
    """Whose tests to run: the module's own, then those of modules that use it."""
    users = {"field": ["trace"], "rewards": ["trace"], "gate": ["cascade"]}
    return [module, *users.get(module, [])]


def used_by(package: Path, names: list[str]) -> list[str]:
    """The named modules and all they import from the package."""
    for name in names:  # grows while it is walked
        text = (package / f"{name}.py").read_text()
        found = re.findall(rf"from {PACKAGE.name}\.(\w+) import", text)
        names += [other for other in found if other not in names]
    return sorted(names)


def try_mutant(folder: str, tests: list[Path]) -> None:
    """In a forked child: exit 0 if the tests pass with the package in `folder`."""
    import pytest
    from hypothesis import Phase, settings

    signal.alarm(TIME_LIMIT)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    sys.dont_write_bytecode = True
    sys.path.insert(0, folder)
    import carl_runtime_min  # fixes where its modules come from, whatever comes later

    if not carl_runtime_min.__file__.startswith(folder):
        os._exit(99)
    settings.register_profile(
        "mutants",
        derandomize=True,
        database=None,
        phases=[Phase.explicit, Phase.generate],  # one failure is enough: no shrinking
        report_multiple_bugs=False,
    )
    settings.load_profile("mutants")
    options = ["-x", "-q", "-p", "no:cacheprovider", f"--rootdir={ROOT}"]
    os._exit(int(pytest.main([*options, *map(str, tests)])))


class Trials:
    """Runs mutants, a few at a time, and remembers what became of them."""

    def __init__(self, package: Path, jobs: int) -> None:
        self.package, self.jobs = package, jobs
        self.running: dict[int, tuple[str, str]] = {}  # pid -> key, folder
        self.store = ROOT / ".mutants" / "results.json"
        known = self.store.read_text() if self.store.exists() else "{}"
        self.results: dict[str, str] = json.loads(known)

    def start(self, key: str, mutant: Mutant | None, tests: list[Path]) -> None:
        """Try a mutant, or the package as it is, unless the result is known."""
        if key in self.results:
            return
        if len(self.running) >= self.jobs:
            self.wait()
        folder = tempfile.mkdtemp(prefix="mutant-")
        copy = Path(shutil.copytree(self.package, Path(folder, PACKAGE.name)))
        if mutant:
            (copy / f"{mutant.module}.py").write_bytes(mutant.changed)
        pid = os.fork()
        if pid == 0:
            try:
                try_mutant(folder, tests)
            finally:
                os._exit(98)
        self.running[pid] = key, folder

    def wait(self) -> None:
        """Wait for one trial and keep its result."""
        pid, status = os.wait()
        key, folder = self.running.pop(pid)
        shutil.rmtree(folder)
        code = -1 if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        if code >= 98:
            sys.exit(f"the trial itself failed with code {code}")
        self.results[key] = "noticed" if code else "survived"
        self.store.parent.mkdir(exist_ok=True)
        self.store.write_text(json.dumps(self.results, indent=0))

    def finish(self) -> None:
        while self.running:
            self.wait()


def digest(paths: list[Path]) -> str:
    """Of the contents of the files: what a result depends on."""
    return hashlib.sha256(b"".join(path.read_bytes() for path in paths)).hexdigest()


def try_all(mutants: list[Mutant], package: Path, jobs: int) -> list[Mutant]:
    """The mutants that no test noticed."""
    import hypothesis  # noqa: F401  imported once, before the forks
    import pytest  # noqa: F401
    import torch

    torch.set_num_threads(1)
    trials = Trials(package, jobs)
    used = [
        package / f"{name}.py" for name in (*MODULES, "errors", "trace", "snapshot")
    ]
    keys: dict[Mutant, str] = {}
    for module in dict.fromkeys(mutant.module for mutant in mutants):
        names = relevant_tests(module)
        tests = [TESTS / f"test_{name}.py" for name in names]
        used = [package / f"{name}.py" for name in used_by(package, names)]
        shared = [TESTS.parent / name for name in ("reference.py", "curves.py")]
        state = digest([*used, *tests, *shared])
        trials.start(state, None, tests)
        trials.finish()
        if trials.results[state] != "survived":
            sys.exit(f"the tests of {module} fail without any mutation")
        for mutant in mutants:
            if mutant.module == module:
                keys[mutant] = f"{state} {module} {mutant.start} {mutant.text}"
                trials.start(keys[mutant], mutant, tests)
    trials.finish()
    return [mutant for mutant in mutants if trials.results[keys[mutant]] == "survived"]


def show(mutant: Mutant, remark: str = "") -> None:
    before, after = mutant.lines
    print(f"carl_runtime_min/{mutant.module}.py:{mutant.line}{remark}")
    print(f"  - {before}\n  + {after}")


def report(mutants: list[Mutant], survivors: list[Mutant]) -> int:
    """Print what survived; 1 if that, or an explanation, is out of place."""
    text = (ROOT / "tools" / "equivalent_mutants.toml").read_text()
    modules = {mutant.module for mutant in mutants}
    explained = {
        (entry["module"], entry["from"], entry["to"]): entry["reason"]
        for entry in tomllib.loads(text)["equivalent"]
        if entry["module"] in modules
    }
    found = {(mutant.module, *mutant.lines): mutant for mutant in survivors}
    for place, mutant in found.items():
        show(mutant, f": survived, {explained.get(place, 'NOT EXPLAINED')}")
    for module, before, after in explained.keys() - found.keys():
        print(f"explained, but no survivor in {module}:\n  - {before}\n  + {after}")
    unexplained = found.keys() - explained.keys()
    print(
        f"{len(mutants)} mutants, {len(survivors)} survived, "
        f"{len(unexplained)} of them not explained"
    )
    return 1 if found.keys() != explained.keys() else 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="*", default=MODULES, metavar="MODULE")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--list", action="store_true", help="print the mutants only")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="mutants-") as folder:
        skip = shutil.ignore_patterns("__pycache__")
        package = Path(shutil.copytree(PACKAGE, Path(folder, "base"), ignore=skip))
        mutants = [
            mutant
            for module in options.modules
            for mutant in mutants_of(module, (package / f"{module}.py").read_bytes())
        ]
        if options.list:
            for mutant in mutants:
                show(mutant)
            return 0
        return report(mutants, try_all(mutants, package, options.jobs))


if __name__ == "__main__":
    sys.exit(main())
