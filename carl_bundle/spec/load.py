"""Reading a `carl.yaml`, flags and `--set` into a TrainSpec."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carl_bundle.errors import Problem, SpecError, UsageError
from carl_bundle.spec.document import Document, put
from carl_bundle.spec.train_spec import TrainSpec
from carl_bundle.spec.yaml import MAX_BYTES, parse


@dataclass(frozen=True)
class Loaded:
    """A spec and what the reader should be told about it.

    Attributes:
        spec: The validated spec.
        notes: One sentence each, for stderr: old names translated, settings ignored.
    """

    spec: TrainSpec
    notes: tuple[str, ...] = ()


def load(
    path: str | Path | None = None,
    *,
    flags: Mapping[str, Any] | None = None,
    assignments: Sequence[str] = (),
) -> Loaded:
    """Read a spec; later sources win: file, flags, assignments.

    Args:
        path: A YAML file, `-` for standard input, None for the embedded default.
        flags: Values by dotted name (`{"model.id": "org/name"}`); None is not given.
        assignments: `name=value` as given to `--set`; the value is read as YAML.

    Raises:
        UsageError: A source cannot be read.
        SpecError: The spec is invalid; holds every problem.
    """
    from carl_bundle.spec.legacy import translate

    document = {} if path is None else read_document(path)
    problems: list[Problem] = []
    given = [
        (name, value) for name, value in (flags or {}).items() if value is not None
    ]
    method = next((value for name, value in given if name == "method"), None)
    translation = translate(document, method)
    document, notes = translation.document, list(translation.notes)
    problems += translation.problems
    for name, value in [*given, *map(_assignment, assignments)]:
        single = translate({name: value}, str(document.get("method", "pipeline")))
        problems += single.problems
        notes += single.notes
        for leaf, leaf_value in _leaves(single.document, name):
            try:
                put(document, leaf, leaf_value)
            except ValueError as error:
                problems.append(Problem(name, str(error), "correct the name"))
    return Loaded(_validate(document, problems), tuple(dict.fromkeys(notes)))


def read_document(path: str | Path) -> Document:
    """Return the mapping in a YAML file; `-` is standard input.

    Raises:
        UsageError: It cannot be read, or is no mapping.
    """
    source = str(path)
    if source == "-":
        source, raw = "<stdin>", sys.stdin.buffer.read(MAX_BYTES + 1)
    else:
        try:
            with Path(path).open("rb") as file:
                raw = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise UsageError(
                f"cannot read {source}: {error.strerror or error}",
                remedy="check the path; `carl init` writes a new carl.yaml",
            ) from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{source} is not UTF-8 text (byte {error.start})",
            remedy="save it as UTF-8",
        ) from error
    value = parse(text, source)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UsageError(
            f"{source} holds {type(value).__name__}, not a mapping of settings",
            remedy="write `name: value` lines; `carl init` writes an example",
        )
    return value


def _assignment(text: str) -> tuple[str, Any]:
    name, equals, value = text.partition("=")
    if not equals or not name.strip():
        raise UsageError(
            f"--set {text!r} assigns nothing", remedy="write --set name=value"
        )
    return name.strip(), parse(value, f"--set {name.strip()}")


def _leaves(document: Document, name: str) -> list[tuple[str, Any]]:
    """Return what one assignment sets: itself, or the new names of an old one."""
    if name in document:
        return [(name, document[name])]
    found = []
    for key, value in document.items():
        if isinstance(value, dict):
            found += [(f"{key}.{leaf}", v) for leaf, v in _leaves(value, "")]
        else:
            found.append((key, value))
    return found


def _validate(document: Document, problems: list[Problem]) -> TrainSpec:
    try:
        spec = TrainSpec.model_validate(document)
    except SpecError as error:
        raise SpecError([*problems, *error.problems]) from error
    if problems:
        raise SpecError(problems)
    return spec
