"""Reading Python source as lines, the way Python itself counts them."""

from __future__ import annotations

import ast
from pathlib import Path

from carl_bundle.errors import BundleError


def read_source(path: Path, shown: str) -> str:
    """Return the text of a source file with LF line ends.

    Raises:
        BundleError: It is not UTF-8, or a carriage return stands alone.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError as error:
        raise BundleError(f"{shown}: not UTF-8 ({error})") from error
    if "\r" in text:
        line = text[: text.index("\r")].count("\n") + 1
        raise BundleError(
            f"{shown}:{line}: a carriage return that ends no line",
            remedy="save the file with LF line ends",
        )
    return text


def parse(text: str, shown: str) -> ast.Module:
    """Return the syntax tree.

    Raises:
        BundleError: It is not Python; the message names file and line.
    """
    try:
        return ast.parse(text)
    except (SyntaxError, ValueError) as error:
        line = getattr(error, "lineno", None)
        where = f"{shown}:{line}" if line else shown
        raise BundleError(
            f"{where}: not valid Python: {getattr(error, 'msg', error)}",
            remedy="correct that line",
        ) from error


def lines_of(text: str) -> list[str]:
    r"""Return the lines of a source text.

    Only LF ends a line here: `str.splitlines` also splits at form feeds and U+2028,
    where Python and its syntax tree do not.
    """
    lines = text.split("\n")
    return lines[:-1] if lines[-1] == "" else lines


def span(statement: ast.stmt, lines: list[str]) -> tuple[int, int]:
    """Return the first and last line (from 1) that belong to a top-level statement.

    It starts at the comment block attached above it, or at the first decorator, and
    ends with indented comments below its last line.
    """
    decorators = getattr(statement, "decorator_list", [])
    first = min([statement.lineno, *(d.lineno for d in decorators)])
    while first > 1 and lines[first - 2].startswith("#"):
        first -= 1
    last = statement.end_lineno or statement.lineno
    ahead = last
    while ahead < len(lines):
        line = lines[ahead]
        ahead += 1
        if line.strip() and not (line[0] in " \t" and line.lstrip()[0] == "#"):
            break
        if line.strip():
            last = ahead
    return first, last
