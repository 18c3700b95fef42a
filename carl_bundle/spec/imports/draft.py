"""A spec in the making, in which every setting of the source is accounted for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from carl_bundle.errors import Problem, SpecError
from carl_bundle.spec.document import Document, get, put
from carl_bundle.spec.passthrough import CONTROLLED, DEPRECATED
from carl_bundle.spec.phases import KINDS
from carl_bundle.spec.tables import table
from carl_bundle.spec.train_spec import TrainSpec

REQUIRED = {"model.id": "owner/name", "data.id": "rows.jsonl"}
"""What a run must name, and a stand-in for the checks while it is not named."""

NO_COUNTERPART = "it has no counterpart"

# The YAML of these tools is version 1.1, where these words are true and false.
_WORDS = {"yes": True, "on": True, "no": False, "off": False}
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


class Draft:
    """A document for a spec, and what became of every setting of the source.

    A setting is taken out of `settings` when it is read. What nobody takes is
    listed by `pass_on`, so that nothing can be lost in silence.

    Attributes:
        settings: What is not read yet, by the name it has in the source. An unset
            (null) value says nothing and is left out.
        method: The method of the spec, which also names its phase.
        document: The spec so far.
        dropped: Settings that are not taken over, each with the reason.
        remarks: Sentences about what no single setting says.
        problems: What the user must do before the spec trains the same thing.
    """

    def __init__(self, settings: Mapping[str, Any], method: str) -> None:
        self.settings = {
            key: _plain(key, value)
            for key, value in settings.items()
            if value is not None
        }
        self.method = method
        self.document: Document = {"version": 1, "method": method}
        self.dropped: dict[str, str] = {}
        self.remarks: list[str] = []
        self.problems: list[Problem] = []
        self._origins: dict[str, str] = {}

    def take(self, key: str) -> Any:
        """Return a setting and mark it as read; None if it is not given."""
        return self.settings.pop(key, None)

    def drop(self, key: str, reason: str) -> None:
        """List a setting as not taken over; does nothing if it is not given."""
        if self.settings.pop(key, None) is not None:
            self.dropped[key] = reason

    def refuse(self, where: str, message: str, remedy: str) -> None:
        """Note what the user must do before the spec trains the same thing."""
        self.problems.append(Problem(where, message, remedy))

    def put(self, key: str, field: str, value: Any) -> None:
        """Set a field of the spec from a setting; the first one to do so wins.

        Args:
            key: The setting.
            field: Dotted name; `{phase}` stands for the phase of the method.
            value: Not checked here, but by `settle`.
        """
        self.settings.pop(key, None)
        field = field.format(phase=self.method)
        given = get(self.document, field)
        if given is not None and given != value:
            self.dropped[key] = (
                f"{self._origins.get(field, 'another setting')} sets {field} too"
            )
        if given is not None:
            return
        if field.count(".") == 1 and field.startswith((f"{self.method}.", "lora.")):
            value = _number(value)
        put(self.document, field, value)
        self._origins[field] = key

    def imply(self, field: str, value: Any) -> None:
        """Set a field to what the settings mean without any of them saying it."""
        put(self.document, field, value)

    def move(
        self, key: str, field: str, read: Callable[[Any], Any] = lambda value: value
    ) -> None:
        """Set a field from a setting, if that is given; None from `read` is unset."""
        value = self.take(key)
        value = None if value is None else read(value)
        if value is not None:
            self.put(key, field, value)

    def pass_on(
        self,
        neutral: Mapping[str, tuple[Any, ...]],
        reasons: Mapping[str, str],
        prefix: str = "",
    ) -> None:
        """Account for every setting that is left, by the name it has in TRL.

        Args:
            neutral: Values that ask for what CARL does anyway.
            reasons: Why a setting is not taken over.
            prefix: What precedes TRL's own names in this format, such as `trl.`.
        """
        fields = table("trl_fields.json")[self.method]
        own = KINDS[self.method].model_fields.keys() - {"data", "trainer"}
        for key, value in list(self.settings.items()):
            name = key.removeprefix(prefix)
            if any(value is one or value == one for one in neutral.get(name, ())):
                self.take(key)
            elif name in reasons:
                self.drop(key, reasons[name])
            elif name in CONTROLLED and (name in fields or name == "fp16"):
                self.drop(key, _instead(CONTROLLED[name].format(phase=self.method)))
            elif name in DEPRECATED and name in fields:
                self.drop(key, _instead(DEPRECATED[name]))
            elif name in own:
                self.put(key, f"{{phase}}.{name}", value)
            elif name in fields:
                self.put(key, f"{{phase}}.trainer.{name}", value)
            else:
                self.drop(key, NO_COUNTERPART)

    def settle(self) -> None:
        """Check the spec, and take out what it cannot hold.

        A value that a spec refuses by itself is dropped with that reason. What is
        wrong between fields, or missing, becomes a problem.
        """
        missing = [field for field in REQUIRED if get(self.document, field) is None]
        for field in missing:
            put(self.document, field, REQUIRED[field])
        self.problems += self._remaining_problems()
        for field in missing:
            # Null is refused by `carl bundle`; left out, it would be the built-in.
            put(self.document, field, None)
            if not any(problem.where == field for problem in self.problems):
                self.refuse(field, "the file names none", f"set {field}")
        order = list(TrainSpec.model_fields)
        self.document = dict(
            sorted(self.document.items(), key=lambda item: order.index(item[0]))
        )

    def _remaining_problems(self) -> list[Problem]:
        while True:
            try:
                TrainSpec.model_validate(self.document)
            except SpecError as error:
                faulty = [(p, self._field_of(p.where)) for p in error.problems]
                if not any(field for _, field in faulty):
                    return list(error.problems)
                for problem, field in faulty:
                    if field in self._origins:
                        self._take_back(field, problem)
            else:
                return []

    def _field_of(self, where: str) -> str:
        """The field that a problem concerns alone and that may be left out, or ''."""
        parts = where.split(".")
        names = [".".join(parts[:end]) for end in range(len(parts), 0, -1)]
        field = next((name for name in names if name in self._origins), "")
        return "" if field in REQUIRED else field

    def _take_back(self, field: str, problem: Problem) -> None:
        *parents, last = field.split(".")
        block: Any = self.document
        for part in parents:
            block = block[part]
        del block[last]
        remedy = f" ({problem.remedy})" if problem.remedy else ""
        self.dropped[self._origins.pop(field)] = f"{problem.message}{remedy}"


def _plain(key: str, value: Any) -> Any:
    """A value as YAML 1.1 reads it; a strategy may be named `no`."""
    if isinstance(value, str) and not key.endswith("strategy"):
        return _WORDS.get(value.lower(), value)
    return value


def _number(value: Any) -> Any:
    """A number that is written as text, which these tools convert too."""
    if not isinstance(value, str) or not _NUMBER.fullmatch(value):
        return value
    return int(value) if value.lstrip("+-").isdecimal() else float(value)


def _instead(remedy: str) -> str:
    """The remedy for a field of TRL, said to somebody who did not write a spec."""
    for words in ("remove it and ", "remove it: "):
        remedy = remedy.removeprefix(words)
    return f"CARL decides this: {remedy}"
