"""A script read back from its file: sections, metadata, CONFIG."""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from carl_bundle.bundler.checks import config_of, user_sections
from carl_bundle.bundler.imports import imported_modules
from carl_bundle.bundler.metadata import FORMAT, read_block
from carl_bundle.bundler.ruler import Section, sections_of
from carl_bundle.bundler.source import parse
from carl_bundle.bundler.user_code import UserCode, UserSection
from carl_bundle.errors import BundleError, CarlError, UsageError

MAX_BYTES = 64 * 1024 * 1024


class ForeignError(UsageError):
    """The file is no script of ours."""


@dataclass(frozen=True)
class Script:
    """A script of ours.

    Attributes:
        shown: Its path as given.
        text: Its text with LF line ends.
        generator: The version of carl-bundle that wrote it.
        spec_sha256: The digest of its spec, as its metadata say.
        dependencies: The requirements in its metadata.
        sections: Its sections in order; the first one is the header.
        has_crlf: Whether lines of the file end with CRLF.
    """

    shown: str
    text: str
    generator: str
    spec_sha256: str
    dependencies: tuple[str, ...]
    sections: tuple[Section, ...]
    has_crlf: bool = False

    @classmethod
    def read(cls, path: Path | str) -> Script:
        """Read a script from a file.

        Raises:
            UsageError: The file cannot be read.
            ForeignError: It is no script of ours.
        """
        try:
            with Path(path).open("rb") as file:
                raw = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise UsageError(
                f"cannot read {path}: {error.strerror or error}",
                remedy="check the path",
            ) from error
        if len(raw) > MAX_BYTES:
            raise ForeignError(f"{path} is larger than any script of ours")
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ForeignError(f"{path} is not UTF-8 text") from error
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, shown: str = "the script") -> Script:
        """Raises ForeignError unless the text is a script of ours."""
        unix = text.replace("\r\n", "\n")
        try:
            block = read_block(unix)
        except BundleError as error:
            raise ForeignError(f"{shown}: {error}") from error
        own = (block or {}).get("tool", {}).get("carl")
        sections = sections_of(unix)
        if not isinstance(own, dict) or block is None or len(sections) < 2:
            raise ForeignError(
                f"{shown} was not written by carl bundle: it has no [tool.carl] "
                "metadata with sections below"
            )
        layout = own.get("format")
        if type(layout) is not int or not 1 <= layout <= FORMAT:
            raise ForeignError(
                f"{shown} has the layout {layout}; this version reads up to {FORMAT}",
                remedy="update carl-bundle",
            )
        return cls(
            shown,
            unix,
            str(own.get("generator")),
            str(own.get("spec-sha256")),
            tuple(map(str, block.get("dependencies", ()))),
            tuple(sections),
            unix != text,
        )

    @cached_property
    def tree(self) -> ast.Module:
        return parse(self.text, self.shown)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The value of CONFIG.

        Raises:
            BundleError: The script is no valid Python, or CONFIG no literal dict.
        """
        try:
            value = ast.literal_eval(config_of(self.tree))
        except ValueError as error:
            raise BundleError(f"{self.shown}: CONFIG is no literal any more") from error
        if type(value) is not dict:
            raise BundleError(f"{self.shown}: CONFIG is no dict any more")
        return value

    @cached_property
    def user_sections(self) -> tuple[Section, ...]:
        return tuple(user_sections(self.sections, set()))

    @property
    def user_code(self) -> UserCode:
        """The user's code as the script holds it."""
        modules = set()
        for section in self.user_sections:
            modules |= imported_modules(parse(section.text, section.name))
        sections = tuple(UserSection(s.name, s.text) for s in self.user_sections)
        return UserCode(sections, frozenset(modules))

    def section_at(self, line: int) -> Section:
        """The section that a line belongs to; its ruler counts as part of it."""
        return [s for s in self.sections if s.line - (s.digest != "") <= line][-1]


def rerender(script: Script) -> str:
    """Return what this version renders from the spec in a script.

    User code is taken from the script itself.

    Raises:
        CarlError: The spec in it is not valid here, or cannot be rendered.
    """
    from carl_bundle.bundler.render import Bundler
    from carl_bundle.recipes import plan
    from carl_bundle.spec.freeze import freeze
    from carl_bundle.spec.train_spec import TrainSpec

    spec = script.config.get("spec")
    if not isinstance(spec, dict):
        raise CarlError(f"{script.shown}: CONFIG holds no spec")
    frozen = freeze(TrainSpec.model_validate(spec))
    return Bundler().render(plan(frozen), user_code=script.user_code)
