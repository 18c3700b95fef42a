"""Which names a top-level statement reads, by Python's scoping rules.

A read happens *now*, when the statement itself is executed (bases, decorators,
defaults, a constant's value, a class body), or *later*, when a function runs.
Annotations count as later reads: every module starts with `from __future__ import
annotations`, so nothing evaluates them unless somebody asks for the hints.
"""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

BUILTINS = frozenset(dir(builtins))
Function = ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
Comprehension = ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
_SCOPES = frozenset(
    (
        ast.FunctionDef,
        ast.AsyncFunctionDef,
        ast.ClassDef,
        ast.Lambda,
        ast.ListComp,
        ast.SetComp,
        ast.DictComp,
        ast.GeneratorExp,
    )
)
_BINDERS = frozenset(
    (
        ast.Import,
        ast.ImportFrom,
        ast.ExceptHandler,
        ast.MatchAs,
        ast.MatchStar,
        ast.MatchMapping,
        ast.Global,
        ast.Nonlocal,
    )
)
# Many nodes are one of these; they neither bind a name nor hold another node.
_LEAVES = frozenset((ast.Constant, ast.Load, ast.Store, ast.Del, ast.Pass))


@dataclass
class Uses:
    """Names that a statement reads and does not bind itself.

    Attributes:
        now: Names read when the statement is executed.
        called: Those of `now` that may be called at once: decorators, call targets.
        later: Names read when a function runs, annotations included.
        lines: The first line on which each name is read.
        locals: Every name bound in a function of the statement, with its line.
    """

    now: set[str] = field(default_factory=set)
    called: set[str] = field(default_factory=set)
    later: set[str] = field(default_factory=set)
    lines: dict[str, int] = field(default_factory=dict)
    locals: dict[str, int] = field(default_factory=dict)

    @property
    def names(self) -> set[str]:
        return self.now | self.later


def uses(statement: ast.stmt) -> Uses:
    """Return what a top-level statement reads and which local names it binds."""
    reader = _Reader()
    reader.visit(statement)
    return reader.found


def bound_by(nodes: Iterable[ast.AST]) -> dict[str, int]:
    """Return the names that statements bind in their own scope, with their lines."""
    bound: dict[str, int] = {}
    outer: set[str] = set()
    for name, line, is_local in _bindings(nodes):
        if is_local:
            bound.setdefault(name, line)
        else:
            outer.add(name)
    return {name: line for name, line in bound.items() if name not in outer}


def _children(node: ast.AST) -> list[ast.AST]:
    """The nodes directly below one; `ast.iter_child_nodes`, without its overhead."""
    found: list[ast.AST] = []
    for name in node._fields:
        value = getattr(node, name, None)
        if isinstance(value, list):
            found += [item for item in value if isinstance(item, ast.AST)]
        elif isinstance(value, ast.AST):
            found.append(value)
    return [child for child in found if child.__class__ not in _LEAVES]


def _bindings(nodes: Iterable[ast.AST]) -> Iterator[tuple[str, int, bool]]:
    """Yield (name, line, whether it is local) without entering nested scopes."""
    pending = list(nodes)
    while pending:
        node = pending.pop()
        if isinstance(node, ast.Name):
            if not isinstance(node.ctx, ast.Load):
                yield node.id, node.lineno, True
        elif node.__class__ in _SCOPES:
            yield from _bound_outside(node)
            if isinstance(node, Function | ast.ClassDef):
                pending += _outside_body(node)
        else:
            if node.__class__ in _BINDERS:
                yield from _bound_by_statement(node)
            pending += _children(node)


def _bound_outside(node: ast.AST) -> Iterator[tuple[str, int, bool]]:
    """What a nested scope binds in the scope around it."""
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield node.name, node.lineno, True
    elif not isinstance(node, ast.Lambda):
        for inner in ast.walk(node):
            if isinstance(inner, ast.NamedExpr):
                yield inner.target.id, inner.lineno, True


def _bound_by_statement(node: ast.AST) -> Iterator[tuple[str, int, bool]]:
    match node:
        case ast.Import() | ast.ImportFrom():
            for alias in node.names:
                name = alias.asname or alias.name.partition(".")[0]
                yield name, node.lineno, True
        case ast.ExceptHandler(name=str(name)) | ast.MatchAs(name=str(name)):
            yield name, node.lineno, True
        case ast.MatchStar(name=str(name)) | ast.MatchMapping(rest=str(name)):
            yield name, node.lineno, True
        case ast.Global() | ast.Nonlocal():
            for name in node.names:
                yield name, node.lineno, False


def _outside_body(node: Function | ast.ClassDef) -> list[ast.expr]:
    """The expressions of a definition that its enclosing scope evaluates."""
    if isinstance(node, ast.ClassDef):
        values = [keyword.value for keyword in node.keywords]
        return [*node.decorator_list, *node.bases, *values]
    defaults = [*node.args.defaults, *(d for d in node.args.kw_defaults if d)]
    return defaults if isinstance(node, ast.Lambda) else node.decorator_list + defaults


