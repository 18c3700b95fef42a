"""What a script needs of `carl_runtime_min`: found by scope, copied verbatim."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from carl_bundle.bundler.imports import Import
from carl_bundle.bundler.modules import Definition, Module, collision
from carl_bundle.bundler.reading_order import READING_ORDER
from carl_bundle.bundler.scope import BUILTINS
from carl_bundle.bundler.source import read_source
from carl_bundle.errors import BundleError

RUNTIME = "carl_runtime_min"

# Lines that may define a name at the top level. It finds too many, never too few;
# what it finds is looked up in the syntax tree.
_MAY_DEFINE = re.compile(
    r"(?m)^(?:async\s+)?(?:def|class)\s+(\w+)|^([^\W\d]\w*)[ \t]*[:=]"
)


@dataclass(frozen=True)
class Cut:
    """The definitions a script contains, in order, and the imports they need."""

    definitions: tuple[Definition, ...]
    imports: Mapping[str, tuple[Import, ...]]


class Runtime:
    """The source files of a runtime package; a module is parsed when it is needed.

    Args:
        sources: The text of each module by its name, in reading order.
        package: The name of the package.

    Raises:
        BundleError: Two definitions have one name.
    """

    def __init__(self, sources: Mapping[str, str], package: str = RUNTIME) -> None:
        self.package = package
        self._sources = sources
        self._parsed: dict[str, Module] = {}
        self._needs: dict[str, dict[str, Definition]] = {}
        self._may_define: dict[str, list[str]] = {}
        for module, text in sources.items():
            for match in _MAY_DEFINE.finditer(text):
                homes = self._may_define.setdefault(match[1] or match[2], [])
                homes += [module] if module not in homes else []
        for name, homes in self._may_define.items():
            if len(homes) > 1:
                self.home(name)

    @classmethod
    def read(
        cls, root: Path | None = None, order: Sequence[str] = READING_ORDER
    ) -> Runtime:
        """Read every module of the package in `root`, in reading order.

        Raises:
            BundleError: A module has no place in the reading order, a file is no UTF-8
                text, or two definitions have one name.
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
            {
                name: read_source(found[name], f"{root.name}/{name}.py")
                for name in order
                if name in found
            },
            root.name,
        )

    @cached_property
    def modules(self) -> dict[str, Module]:
        """All modules by name, in reading order."""
        return {name: self._module(name) for name in self._sources}

    @cached_property
    def definitions(self) -> dict[str, Definition]:
        """All definitions by name, in reading order."""
        return {
            name: definition
            for module in self.modules.values()
            for name, definition in module.definitions.items()
        }

    def home(self, name: str) -> Module | None:
        """The module that defines a name, or None.

        Raises:
            BundleError: There are two.
        """
        modules = map(self._module, self._may_define.get(name, ()))
        found = [module for module in modules if name in module.definitions]
        if len(found) > 1:
            raise collision(found[0].definitions[name], found[1].definitions[name])
        return found[0] if found else None

    def _module(self, name: str) -> Module:
        if name not in self._parsed:
            origin = f"{self.package}/{name}.py"
            self._parsed[name] = Module.parse(name, self._sources[name], origin)
        return self._parsed[name]

    def _home_of(self, definition: Definition) -> Module:
        return self._module(definition.module)

    def definition(self, name: str) -> Definition:
        """The definition of a name.

        Raises:
            BundleError: There is none.
        """
        home = self.home(name)
        if home is None:
            raise BundleError(f"{self.package} defines no {name}")
        return home.definitions[name]

    def dependencies(self, definition: Definition) -> dict[str, Definition]:
        """Return the definitions that one definition refers to, by name.

        Raises:
            BundleError: It reads a name that nothing defines.
        """
        if definition.name not in self._needs:
            home = self._home_of(definition)
            targets = {
                name: self._resolve(name, home, definition)
                for name in sorted(definition.uses.names)
            }
            self._needs[definition.name] = {k: v for k, v in targets.items() if v}
        return self._needs[definition.name]

    def imports(self, definition: Definition) -> dict[str, tuple[Import, ...]]:
        """Return the imports from outside the package that a definition needs."""
        imported = self._home_of(definition).imports
        return {
            name: imported[name]
            for name in sorted(definition.uses.names & imported.keys())
            if not self._is_ours(imported[name][0])
        }

    def cut(self, roots: Iterable[str]) -> Cut:
        """Return what the named definitions need, themselves included."""
        reached: dict[str, Definition] = {}
        pending = [self.definition(name) for name in sorted(roots)]
        while pending:
            definition = pending.pop()
            if definition.name not in reached:
                reached[definition.name] = definition
                pending += self.dependencies(definition).values()
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

        for definition in self._in_reading_order(reached.values()):
            place(definition, ())
        return tuple(placed.values())

    def _before(self, definition: Definition) -> list[Definition]:
        """What must exist when a definition is executed, in order of the package.

        A function that is called at that moment needs all that its body reads.
        """
        needed = dict(self.dependencies(definition))
        before = {name for name in definition.uses.now if name in needed}
        pending = [name for name in definition.uses.called if name in needed]
        while pending:
            inner = self.dependencies(needed[pending.pop()])
            pending += inner.keys() - before
            before |= inner.keys()
            needed |= inner
        before.discard(definition.name)
        return self._in_reading_order(needed[name] for name in before)

    def _in_reading_order(self, found: Iterable[Definition]) -> list[Definition]:
        places = {name: place for place, name in enumerate(self._sources)}
        return sorted(found, key=lambda d: (places[d.module], d.first))

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
        name = one.module.partition(".")[2]
        module = self._module(name) if name in self._sources else None
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
