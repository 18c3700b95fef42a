"""The bundlable subset: what `carl_runtime_min` may be written in.

These rules are what makes the cut exact: a name means one thing in the whole package,
and loading a module does nothing but define.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from carl_bundle.bundler.cut import Runtime
from carl_bundle.bundler.imports import imports_of
from carl_bundle.bundler.modules import MODULE_GLOBALS, Definition, Module
from carl_bundle.bundler.reading_order import READING_ORDER
from carl_bundle.bundler.scope import BUILTINS

# Calls whose value is as good as a literal, because nothing can change it later.
CONSTANT_CALLS = frozenset(
    (
        "Path",
        "TypeVar",
        "float",
        "frozenset",
        "logging.getLogger",
        "math.exp",
        "math.log",
        "math.sqrt",
        "re.compile",
        "tuple",
    )
)
FORBIDDEN_NAMES = frozenset(("__file__", "globals", "locals", "exec", "eval"))


@dataclass(frozen=True)
class Violation:
    """A line of the runtime that breaks a rule."""

    place: str
    rule: str

    def __str__(self) -> str:
        return f"{self.place}: {self.rule}"


def violations(
    root: Path | None = None, order: Sequence[str] = READING_ORDER
) -> list[Violation]:
    """Return every breach of the subset in the package at `root`.

    Raises:
        BundleError: The package cannot even be indexed: a file cannot be parsed, has no
            place in the reading order, or a name is defined twice.
    """
    runtime = Runtime.read(root, order)
    found: list[Violation] = []
    for module in runtime.modules.values():
        found += _check_module(module, runtime)
        for definition in module.definitions.values():
            found += _check_definition(definition, module, runtime)
    return found


def _check_module(module: Module, runtime: Runtime) -> Iterator[Violation]:
    body = module.tree.body
    if not any(
        isinstance(s, ast.ImportFrom) and s.module == "__future__" for s in body
    ):
        yield Violation(
            f"{module.origin}:1", "lacks `from __future__ import annotations`"
        )
    ends: int | None = 0
    for position, statement in enumerate(body):
        place = f"{module.origin}:{statement.lineno}"
        if statement.lineno == ends:
            yield Violation(place, "two statements on one line")
        ends = statement.end_lineno
        match statement:
            case ast.Import() | ast.ImportFrom():
                yield from _check_import(statement, module, runtime)
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                pass
            case ast.Assign(targets=[ast.Name()]) | ast.AnnAssign(target=ast.Name()):
                pass
            case ast.Expr(value=ast.Constant(value=str())):
                above = body[position - 1] if position else None
                if above and not isinstance(above, ast.Assign | ast.AnnAssign):
                    yield Violation(place, "a string that documents nothing")
            case _:
                yield Violation(
                    place, "top level holds imports, constants, def and class only"
                )


def _check_import(
    statement: ast.Import | ast.ImportFrom, module: Module, runtime: Runtime
) -> Iterator[Violation]:
    for one in imports_of(statement, module.origin):
        ours = one.module.partition(".")[0] == runtime.package
        if one.level:
            yield Violation(one.place, "a relative import")
        elif one.name == "*":
            yield Violation(one.place, "a star import")
        elif ours and (one.name is None or one.alias):
            yield Violation(
                one.place, f"write `from {runtime.package}.module import name`"
            )
        elif ours:
            home = runtime.modules.get(one.module.partition(".")[2])
            if home is None or one.name not in home.definitions:
                yield Violation(one.place, f"{one.module} defines no {one.name}")
        if one.module == "carl_bundle" or one.module.startswith("carl_bundle."):
            yield Violation(one.place, "the runtime imports nothing of carl_bundle")
        if not ours and one.binds in runtime.definitions:
            defined = runtime.definitions[one.binds].place()
            yield Violation(one.place, f"imports {one.binds}, defined by {defined}")


def _check_definition(
    definition: Definition, module: Module, runtime: Runtime
) -> Iterator[Violation]:
    name, uses = definition.name, definition.uses
    if name in BUILTINS:
        yield Violation(definition.place(), f"{name} hides the built-in of that name")
    taken = runtime.definitions.keys() | module.imports.keys()
    for local, line in uses.locals.items():
        if local in taken:
            where = (
                runtime.definitions[local].place()
                if local in runtime.definitions
                else f"the import in {module.origin}"
            )
            yield Violation(
                f"{definition.origin}:{line}", f"a local {local} hides {where}"
            )
    known = module.definitions.keys() | module.imports.keys() | BUILTINS | {"__name__"}
    for used in sorted(uses.names):
        place = definition.place(used)
        if used in FORBIDDEN_NAMES:
            yield Violation(place, f"{used} has another meaning in a script")
        elif used not in known or used in MODULE_GLOBALS - {"__name__"}:
            yield Violation(place, f"{used} is neither defined nor imported here")
    yield from _check_body(definition, runtime)
    if definition.is_constant:
        yield from _check_constant(definition, module, runtime)


def _check_body(definition: Definition, runtime: Runtime) -> Iterator[Violation]:
    for node in ast.walk(definition.node):
        place = f"{definition.origin}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Global):
            yield Violation(place, "a global statement")
        elif isinstance(node, ast.Call) and ast.unparse(node) == "vars()":
            yield Violation(place, "vars() has another meaning in a script")
        elif isinstance(node, ast.Import | ast.ImportFrom):
            for one in imports_of(node):
                if one.level or one.module.partition(".")[0] == runtime.package:
                    yield Violation(place, "imports of the package stand at the top")
                if one.name == "*":
                    yield Violation(place, "a star import")


def _check_constant(
    definition: Definition, module: Module, runtime: Runtime
) -> Iterator[Violation]:
    """A constant is an expression of literals, other constants and imported names."""
    value = getattr(definition.node, "value", None)
    for node in ast.walk(value) if value else ():
        place = f"{definition.origin}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Call) and ast.unparse(node.func) not in CONSTANT_CALLS:
            yield Violation(place, f"{definition.name} is computed by a call")
        elif isinstance(node, ast.Name) and node.id in runtime.definitions:
            if not runtime.definitions[node.id].is_constant:
                yield Violation(
                    place, f"{definition.name} is a registry: it holds {node.id}"
                )
        elif isinstance(node, ast.Lambda | ast.Await | ast.NamedExpr):
            yield Violation(place, f"{definition.name} is no constant expression")
