"""Small runtimes, templates and plans for the tests of the bundler."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any

from carl_bundle.bundler.cut import Runtime
from carl_bundle.bundler.render import Bundler
from carl_bundle.recipes.plan import Plan, UserFunction

FUTURE = "from __future__ import annotations\n\n"

WIRING = '''
"""Trains nothing."""

import sys


def main() -> int:
    """Run."""
    return run(CONFIG["seed"])


if __name__ == "__main__":
    sys.exit(main())
'''

MATHS = '''
"""Numbers."""

from __future__ import annotations

import math

LIMIT = 3


def unused() -> int:
    return 0


# Why it is halved.
def run(seed: int) -> int:
    """Half the seed."""
    return min(math.floor(seed / 2), LIMIT)
'''


def package(root: Path, **modules: str) -> Path:
    """Write a runtime package `rt` and return its directory."""
    folder = root / "rt"
    folder.mkdir(exist_ok=True)
    (folder / "__init__.py").write_text("")
    for name, text in modules.items():
        text = dedent(text).lstrip("\n")
        (folder / f"{name}.py").write_bytes(text.encode("utf-8"))
    return folder


def runtime(root: Path, **modules: str) -> Runtime:
    """A runtime of modules that all start with the future import."""
    texts = {name: FUTURE + dedent(text).lstrip() for name, text in modules.items()}
    return Runtime.read(package(root, **texts), tuple(modules))


def names(cut_from: Runtime, *roots: str) -> list[str]:
    """The names of a cut, in the order of the script."""
    return [definition.name for definition in cut_from.cut(roots).definitions]


def bundler(root: Path, wiring: str = WIRING, **modules: str) -> Bundler:
    """A bundler over a fake runtime and one template `t.jinja`."""
    modules = modules or {"maths": MATHS}
    templates = root / "templates"
    templates.mkdir(exist_ok=True)
    (templates / "t.jinja").write_text(wiring.lstrip("\n"), encoding="utf-8")
    return Bundler(package(root, **modules), templates, tuple(modules))


def plan(*user_code: str, **fields: Any) -> Plan:
    """A plan for the template of `bundler`."""
    config = fields.pop("config", {"seed": 7, "spec": {"seed": 7}})
    functions = tuple(UserFunction(*name.rsplit(":", 1)) for name in user_code)
    choices = fields.pop("choices", {})
    return Plan("fake", "t.jinja", choices, config, functions, **fields)