def _parameters(arguments: ast.arguments) -> list[ast.arg]:
    listed = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
    return listed + [a for a in (arguments.vararg, arguments.kwarg) if a]


@dataclass(frozen=True)
class _Scope:
    names: frozenset[str]
    is_class: bool = False


class _Reader(ast.NodeVisitor):
    """Collects reads; `scopes` holds the local scopes around the current node."""

    def __init__(self) -> None:
        self.found = Uses()
        self.scopes: tuple[_Scope, ...] = ()
        self.running = False

    def visit(self, node: ast.AST) -> None:
        """`NodeVisitor.visit`, quicker for the many nodes without a method here."""
        if node.__class__ in _VISITED:
            super().visit(node)
        else:
            self.generic_visit(node)

    def generic_visit(self, node: ast.AST) -> None:
        for child in _children(node):
            self.visit(child)

    def visit_Name(self, node: ast.Name) -> None:
        if not isinstance(node.ctx, ast.Load):
            return
        for depth, scope in enumerate(reversed(self.scopes)):
            if node.id in scope.names and (depth == 0 or not scope.is_class):
                return
        self.found.lines.setdefault(node.id, node.lineno)
        (self.found.later if self.running else self.found.now).add(node.id)

    def visit_Call(self, node: ast.Call) -> None:
        self._note_called(node.func)
        self.generic_visit(node)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> None:
        self._function(node, node.body)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> None:
        self._function(node, node.body)

    def visit_Lambda(self, node: ast.Lambda) -> None:
        self._function(node, [node.body])

    def visit_ClassDef(self, node: ast.ClassDef) -> None:
        for outside in _outside_body(node):
            self._note_called(outside)
            self.visit(outside)
        names = frozenset(bound_by(node.body))
        self._inside(_Scope(names, is_class=True), node.body, self.running)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> None:
        self._later(node.annotation)
        self.visit(node.target)
        if node.value:
            self.visit(node.value)

    def visit_ListComp(self, node: ast.ListComp) -> None:
        self._comprehension(node, [node.elt])

    def visit_SetComp(self, node: ast.SetComp) -> None:
        self._comprehension(node, [node.elt])

    def visit_GeneratorExp(self, node: ast.GeneratorExp) -> None:
        self._comprehension(node, [node.elt])

    def visit_DictComp(self, node: ast.DictComp) -> None:
        self._comprehension(node, [node.key, node.value])

    def visit_Global(self, node: ast.Global) -> None:
        for name in node.names:
            self.found.lines.setdefault(name, node.lineno)
            self.found.later.add(name)

    def _function(self, node: Function, body: list[ast.stmt] | list[ast.expr]) -> None:
        for outside in _outside_body(node):
            self._note_called(outside)
            self.visit(outside)
        parameters = _parameters(node.args)
        for parameter in parameters:
            self._later(parameter.annotation)
        if not isinstance(node, ast.Lambda):
            self._later(node.returns)
        names = {p.arg: p.lineno for p in parameters} | bound_by(body)
        for name, line in names.items():
            self.found.locals.setdefault(name, line)
        in_class = {"__class__"} if any(s.is_class for s in self.scopes) else set()
        visible = tuple(scope for scope in self.scopes if not scope.is_class)
        outer, self.scopes = self.scopes, visible
        self._inside(_Scope(frozenset(names) | in_class), body, running=True)
        self.scopes = outer

    def _comprehension(self, node: Comprehension, results: list[ast.expr]) -> None:
        self.visit(node.generators[0].iter)
        names = bound_by(generator.target for generator in node.generators)
        for name, line in names.items():
            self.found.locals.setdefault(name, line)
        inside: list[ast.expr] = list(results)
        for position, generator in enumerate(node.generators):
            inside += generator.ifs + ([generator.iter] if position else [])
        # A class scope is not visible from here, and the walrus binds outside.
        outer = self.scopes
        self.scopes = tuple(scope for scope in outer if not scope.is_class)
        self._inside(_Scope(frozenset(names)), inside, self.running)
        self.scopes = outer

    def _inside(self, scope: _Scope, nodes: Iterable[ast.AST], running: bool) -> None:
        before = self.scopes, self.running
        self.scopes, self.running = (*self.scopes, scope), running
        for node in nodes:
            self.visit(node)
        self.scopes, self.running = before

    def _later(self, node: ast.expr | None) -> None:
        if node is None:
            return
        before, self.running = self.running, True
        self.visit(node)
        self.running = before

    def _note_called(self, node: ast.expr) -> None:
        if not self.running and isinstance(node, ast.Name):
            self.found.called.add(node.id)


_VISITED = frozenset(
    getattr(ast, name.removeprefix("visit_"))
    for name in vars(_Reader)
    if name.startswith("visit_")
)
