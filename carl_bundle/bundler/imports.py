"""Imports: what they bind, and the one sorted block at the top of a script."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

WIDTH = 88


@dataclass(frozen=True)
class Import:
    """One imported name: `import module` or `from module import name`.

    Attributes:
        module: The module as written, without leading dots.
        name: What is imported from it; None for `import module`.
        alias: The name after `as`, if any.
        level: The number of leading dots.
        place: `file:line` of the statement.
    """

    module: str
    name: str | None
    alias: str | None
    level: int = 0
    place: str = ""

    @property
    def binds(self) -> str:
        return self.alias or self.name or self.module.partition(".")[0]

    @property
    def statement(self) -> tuple[str, str | None, str | None]:
        return self.module, self.name, self.alias

    def agrees_with(self, other: Import) -> bool:
        """Whether both may stand in one file and bind one name to one thing."""
        if self.name is None and self.alias is None:
            return other.name is None and other.alias is None
        return self.statement == other.statement


def imports_of(statement: ast.stmt, origin: str = "") -> Iterator[Import]:
    """Yield what an import statement imports; nothing for another statement."""
    place = f"{origin}:{statement.lineno}"
    if isinstance(statement, ast.Import):
        for alias in statement.names:
            yield Import(alias.name, None, alias.asname, 0, place)
    elif isinstance(statement, ast.ImportFrom):
        for alias in statement.names:
            yield Import(
                statement.module or "", alias.name, alias.asname, statement.level, place
            )


def imported_modules(tree: ast.AST) -> set[str]:
    """Return every module that a tree imports absolutely, also inside functions."""
    modules = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            for one in imports_of(node):
                if one.level == 0:
                    modules.add(one.module)
                    if one.name is not None:
                        modules.add(f"{one.module}.{one.name}")
    return modules


def is_stdlib(module: str) -> bool:
    return module.partition(".")[0] in sys.stdlib_module_names


def import_block(imports: Iterable[Import], ours: str = "") -> str:
    """Return sorted import statements as isort and black leave them.

    Args:
        imports: What to import; duplicates are merged.
        ours: A package that is sorted into a last group of its own.
    """
    unique = {one.statement: one for one in imports}.values()
    groups: list[list[Import]] = [[], [], [], []]
    for one in unique:
        root = one.module.partition(".")[0]
        place = 0 if root == "__future__" else 1 if is_stdlib(root) else 2
        groups[3 if ours and root == ours else place].append(one)
    return "\n\n".join(_group(group) for group in groups if group)


def _group(imports: list[Import]) -> str:
    plain = sorted(
        (one for one in imports if one.name is None),
        key=lambda one: (_natural(one.module), one.alias or ""),
    )
    lines = [f"import {_aliased(one.module, one.alias)}" for one in plain]
    together: dict[str, list[Import]] = {}
    statements = []
    for one in sorted((o for o in imports if o.name), key=_member_key):
        if one.alias:
            # isort keeps a member with an alias in a statement of its own.
            statements.append([one])
        else:
            together.setdefault(one.module, []).append(one)
    statements += together.values()
    for members in sorted(
        statements, key=lambda m: (_natural(m[0].module), _member_key(m[0]))
    ):
        lines += _from_lines(members)
    return "\n".join(lines)


def _from_lines(members: list[Import]) -> list[str]:
    module = members[0].module
    names = [_aliased(one.name or "", one.alias) for one in members]
    line = f"from {module} import {', '.join(names)}"
    if len(line) <= WIDTH:
        return [line]
    return [f"from {module} import (", *(f"    {name}," for name in names), ")"]


def _aliased(name: str, alias: str | None) -> str:
    return f"{name} as {alias}" if alias else name


def _member_key(one: Import) -> tuple[int, tuple[tuple[int, int, str], ...], str]:
    name = one.name or ""
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2
    return kind, _natural(name), one.alias or ""


def _natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Sort key that orders digits by value and letters without case."""
    parts = [part for part in re.split(r"(\d+)", name.lower()) if part]
    keys = [(0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts]
    return (*keys, (2, 0, name))
