"""Which choices put a line into the wiring: the `{% if %}` blocks around it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jinja2 import Environment, nodes

from carl_bundle.bundler.source import lines_of

if TYPE_CHECKING:
    from carl_bundle.bundler.render import Bundler
    from carl_bundle.recipes.plan import Plan

# Private-use characters: in no template, and they survive rendering.
_OPEN, _NAMED, _CLOSE = "\ue000", "\ue001", "\ue002"


class _Marking(Environment):
    """Renders as usual, with marks around what each `{% if %}` lets through."""

    def _parse(
        self, source: str, name: str | None, filename: str | None
    ) -> nodes.Template:
        template = super()._parse(source, name, filename)
        for branch in list(template.find_all(nodes.If)):
            decided_by = {name.name for name in branch.test.find_all(nodes.Name)}
            if isinstance(branch.test, nodes.Name):
                decided_by.add(branch.test.name)
            for body in (branch.body, branch.else_):
                if body:
                    body.insert(0, _text(f"{_OPEN}{' '.join(sorted(decided_by))}"))
                    body.insert(1, _text(_NAMED))
                    body.append(_text(_CLOSE))
        return template


def _text(mark: str) -> nodes.Output:
    return nodes.Output([nodes.TemplateData(mark)])


def choices_by_line(bundler: Bundler, plan: Plan) -> list[frozenset[str]]:
    """Return, for each line of the rendered template, the choices it depends on."""
    plain = bundler.environment
    marking = _Marking(
        loader=plain.loader,
        undefined=plain.undefined,
        trim_blocks=plain.trim_blocks,
        lstrip_blocks=plain.lstrip_blocks,
        keep_trailing_newline=plain.keep_trailing_newline,
    )
    rendered = marking.get_template(plan.template).render(plan.choices)
    lines: list[frozenset[str]] = []
    open_marks: list[frozenset[str]] = []
    for line in lines_of(rendered):
        seen: set[str] = set()
        position = 0
        while position < len(line):
            character = line[position]
            if character == _OPEN:
                end = line.index(_NAMED, position)
                open_marks.append(frozenset(line[position + 1 : end].split()))
                position = end
            elif character == _CLOSE:
                open_marks.pop()
            elif not character.isspace():
                seen.update(*open_marks)
            position += 1
        lines.append(frozenset(seen & plan.choices.keys()))
    return lines
