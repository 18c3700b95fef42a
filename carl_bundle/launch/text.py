"""Launch files as text: from a template, or from a document as YAML."""

from __future__ import annotations

import shlex
from typing import Any

from carl_bundle.launch.spec import IMAGE, LaunchSpec


def rendered(template: str, spec: LaunchSpec, **values: Any) -> str:
    """The text of a template of `templates/launch`; `quoted` is for shells."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from carl_bundle.bundler.render import templates_root

    environment = Environment(
        loader=FileSystemLoader(templates_root() / "launch"),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,
    )
    environment.filters["quoted"] = shlex.quote
    return environment.get_template(template).render(spec=spec, image=IMAGE, **values)


def as_yaml(head: str, *documents: dict[str, Any]) -> str:
    """YAML documents below lines of comments; texts of several lines as they are."""
    import yaml

    class Dumper(yaml.SafeDumper):
        pass

    def text(dumper: yaml.SafeDumper, value: str) -> yaml.ScalarNode:
        style = "|" if "\n" in value else None
        return dumper.represent_scalar("tag:yaml.org,2002:str", value, style=style)

    Dumper.add_representer(str, text)
    comments = "".join(f"# {line}\n" for line in head.splitlines())
    options: dict[str, Any] = {"sort_keys": False, "allow_unicode": True}
    return comments + str(yaml.dump_all(documents, Dumper=Dumper, **options))
