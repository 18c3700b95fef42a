"""User code, `path.py:function`: carried whole, in a section and licence of its own.

A file comes along as it is, less its `from __future__` line, what it imports from files
beside it (they come along too) and a first line for the shell. It may hold imports,
definitions, literals and `re.compile` of literals; anything else would run when the
script starts, and is refused.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from carl_bundle.bundler.imports import Import, imported_modules, imports_of
from carl_bundle.bundler.modules import Definition, Module
from carl_bundle.bundler.ruler import is_ruler
from carl_bundle.bundler.scope import BUILTINS, uses
from carl_bundle.bundler.source import read_source
from carl_bundle.errors import BundleError, UserCodeError

if TYPE_CHECKING:
    from carl_bundle.recipes.plan import UserFunction

_CODING = re.compile(r"#.*coding[:=]")


@dataclass(frozen=True)
class UserSection:
    """One file of user code: its path as given, and its text between `# fmt` marks."""

    name: str
    text: str


@dataclass(frozen=True)
class UserCode:
    """All user code of a script.

    Attributes:
        sections: The files in the order of the script.
        modules: Every module they import, also inside functions.
        places: `file:line` of each top-level name they define.
        imports: What their top-level imports bind.
    """

    sections: tuple[UserSection, ...] = ()
    modules: frozenset[str] = frozenset()
    places: Mapping[str, str] = field(default_factory=dict)
    imports: Mapping[str, Import] = field(default_factory=dict)

    def check_against(
        self,
        names: Mapping[str, str],
        imports: Mapping[str, Import],
        builtins: Iterable[str],
    ) -> None:
        """Raise UserCodeError if a name means something else in the script.

        Args:
            names: The script's own top-level names, with their places.
            imports: What its imports bind.
            builtins: The built-in names that its own code uses.
        """
        taken = dict(names)
        taken |= {name: f"the import at {one.place}" for name, one in imports.items()}
        taken |= dict.fromkeys(builtins, "Python (the script uses it)")
        for name, place in self.places.items():
            if name in taken:
                raise UserCodeError(
                    f"{place}: {name} is also defined by {taken[name]}",
                    remedy=f"rename {name} in your file",
                )
        for name, one in self.imports.items():
            same = name in imports and one.agrees_with(imports[name])
            if name in taken and not same:
                raise UserCodeError(
                    f"{one.place}: imports {name}, also defined by {taken[name]}",
                    remedy="import it under another name (`as ...`)",
                )


def read_user_code(functions: Iterable[UserFunction], root: Path) -> UserCode:
    """Read the files of the named functions, and the files beside them they import.

    Args:
        functions: What the spec names.
        root: What their paths are relative to.

    Raises:
        UserCodeError: A file or function is missing, or holds what cannot be carried.
    """
    reader = _Reader(root)
    for one in functions:
        module = reader.follow(one.path)
        target = module.definitions.get(one.name)
        if one.name in reader.files_of(module):
            target = reader.files_of(module)[one.name]
        if target is None or target.is_constant:
            raise UserCodeError(
                f"{one.path} defines no function {one.name}",
                remedy=f"define it at the top level of {one.path}",
            )
    return reader.result()


class _Reader:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.read: dict[Path, Module] = {}
        self.ordered: list[Module] = []
        self.beside: dict[str, dict[str, Definition]] = {}

    def files_of(self, module: Module) -> Mapping[str, Definition]:
        """What a module imports from the files beside it, by name."""
        return self.beside[module.origin]

    def follow(self, shown: str) -> Module:
        """Read a file and, before it, the files beside it that it imports from."""
        _check_path(shown)
        path = self.root / shown
        key = path.resolve()
        if key in self.read:
            return self.read[key]
        module = _parse(path, shown)
        self.read[key] = module
        self.beside[shown] = {}
        for statement in module.tree.body:
            if isinstance(statement, ast.Import):
                _refuse_plain_import(statement, path.parent, shown)
            other = _file_beside(statement, path.parent)
            if other is not None:
                self._take_names(statement, module, other)
        _check_top_level(module)
        self.ordered.append(module)
        return module

    def _take_names(self, statement: ast.stmt, module: Module, other: str) -> None:
        shown = str(Path(module.origin).parent / other).replace("\\", "/")
        beside = self.follow(shown)
        for one in imports_of(statement, module.origin):
            if one.alias or one.name not in beside.definitions:
                raise UserCodeError(
                    f"{one.place}: cannot follow the import of {one.name} from {shown}",
                    remedy="write `from file import name`, without alias or star, of "
                    "something that file defines",
                )
            self.beside[module.origin][one.binds] = beside.definitions[one.binds]

    def result(self) -> UserCode:
        places: dict[str, str] = {}
        imports: dict[str, Import] = {}
        modules: set[str] = set()
        sections = []
        for module in self.ordered:
            kept = self._kept(module)
            self._check_names(module)
            for name, definition in module.definitions.items():
                if name in places:
                    raise UserCodeError(
                        f"two definitions of {name}: {places[name]} and "
                        f"{definition.place()}",
                        remedy="rename one of them",
                    )
                places[name] = definition.place()
            for statement in kept:
                modules |= imported_modules(statement)
                for one in imports_of(statement, module.origin):
                    before = imports.setdefault(one.binds, one)
                    if not one.agrees_with(before):
                        raise UserCodeError(
                            f"{one.place} and {before.place} import different things "
                            f"as {one.binds}",
                            remedy="import one of them under another name",
                        )
            sections.append(UserSection(module.origin, _text(module, kept)))
        return UserCode(tuple(sections), frozenset(modules), places, imports)

    def _kept(self, module: Module) -> list[ast.stmt]:
        folder = (self.root / module.origin).parent
        return [
            statement
            for statement in module.tree.body
            if not _is_future(statement) and _file_beside(statement, folder) is None
        ]

    def _check_names(self, module: Module) -> None:
        known = module.definitions.keys() | module.imports.keys() | BUILTINS
        for statement in module.tree.body:
            found = uses(statement)
            for name in sorted(found.names - known - {"__name__", "__doc__"}):
                raise UserCodeError(
                    f"{module.origin}:{found.lines[name]}: {name} is not defined here",
                    remedy=f"define or import {name} in {module.origin}",
                )


def _parse(path: Path, shown: str) -> Module:
    try:
        found = path.is_file()
    except OSError:  # no file could have such a name
        found = False
    if not found:
        raise UserCodeError(
            f"there is no file {shown}", remedy="paths are relative to the spec"
        )
    try:
        module = Module.parse(path.stem, read_source(path, shown), shown)
    except BundleError as error:
        raise UserCodeError(str(error), remedy=error.remedy) from error
    for number, line in enumerate(module.lines, 1):
        if line.lstrip().startswith("# ///"):
            raise UserCodeError(
                f"{shown}:{number}: a line starting with `# ///` is read as metadata",
                remedy="remove it; dependencies go to `dependencies:` in the spec",
            )
        if is_ruler(line) or line.lstrip().startswith("# fmt:"):
            raise UserCodeError(
                f"{shown}:{number}: this comment would divide the script",
                remedy="remove or reword the comment",
            )
    return module


def _check_path(shown: str) -> None:
    if not shown.isprintable() or " sha256:" in shown:
        raise UserCodeError(
            f"the path {shown!r} cannot be shown in a script", remedy="rename the file"
        )


def _check_top_level(module: Module) -> None:
    """Refuse statements that would do something when the script starts."""
    for position, statement in enumerate(module.tree.body):
        match statement:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                continue
            case ast.Import():
                continue
            case ast.ImportFrom(level=0) if statement.names[0].name != "*":
                continue
            case ast.ImportFrom() if statement.names[0].name != "*":
                if _file_beside(statement, Path()) is not None:
                    continue
            case ast.Expr(value=ast.Constant(value=str())) if position == 0:
                continue
            case ast.Assign(targets=[ast.Name()], value=value) if _is_literal(value):
                continue
            case ast.AnnAssign(target=ast.Name(), value=value) if _is_literal(value):
                continue
        raise UserCodeError(
            f"{module.origin}:{statement.lineno}: "
            "this would run when the script starts",
            remedy="keep imports, definitions, literals and re.compile of literals; "
            "move the rest into a function",
        )


def _is_literal(value: ast.expr | None) -> bool:
    if value is None:
        return True
    if isinstance(value, ast.Call):
        arguments = [*value.args, *(keyword.value for keyword in value.keywords)]
        named = ast.unparse(value.func) in ("re.compile", "frozenset", "set", "tuple")
        return named and all(_is_literal(a) or _is_flag(a) for a in arguments)
    try:
        ast.literal_eval(value)
    except ValueError:
        return False
    return True


def _is_flag(value: ast.expr) -> bool:
    """`re.I`, `re.I | re.M`."""
    if isinstance(value, ast.BinOp):
        return _is_flag(value.left) and _is_flag(value.right)
    return isinstance(value, ast.Attribute) and ast.unparse(value.value) == "re"


def _is_future(statement: ast.stmt) -> bool:
    return isinstance(statement, ast.ImportFrom) and statement.module == "__future__"


def _file_beside(statement: ast.stmt, folder: Path) -> str | None:
    """The file beside this one that a `from x import y` means, if there is one."""
    if not isinstance(statement, ast.ImportFrom) or not statement.module:
        return None
    if "." in statement.module or statement.level > 1:
        return None
    name = f"{statement.module}.py"
    return name if statement.level == 1 or (folder / name).is_file() else None


def _refuse_plain_import(statement: ast.Import, folder: Path, shown: str) -> None:
    for alias in statement.names:
        if (folder / f"{alias.name.partition('.')[0]}.py").is_file():
            raise UserCodeError(
                f"{shown}:{statement.lineno}: {alias.name} is a file beside this one",
                remedy=f"write `from {alias.name} import name`",
            )


def _text(module: Module, kept: list[ast.stmt]) -> str:
    """The lines of a file without the removed statements, between `# fmt` marks."""
    dropped: set[int] = set()
    for statement in module.tree.body:
        if statement not in kept:
            dropped |= set(range(statement.lineno, (statement.end_lineno or 0) + 1))
    for number, line in enumerate(module.lines[:2], 1):
        if (number == 1 and line.startswith("#!")) or _CODING.match(line):
            dropped.add(number)
    lines = [line for n, line in enumerate(module.lines, 1) if n not in dropped]
    body = "\n".join(lines).strip("\n")
    return f"# fmt: off\n{body}\n# fmt: on"
