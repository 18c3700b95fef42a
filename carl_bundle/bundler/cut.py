"""What a script needs of `carl_runtime_min`: found by scope, copied verbatim."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from carl_bundle.bundler.imports import Import, imports_of
from carl_bundle.bundler.reading_order import READING_ORDER
from carl_bundle.bundler.scope import BUILTINS, Uses, uses
from carl_bundle.bundler.source import lines_of, parse, read_source, span
from carl_bundle.errors import BundleError

RUNTIME = "carl_runtime_min"
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


@dataclass(frozen=True)
class Cut:
    """The definitions a script contains, in order, and the imports they need."""

    definitions: tuple[Definition, ...]
    imports: Mapping[str, tuple[Import, ...]]


class Runtime:
    """The index of a runtime package, read from its files at each call of `read`."""

    def __init__(self, modules: Iterable[Module], package: str = RUNTIME) -> None:
        self.package = package
        self.modules = {module.name: module for module in modules}
        self.definitions: dict[str, Definition] = {}
        self._home: dict[str, Module] = {}
        for module in self.modules.values():
            for name, definition in module.definitions.items():
                if name in self.definitions:
                    raise collision(self.definitions[name], definition)
                self.definitions[name] = definition
                self._home[name] = module

    @classmethod
    def read(
        cls, root: Path | None = None, order: Sequence[str] = READING_ORDER
    ) -> Runtime:
        """Read every module of the package in `root`, in reading order.

        Raises:
            BundleError: A module has no place in the reading order, a file cannot be
                parsed, or two definitions have one name.
        """
        root = root or runtime_root()
        found = {path.stem: path for path in root.glob("*.py")}
        found.pop("__init__", None)
        unplaced = sorted(found.keys() - set(order))
        if unplaced:
            raise BundleError(
                f"{root.name}/{unplaced[0]}.py has no place in the reading order",
                remedy="add it to carl_bundle/bundler/reading_order.py",
            )
        return cls(
            (
                _read_module(root.name, name, found[name])
                for name in order
                if name in found
            ),
            root.name,
        )

    def module_of(self, name: str) -> str:
        """The dotted name of the module that defines `name`."""
        return f"{self.package}.{self._home[name].name}"

    def dependencies(self, definition: Definition) -> dict[str, Definition]:
        """Return the definitions that one definition refers to, by name.

        Raises:
            BundleError: It reads a name that nothing defines.
        """
        home = self._home[definition.name]
        needed = {}
        for name in sorted(definition.uses.names):
            target = self._resolve(name, home, definition)
            if target is not None:
                needed[name] = target
        return needed

    def imports(self, definition: Definition) -> dict[str, tuple[Import, ...]]:
        """Return the imports from outside the package that a definition needs."""
        imported = self._home[definition.name].imports
        return {
            name: imported[name]
            for name in sorted(definition.uses.names & imported.keys())
            if not self._is_ours(imported[name][0])
        }

    def cut(self, roots: Iterable[str]) -> Cut:
        """Return what the named definitions need, themselves included."""
        reached: dict[str, Definition] = {}
        pending = sorted(set(roots), reverse=True)
        while pending:
            name = pending.pop()
            if name in reached:
                continue
            reached[name] = self.definitions[name]
            pending += sorted(self.dependencies(reached[name]), reverse=True)
        ordered = self._ordered(reached)
        imports: dict[str, tuple[Import, ...]] = {}
        for definition in ordered:
            for name, needed in self.imports(definition).items():
                merge_imports(imports, name, needed)
                if name in reached:
                    raise BundleError(
                        f"{needed[0].place} imports {name}, "
                        f"which {reached[name].place()} defines",
                        remedy="rename the definition",
                    )
        return Cut(ordered, imports)

    def _ordered(self, reached: Mapping[str, Definition]) -> tuple[Definition, ...]:
        """Reading order; a definition moves up only for a use at definition time."""
        placed: dict[str, Definition] = {}

        def place(definition: Definition, above: tuple[str, ...]) -> None:
            if definition.name in placed:
                return
            if definition.name in above:
                chain = " -> ".join((*above, definition.name))
                raise BundleError(
                    f"{definition.place()}: definitions need each other: {chain}"
                )
            for earlier in self._before(definition):
                place(earlier, (*above, definition.name))
            placed[definition.name] = definition

        for name in self.definitions:
            if name in reached:
                place(reached[name], ())
        return tuple(placed.values())

    def _before(self, definition: Definition) -> list[Definition]:
        """What must exist when a definition is executed, in order of the package.

        A function that is called at that moment needs all that its body reads.
        """
        needed = self.dependencies(definition)
        before = {name for name in definition.uses.now if name in needed}
        pending = [name for name in definition.uses.called if name in needed]
        while pending:
            inner = self.dependencies(needed[pending.pop()])
            pending += inner.keys() - before
            before |= inner.keys()
            needed |= inner
        before.discard(definition.name)
        return [self.definitions[name] for name in self.definitions if name in before]

    def _resolve(
        self, name: str, home: Module, definition: Definition
    ) -> Definition | None:
        if name in home.definitions:
            return home.definitions[name]
        if name in home.imports:
            imported = home.imports[name][0]
            return self._imported(imported) if self._is_ours(imported) else None
        if name in BUILTINS or name == "__name__":
            return None
        raise BundleError(
            f"{definition.place(name)}: {definition.name} uses {name}, "
            "which its module neither defines nor imports",
            remedy=f"import {name} at the top of {home.origin}",
        )

    def _is_ours(self, one: Import) -> bool:
        return one.module.partition(".")[0] == self.package

    def _imported(self, one: Import) -> Definition:
        module = self.modules.get(one.module.partition(".")[2])
        if module is None or (one.name or "") not in module.definitions:
            raise BundleError(
                f"{one.place}: {one.module} defines no {one.name or 'such name'}",
                remedy=f"write from {self.package}.<module> import <name>",
            )
        return module.definitions[one.name or ""]


def merge_imports(
    into: dict[str, tuple[Import, ...]], name: str, needed: tuple[Import, ...]
) -> None:
    """Add the imports that bind a name; the name must mean the same everywhere.

    Raises:
        BundleError: The name already stands for something else.
    """
    present = into.get(name)
    if present is None:
        into[name] = needed
        return
    for one in needed:
        if not one.agrees_with(present[0]):
            raise BundleError(
                f"{one.place} and {present[0].place} import different things "
                f"as {name}",
                remedy="import them under different names",
            )
    known = {one.statement for one in present}
    into[name] = present + tuple(o for o in needed if o.statement not in known)


def runtime_root() -> Path:
    """The directory of the installed runtime, found without importing it."""
    found = find_spec(RUNTIME)
    if found is None or not found.submodule_search_locations:
        raise BundleError(
            f"the package {RUNTIME} is not installed",
            remedy="install carl-bundle again",
        )
    return Path(found.submodule_search_locations[0])


def _read_module(package: str, name: str, path: Path) -> Module:
    origin = f"{package}/{name}.py"
    return Module.parse(name, read_source(path, origin), origin)
