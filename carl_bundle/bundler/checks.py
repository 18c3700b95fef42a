"""What every script is checked for before anybody sees it."""

from __future__ import annotations

import ast
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import Any

from carl_bundle.bundler.metadata import BLOCK
from carl_bundle.bundler.modules import Definition
from carl_bundle.bundler.ruler import CONFIGURATION, Section, sections_of
from carl_bundle.bundler.source import parse
from carl_bundle.errors import BundleError

FORBIDDEN_CALLS = frozenset(
    ("exec", "eval", "compile", "__import__", "os.system", "os.popen")
)
FORBIDDEN_MODULES = frozenset(("pickle", "marshal", "shelve", "dill", "cloudpickle"))
_SUSPECT = re.compile(
    r"(?<![.\w])(exec|eval|compile|__import__)\s*\(|os\s*\.\s*(system|popen)"
    r"|torch\s*\.\s*load|trust_remote_code|shell|pickle|marshal|shelve|dill"
)
_COMMIT = re.compile(r"[0-9a-f]{40}")


def check_script(
    script: str, config: Mapping[str, Any], definitions: Sequence[Definition]
) -> None:
    """Check a finished script.

    Args:
        script: Its text.
        config: The value that its CONFIG must have, types included.
        definitions: The slices it must contain, in order; empty in library mode.

    Raises:
        BundleError: A rule is broken; nothing is printed then.
    """
    tree = parse(script, "the script")
    blocks = sum(1 for _ in BLOCK.finditer(script))
    if blocks != 1:
        raise BundleError(f"the script has {blocks} metadata blocks, not one")
    sections = sections_of(script)
    damaged = [section.name for section in sections if not section.is_intact]
    if damaged:
        raise BundleError(f"the section {damaged[0]} does not match its ruler")
    _check_config(tree, config)
    _check_slices(sections, definitions)
    origins = {definition.origin for definition in definitions}
    users = user_sections(sections, origins)
    _check_code(tree, script, users)
    _check_remote_code(config)


def user_sections(sections: Iterable[Section], origins: set[str]) -> list[Section]:
    """Return the sections of user code: those that a `# fmt: off` opens."""
    return [
        section
        for section in sections
        if section.name not in origins and section.text.startswith("# fmt: off\n")
    ]


def config_of(tree: ast.Module) -> ast.expr:
    """Return the expression that a script assigns to CONFIG."""
    for statement in tree.body:
        if isinstance(statement, ast.Assign) and _is_config(statement):
            return statement.value
    raise BundleError("the script has no CONFIG")


def same(one: Any, other: Any) -> bool:
    """Whether two literal values are equal, types and order of keys included."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return repr(one) == repr(other)


def _check_config(tree: ast.Module, config: Mapping[str, Any]) -> None:
    if not same(ast.literal_eval(config_of(tree)), config):
        raise BundleError(f"{CONFIGURATION} does not evaluate to what it was made of")


def _check_slices(
    sections: Sequence[Section], definitions: Sequence[Definition]
) -> None:
    """Every slice stands in its section, in order, letter for letter."""
    origins = {definition.origin for definition in definitions}
    found = [section for section in sections if section.name in origins]
    expected = [list(group) for _, group in groupby(definitions, lambda d: d.origin)]
    if len(found) != len(expected):
        raise BundleError("the script's sections are not those that were cut")
    for section, slices in zip(found, expected, strict=True):
        rest = section.text
        for one in slices:
            if section.name != one.origin or not rest.startswith(one.text):
                raise BundleError(f"the slice of {one.place()} is not verbatim")
            rest = rest[len(one.text) :].lstrip("\n")
        if rest:
            raise BundleError(f"{section.name}: more than its slices")


def _check_code(tree: ast.Module, script: str, users: Sequence[Section]) -> None:
    """Nothing forbidden outside CONFIG and the user's code.

    Only statements with a line that could hold any of it are walked.
    """
    # Python normalizes identifiers, too.
    text = unicodedata.normalize("NFKC", script)
    suspects = [text.count("\n", 0, m.start()) + 1 for m in _SUSPECT.finditer(text)]
    for statement in tree.body:
        first, last = statement.lineno, statement.end_lineno or 0
        suspect = any(first <= number <= last for number in suspects)
        ours = not any(user.line <= first <= user.end for user in users)
        if suspect and ours and not _is_config(statement):
            for node in ast.walk(statement):
                for what in _forbidden(node):
                    line = getattr(node, "lineno", first)
                    raise BundleError(
                        f"line {line} of the script: {what} is not allowed"
                    )


def _is_config(statement: ast.stmt) -> bool:
    match statement:
        case ast.Assign(targets=[ast.Name(id="CONFIG")]):
            return True
    return False


def _forbidden(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Call):
        called = _dotted(node.func)
        keywords = {keyword.arg: keyword.value for keyword in node.keywords}
        if called in FORBIDDEN_CALLS:
            yield f"{called}()"
        if called == "torch.load" and not _is_true(keywords.get("weights_only")):
            yield "torch.load without weights_only=True"
        for flag in ("trust_remote_code", "shell"):
            if _is_true(keywords.get(flag)):
                yield f"{flag}=True"
    elif isinstance(node, ast.Import | ast.ImportFrom):
        named = [node.module] if isinstance(node, ast.ImportFrom) else []
        for module in named or [alias.name for alias in node.names]:
            if (module or "").partition(".")[0] in FORBIDDEN_MODULES:
                yield f"import {module}"


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = _dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""


def _is_true(node: ast.expr | None) -> bool:
    return isinstance(node, ast.Constant) and node.value is True


def _check_remote_code(config: Mapping[str, Any]) -> None:
    """Remote code runs only if the spec says so, at a pinned revision."""
    if not any(_asks_for_remote_code(config[key]) for key in config):
        return
    model = config["spec"].get("model")
    model = model if isinstance(model, dict) else {}
    if not model.get("trust_remote_code"):
        raise BundleError("the configuration trusts remote code, the spec does not")
    if not _COMMIT.fullmatch(str(model.get("revision"))):
        raise BundleError(
            "trust_remote_code needs the revision as a commit SHA",
            remedy="set model.revision to the 40 digits of the commit you have read",
        )


def _asks_for_remote_code(value: Any) -> bool:
    if isinstance(value, dict):
        return value.get("trust_remote_code") is True or any(
            _asks_for_remote_code(item) for item in value.values()
        )
    return isinstance(value, list) and any(map(_asks_for_remote_code, value))
