"""Where a line of a script comes from, and what put it there."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from carl_bundle.bundler.checks import config_of
from carl_bundle.bundler.conditions import choices_by_line
from carl_bundle.bundler.imports import imported_modules, imports_of
from carl_bundle.bundler.modules import Definition, definitions_in
from carl_bundle.bundler.provenance import Script
from carl_bundle.bundler.ruler import CONFIGURATION, HEADER, WIRING, Section, is_ruler
from carl_bundle.bundler.source import lines_of, parse
from carl_bundle.errors import CarlError, UsageError

if TYPE_CHECKING:
    from carl_bundle.bundler.render import Bundler

CHECKS = ("dry_run", "self_test")
"""What the wiring offers beside the phases."""


@dataclass(frozen=True)
class Explanation:
    """One line of a script.

    Attributes:
        line: Its number, from 1.
        section: The section it stands in.
        origin: Where it was taken from: `file:line`, or what it was made of.
        definition: The definition that it belongs to; empty if to none.
        why: The chain from the wiring to that definition, first user first.
        settings: What decided that it is here: choices and keys of CONFIG.
    """

    line: int
    section: str
    origin: str
    definition: str = ""
    why: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Part:
    """One section in the overview."""

    name: str
    first: int
    last: int
    definitions: tuple[str, ...]
    is_intact: bool


@dataclass(frozen=True)
class UserPart:
    """What the user's code in a script imports and calls."""

    name: str
    imports: tuple[str, ...]
    calls: tuple[str, ...]


