"""A Python source file as definitions with their exact text, and imports."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from carl_bundle.bundler.imports import Import, imports_of
from carl_bundle.bundler.scope import Uses, uses
from carl_bundle.bundler.source import lines_of, parse, span
from carl_bundle.errors import BundleError

MODULE_GLOBALS = frozenset({"__name__", "__doc__", "__file__"})


@dataclass(frozen=True)
class Definition:
    """One top-level `def`, `class` or constant, with its exact text.

    Attributes:
        name: The name it binds.
        origin: Its file as written in rulers, such as `carl_runtime_min/field.py`.
        first, last: Its lines in that file, from 1, both included.
        text: These lines, without the final line end.
    """

    name: str
    origin: str
    first: int
    last: int
    text: str
    node: ast.stmt = field(repr=False, compare=False)

    @cached_property
    def uses(self) -> Uses:
        return uses(self.node)

    @property
    def module(self) -> str:
        """The name of its module."""
        return self.origin.rpartition("/")[2].removesuffix(".py")

    @property
    def is_constant(self) -> bool:
        return isinstance(self.node, ast.Assign | ast.AnnAssign)

    def place(self, name: str = "") -> str:
        """`file:line` of the definition, or of its first use of a name."""
        return f"{self.origin}:{self.uses.lines.get(name, self.node.lineno)}"


@dataclass(frozen=True)
class Module:
    """A source file: its definitions, and what its top-level imports bind."""

    name: str
    origin: str
    lines: list[str] = field(repr=False)
    tree: ast.Module = field(repr=False)
    definitions: Mapping[str, Definition] = field(repr=False)
    imports: Mapping[str, tuple[Import, ...]] = field(repr=False)

    @classmethod
    def parse(cls, name: str, text: str, origin: str) -> Module:
        tree, lines = parse(text, origin), lines_of(text)
        definitions: dict[str, Definition] = {}
        for found in definitions_in(tree.body, lines, origin):
            if found.name in definitions:
                raise collision(definitions[found.name], found)
            definitions[found.name] = found
        imports: dict[str, tuple[Import, ...]] = {}
        for statement in tree.body:
            for one in imports_of(statement, origin):
                imports[one.binds] = (*imports.get(one.binds, ()), one)
        return cls(name, origin, lines, tree, definitions, imports)


def definitions_in(
    body: Sequence[ast.stmt], lines: list[str], origin: str
) -> Iterator[Definition]:
    """Yield the definitions among top-level statements; others are skipped."""
    for statement in body:
        match statement:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                pass
            case ast.AsyncFunctionDef(name=name):
                pass
            case ast.Assign(targets=[ast.Name(id=name)]):
                pass
            case ast.AnnAssign(target=ast.Name(id=name)):
                pass
            case _:
                continue
        first, last = span(statement, lines)
        text = "\n".join(lines[first - 1 : last])
        yield Definition(name, origin, first, last, text, statement)


def collision(one: Definition, other: Definition) -> BundleError:
    return BundleError(
        f"two definitions of {one.name}: {one.place()} and {other.place()}",
        remedy="rename one of them; a script never renames",
    )
