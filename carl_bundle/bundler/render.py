"""From a plan to the bytes of a script: cut, order, lay out, check."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from carl_bundle.bundler.checks import check_script
from carl_bundle.bundler.cut import Cut, Runtime, merge_imports
from carl_bundle.bundler.imports import Import, import_block, imported_modules
from carl_bundle.bundler.literal import py_literal
from carl_bundle.bundler.metadata import metadata_block, requirements
from carl_bundle.bundler.modules import MODULE_GLOBALS, Definition, Module
from carl_bundle.bundler.notice import NOTICE
from carl_bundle.bundler.reading_order import READING_ORDER
from carl_bundle.bundler.ruler import CONFIGURATION, WIRING, under_ruler
from carl_bundle.bundler.scope import BUILTINS, uses
from carl_bundle.bundler.user_code import UserCode, read_user_code
from carl_bundle.errors import BundleError

if TYPE_CHECKING:
    from jinja2 import Environment

    from carl_bundle.recipes.plan import Plan
    from carl_bundle.spec import TrainSpec

CONFIG = "CONFIG"
FUTURE = Import("__future__", "annotations", None)
_CHOICE = re.compile(r"[a-z0-9_]*")


@dataclass(frozen=True)
class Wiring:
    """The rendered template, taken apart.

    Attributes:
        docstring: The module docstring as written.
        module: Its definitions and imports.
        body: Everything below the imports.
        first: The line of the rendered template where `body` starts, from 1.
        needs: Names it reads and does not define: roots of the cut, and CONFIG.
    """

    docstring: str
    module: Module
    body: str
    first: int
    needs: frozenset[str]

    @classmethod
    def parse(cls, text: str, origin: str) -> Wiring:
        """Raises BundleError unless it is docstring, imports, functions and a guard."""
        module = Module.parse("", text, origin)
        body = module.tree.body
        if not body or ast.get_docstring(module.tree, clean=False) is None:
            raise BundleError(f"{origin}: the template has no docstring")
        imports = [isinstance(s, ast.Import | ast.ImportFrom) for s in body[1:]]
        count = imports.index(False) if False in imports else len(imports)
        if any(imports[count:]):
            raise BundleError(f"{origin}: an import below other code")
        start = body[count].end_lineno or 0
        while start < len(module.lines) and not module.lines[start].strip():
            start += 1
        below = "\n".join(module.lines[start:]).rstrip("\n")
        found = [one.uses for one in module.definitions.values()]
        defined = {id(one.node) for one in module.definitions.values()}
        found += [uses(s) for s in body[1 + count :] if id(s) not in defined]
        bound = module.definitions.keys() | module.imports.keys()
        known = bound | BUILTINS | MODULE_GLOBALS
        needs = frozenset().union(*(one.names for one in found)) - known
        docstring = "\n".join(module.lines[body[0].lineno - 1 : body[0].end_lineno])
        return cls(docstring, module, below, start + 1, needs)


class Bundler:
    """Renders plans against one runtime and one set of templates.

    Args:
        runtime_root: Directory of the runtime package; the installed one by default.
        templates_root: Directory of the templates; those of this package by default.
        order: The reading order of the runtime modules.
    """

    def __init__(
        self,
        runtime_root: Path | None = None,
        templates_root: Path | None = None,
        order: Sequence[str] = READING_ORDER,
    ) -> None:
        self._runtime_root, self._order = runtime_root, order
        self._templates_root = templates_root

    @cached_property
    def runtime(self) -> Runtime:
        return Runtime.read(self._runtime_root, self._order)

    @cached_property
    def environment(self) -> Environment:
        """Jinja, strict: templates see the declared choices and nothing else."""
        from jinja2 import Environment, FileSystemLoader, StrictUndefined

        return Environment(
            loader=FileSystemLoader(self._templates_root or templates_root()),
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            autoescape=False,
        )

    def wiring(self, plan: Plan) -> str:
        """Return the rendered template of a plan.

        Raises:
            BundleError: A choice is no bool or plain word, or the template is at fault.
        """
        from jinja2 import TemplateError

        for name, choice in plan.choices.items():
            if type(choice) is not bool and not (
                type(choice) is str and _CHOICE.fullmatch(choice)
            ):
                raise BundleError(f"the choice {name} is {choice!r}, not a plain word")
        try:
            template = self.environment.get_template(plan.template)
            return template.render(plan.choices)
        except TemplateError as error:
            raise BundleError(
                f"templates/{plan.template}: {type(error).__name__}: {error}"
            ) from error

    def render(
        self,
        plan: Plan,
        *,
        library: bool = False,
        user_root: Path | None = None,
        user_code: UserCode | None = None,
    ) -> str:
        """Return the script of a plan.

        Args:
            plan: What a recipe made of a frozen spec.
            library: Import the runtime instead of containing it.
            user_root: What the paths of user code are relative to; the working
                directory by default.
            user_code: User code already at hand, instead of reading it.

        Raises:
            BundleError: Names collide or are unknown, a value fits no literal, or the
                result fails its checks.
            UserCodeError: The user's code cannot be carried.
        """
        from carl_bundle import __version__

        wiring = Wiring.parse(self.wiring(plan), f"templates/{plan.template}")
        user = user_code or read_user_code(plan.user_code, user_root or Path())
        cut = self.runtime.cut(self._roots(wiring))
        imports = _script_imports(wiring, cut)
        contained = () if library else cut.definitions
        if library:
            imports = self._library_imports(wiring)
        _check_collisions(wiring, cut, imports, user)
        sections = [under_ruler(CONFIGURATION, _config(plan))]
        sections += runtime_sections(contained)
        sections += [under_ruler(one.name, one.text) for one in user.sections]
        sections.append(under_ruler(WIRING, wiring.body))
        block = import_block([FUTURE, *imports], self.runtime.package)
        code = f"{block}\n\n" + "\n\n\n".join(sections)
        # Few definitions import something inside; walking a tree is slow.
        ours = [*contained, *wiring.module.definitions.values()]
        importing: list[ast.AST] = [d.node for d in ours if "import " in d.text]
        importing += [s for s in wiring.module.tree.body if isinstance(s, ast.If)]
        dependencies = requirements(
            self._modules(imports, importing),
            user.modules,
            plan.dependencies,
        )
        metadata = metadata_block(dependencies, plan.config["spec"], __version__)
        script = f"{NOTICE}\n\n{metadata}\n{wiring.docstring}\n\n{code}\n"
        check_script(script, plan.config, contained)
        return script

    def _modules(self, imports: Iterable[Import], code: Iterable[ast.AST]) -> set[str]:
        """What a script imports, at its top or in functions; not the runtime itself."""
        modules = {one.module for one in imports}
        modules |= {f"{one.module}.{one.name}" for one in imports if one.name}
        for node in code:
            modules |= imported_modules(node)
        package = self.runtime.package
        return {
            m for m in modules if m.partition(".")[0] not in (package, "__future__")
        }

    def _roots(self, wiring: Wiring) -> set[str]:
        roots = wiring.needs - {CONFIG}
        unknown = sorted(name for name in roots if self.runtime.home(name) is None)
        if unknown:
            raise BundleError(
                f"{wiring.module.origin} uses {unknown[0]}, which neither it nor "
                f"{self.runtime.package} defines",
                remedy="correct the name, or import it in the template",
            )
        return set(roots)

    def _library_imports(self, wiring: Wiring) -> list[Import]:
        ours = [
            Import(f"{self.runtime.package}.{home.name}", name, None)
            for name in self._roots(wiring)
            if (home := self.runtime.home(name))
        ]
        return [*_flat(wiring.module.imports), *ours]


def runtime_sections(definitions: Iterable[Definition]) -> list[str]:
    """Return the slices grouped by origin, each group under its ruler."""
    return [
        under_ruler(origin, join_slices(tuple(group)))
        for origin, group in groupby(definitions, key=lambda one: one.origin)
    ]


def join_slices(definitions: Sequence[Definition]) -> str:
    """Return slices of one module with the blank lines that black wants."""
    text = definitions[0].text
    for above, below in pairwise(definitions):
        between_constants = above.is_constant and below.is_constant
        adjacent = below.first == above.last + 1
        blank = (0 if adjacent else 1) if between_constants else 2
        text += "\n" * (blank + 1) + below.text
    return text


def templates_root() -> Path:
    """The templates: inside the installed package, or beside it in a checkout."""
    package = Path(__file__).resolve().parent.parent
    packaged = package / "templates"
    return packaged if packaged.is_dir() else package.parent / "templates"


def _config(plan: Plan) -> str:
    if type(plan.config) is not dict or "spec" not in plan.config:
        raise BundleError("a plan's config is a dict with the frozen spec as `spec`")
    return f"{CONFIG} = {py_literal(plan.config)}"


def _flat(imports: Mapping[str, tuple[Import, ...]]) -> list[Import]:
    return [one for group in imports.values() for one in group]


def _script_imports(wiring: Wiring, cut: Cut) -> list[Import]:
    merged = dict(cut.imports)
    for name, needed in wiring.module.imports.items():
        merge_imports(merged, name, needed)
    return [one for one in _flat(merged) if one.module != "__future__"]


def _check_collisions(
    wiring: Wiring, cut: Cut, imports: Iterable[Import], user: UserCode
) -> None:
    """Every top-level name of a script has one meaning; ours are checked strictly."""
    places = {d.name: d.place() for d in cut.definitions}
    places[CONFIG] = "the configuration"
    for definition in wiring.module.definitions.values():
        if definition.name in places:
            raise BundleError(
                f"two definitions of {definition.name}: {definition.place()} and "
                f"{places[definition.name]}",
                remedy="rename the one in the template",
            )
        places[definition.name] = definition.place()
    local = {
        name: d.origin
        for d in wiring.module.definitions.values()
        for name in d.uses.locals
    }
    shadowed = sorted(local.keys() & {d.name for d in cut.definitions})
    if shadowed:
        raise BundleError(
            f"{local[shadowed[0]]}: a local name {shadowed[0]} hides "
            f"{places[shadowed[0]]}",
            remedy="rename the local one in the template",
        )
    bound = {one.binds: one for one in imports}
    for name in sorted(places.keys() & bound.keys()):
        if name not in wiring.needs:
            raise BundleError(f"{bound[name].place} imports {name}: {places[name]}")
    definitions = [*cut.definitions, *wiring.module.definitions.values()]
    used = {name for d in definitions for name in d.uses.names} | wiring.needs
    user.check_against(places, bound, used & BUILTINS)


def render(plan: Plan, *, library: bool = False, user_root: Path | None = None) -> str:
    """Return the script of a plan, from the installed runtime and templates."""
    return Bundler().render(plan, library=library, user_root=user_root)


def bundle(spec: TrainSpec, *, user_root: Path | None = None) -> str:
    """Return the training script of a spec: the text of one Python file.

    Args:
        spec: What to train. Hub ids without a pinned revision are resolved.
        user_root: What paths of user code are relative to; the working directory by
            default.

    Raises:
        SpecError: The spec cannot be frozen.
        BundleError: The script cannot be put together.
        UserCodeError: The user's code cannot be carried.
    """
    from carl_bundle.recipes import plan
    from carl_bundle.spec.freeze import freeze

    return render(plan(freeze(spec)), user_root=user_root)