class Explainer:
    """Answers questions about one script.

    Raises:
        BundleError: The script is no valid Python any more.
    """

    def __init__(self, script: Script) -> None:
        self.script = script
        # A ruler stands right above the first slice, and is no comment of it.
        lines = ["" if is_ruler(line) else line for line in lines_of(script.text)]
        found = definitions_in(script.tree.body, lines, script.shown)
        self.definitions = {definition.name: definition for definition in found}

    def parts(self) -> list[Part]:
        """The sections in order."""
        return [
            Part(
                section.name,
                section.line,
                section.end,
                tuple(one.name for one in self._definitions_of(section)),
                section.is_intact,
            )
            for section in self.script.sections
        ]

    def imports(self) -> dict[str, list[str]]:
        """The imports at the top of the script, and who uses each."""
        return {
            one.binds: [
                definition.name
                for definition in self.definitions.values()
                if one.binds in definition.uses.names
            ]
            for statement in self.script.tree.body
            for one in imports_of(statement)
            if one.module != "__future__"
        }

    def user_parts(self) -> list[UserPart]:
        """What the user's code imports and calls."""
        found = []
        for section in self.script.user_sections:
            tree = parse(section.text, section.name)
            calls = {
                ast.unparse(node.func)
                for node in ast.walk(tree)
                if isinstance(node, ast.Call)
            }
            modules = tuple(sorted(imported_modules(tree)))
            found.append(UserPart(section.name, modules, tuple(sorted(calls))))
        return found

    def explain(self, line: int) -> Explanation:
        """Explain one line.

        Raises:
            UsageError: The script has no such line.
        """
        count = len(lines_of(self.script.text))
        if not 1 <= line <= count:
            raise UsageError(f"{self.script.shown} has {count} lines, no line {line}")
        section = self.script.section_at(line)
        if section.name == HEADER:
            return self._header(line)
        if section.name == CONFIGURATION:
            return self._configuration(line)
        definition = next(
            (d for d in self._definitions_of(section) if d.first <= line <= d.last),
            None,
        )
        name = definition.name if definition else ""
        chain = self._chain(name) if name else ()
        settings = self._settings(line, chain)
        if section.name == WIRING:
            origin = f"templates/{self._plan.template}" if self._plan else "templates"
            return Explanation(line, section.name, origin, name, chain, settings)
        origin = section.name
        if definition is not None and section not in self.script.user_sections:
            origin = self._runtime_line(definition, line, section)
        return Explanation(line, section.name, origin, name, chain, settings)

    def _definitions_of(self, section: Section) -> list[Definition]:
        return [
            definition
            for definition in self.definitions.values()
            if section.line <= definition.first <= section.end
        ]

    def _header(self, line: int) -> Explanation:
        for statement in self.script.tree.body:
            if statement.lineno <= line <= (statement.end_lineno or 0):
                users = [
                    user
                    for one in imports_of(statement)
                    for user in self.imports().get(one.binds, ())
                ]
                if isinstance(statement, ast.Expr):
                    return Explanation(line, HEADER, "the template's docstring")
                origin = "an import that the code below uses"
                return Explanation(line, HEADER, origin, why=tuple(users))
        text = lines_of(self.script.text)[line - 1]
        for requirement in self.script.dependencies:
            if f'"{requirement}"' in text:
                origin = (
                    "a pin for what the script imports, or `dependencies` of the spec"
                )
                return Explanation(line, HEADER, origin)
        return Explanation(line, HEADER, "the notice or the metadata of every script")

    def _configuration(self, line: int) -> Explanation:
        """The path of the innermost key whose value spans the line."""
        node, path = config_of(self.script.tree), []
        while isinstance(node, ast.Dict | ast.List):
            for key, value in _items(node):
                first = getattr(key, "lineno", value.lineno)
                if first <= line <= (value.end_lineno or 0):
                    path.append(
                        ast.literal_eval(key) if isinstance(key, ast.expr) else key
                    )
                    node = value
                    break
            else:
                break
        shown = "CONFIG" + "".join(f"[{part!r}]" for part in path)
        is_block = isinstance(node, ast.Dict) and bool(node.keys)
        settings = self._from_spec(path, is_block)
        return Explanation(line, CONFIGURATION, shown, settings=settings)

    def _from_spec(self, path: list[Any], is_block: bool) -> tuple[str, ...]:
        """What a key of CONFIG is made from; nothing for a block of several keys."""
        from carl_bundle.recipes.origins import origins

        if path[:1] == ["spec"]:
            return (".".join(str(key) for key in path[1:]) or "the spec",)
        if path and isinstance(path[-1], int):
            path = path[:-1]  # the item of a list is no setting
        spec = self.script.config.get("spec", {})
        names = origins(path, spec)
        if not names:
            return ("the recipe",)
        if is_block or not path:
            return ()
        given = [f"{name}." for name in _leaves(spec, "")]
        found = [n for n in names if any(one.startswith(f"{n}.") for one in given)]
        return tuple(found) or (f"the default of {names[0]}",)

    def _chain(self, name: str) -> tuple[str, ...]:
        """The shortest way from the wiring to a definition, from a phase if one can."""
        wiring = next(s for s in self.script.sections if s.name == WIRING)
        starts = [definition.name for definition in self._definitions_of(wiring)]
        ways: dict[str, tuple[str, ...]] = {start: (start,) for start in starts}
        last = [start for start in starts if start in CHECKS]
        pending = [start for start in starts if start not in CHECKS]
        while pending or last:
            if not pending:
                pending, last = last, []
            user = pending.pop(0)
            for used in sorted(self.definitions[user].uses.names):
                if used in self.definitions and used not in ways:
                    ways[used] = (*ways[user], used)
                    pending.append(used)
        return ways.get(name, ())

    @cached_property
    def _bundler(self) -> Bundler:
        from carl_bundle.bundler.render import Bundler

        return Bundler()

    @cached_property
    def _plan(self) -> Any:
        """The plan of the script's spec; None where this version cannot make it."""
        from carl_bundle import __version__
        from carl_bundle.recipes import plan
        from carl_bundle.spec.freeze import freeze
        from carl_bundle.spec.train_spec import TrainSpec

        if self.script.generator != __version__:
            return None
        try:
            spec = TrainSpec.model_validate(self.script.config.get("spec"))
            return plan(freeze(spec))
        except CarlError:
            return None

    @cached_property
    def _choices(self) -> Mapping[int, frozenset[str]]:
        """For each line of the wiring in the script, the choices it depends on."""
        from carl_bundle.bundler.render import Wiring

        if self._plan is None:
            return {}
        bundler = self._bundler
        wiring = Wiring.parse(bundler.wiring(self._plan), self._plan.template)
        section = next(s for s in self.script.sections if s.name == WIRING)
        if wiring.body != section.text:
            return {}
        by_line = choices_by_line(bundler, self._plan)[wiring.first - 1 :]
        return {section.line + offset: names for offset, names in enumerate(by_line)}

    def _settings(self, line: int, chain: tuple[str, ...]) -> tuple[str, ...]:
        """The choices without which the wiring would not lead to a line."""
        if line in self._choices:
            return self._shown(self._choices[line])
        if len(chain) < 2:
            return ()
        user, used = self.definitions[chain[0]], chain[1]
        uses = [
            node.lineno
            for node in ast.walk(user.node)
            if isinstance(node, ast.Name) and node.id == used
        ]
        needed = [self._choices[n] for n in uses if n in self._choices]
        return self._shown(frozenset.intersection(*needed)) if needed else ()

    def _shown(self, names: frozenset[str]) -> tuple[str, ...]:
        choices = self._plan.choices
        return tuple(f"{name} = {str(choices[name]).lower()}" for name in sorted(names))

    def _runtime_line(self, definition: Definition, line: int, section: Section) -> str:
        """`file:line` in the installed runtime, if it holds the same definition."""
        installed = self._bundler.runtime.definitions.get(definition.name)
        if installed is None or installed.text != definition.text:
            return f"{section.name} (another text than the installed one)"
        return f"{section.name}:{installed.first + line - definition.first}"


def _items(node: ast.Dict | ast.List) -> Iterator[tuple[Any, ast.expr]]:
    keys = node.keys if isinstance(node, ast.Dict) else range(len(node.elts))
    values = node.values if isinstance(node, ast.Dict) else node.elts
    yield from zip(keys, values, strict=True)


def _leaves(value: Any, prefix: str) -> Iterator[str]:
    blocks = isinstance(value, list) and value and isinstance(value[0], dict)
    if isinstance(value, dict) or blocks:
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _leaves(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix
