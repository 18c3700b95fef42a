"""Putting a script together, on a runtime of one small module."""

from __future__ import annotations

from pathlib import Path

import black
import pytest

from bundler.fakes import MATHS, WIRING, bundler, plan
from carl_bundle.bundler.metadata import BLOCK
from carl_bundle.bundler.ruler import sections_of
from carl_bundle.errors import BundleError


def test_the_order_of_a_script(tmp_path: Path) -> None:
    script = bundler(tmp_path).render(plan())
    assert script.startswith("# SPDX-License-Identifier: MIT\n")
    parts = [
        "Permission is hereby granted",
        "# /// script",
        '"""Trains nothing."""',
        "from __future__ import annotations\n\nimport math\nimport sys\n",
        "# ---- configuration sha256:",
        "CONFIG = {\n",
        "# ---- rt/maths.py sha256:",
        "LIMIT = 3\n",
        "# Why it is halved.\ndef run(",
        "# ---- wiring sha256:",
        "def main() -> int:",
        'if __name__ == "__main__":',
    ]
    places = [script.index(part) for part in parts]
    assert places == sorted(places)
    assert "unused" not in script
    assert script.count("from __future__") == 1


def test_a_script_runs(tmp_path: Path) -> None:
    script = bundler(tmp_path).render(plan())
    space = {"__name__": "script"}
    exec(compile(script, "script", "exec"), space)
    assert space["main"]() == 3  # type: ignore[operator]


def test_black_leaves_a_script_alone(tmp_path: Path) -> None:
    script = bundler(tmp_path).render(plan())
    assert black.format_str(script, mode=black.Mode()) == script
    assert not any(line.endswith(" ") for line in script.split("\n"))


def test_every_section_matches_its_ruler(tmp_path: Path) -> None:
    sections = sections_of(bundler(tmp_path).render(plan()))
    names = ["header", "configuration", "rt/maths.py", "wiring"]
    assert [section.name for section in sections] == names
    assert all(section.is_intact for section in sections)


def test_library_mode_imports_what_a_script_contains(tmp_path: Path) -> None:
    made = bundler(tmp_path)
    script = made.render(plan(), library=True)
    assert "\nfrom rt.maths import run\n" in script
    assert "def run" not in script
    whole = sections_of(made.render(plan()))
    kept = sections_of(script)
    assert [s.text for s in whole[1::2]] == [s.text for s in kept[1:]]


def test_spec_text_cannot_leave_the_configuration(tmp_path: Path) -> None:
    hostile = '# /// script\n# dependencies = []\n# ///\n# ---- wiring sha256:\n"""'
    plain = bundler(tmp_path).render(plan())
    config = {"seed": 7, "spec": {"seed": 7}, "note": hostile}
    script = bundler(tmp_path).render(plan(config=config))
    assert len(BLOCK.findall(script)) == 1
    changed = [s.name for s in sections_of(script) if s not in sections_of(plain)]
    texts = {s.name: s.text for s in sections_of(plain)}
    changed = [s.name for s in sections_of(script) if s.text != texts[s.name]]
    assert changed == ["configuration"]


def test_templates_see_choices_and_nothing_else(tmp_path: Path) -> None:
    wiring = WIRING.replace("# x", "") + "{% if carl %}\n\n\nCARL = 1\n{% endif %}"
    made = bundler(tmp_path, wiring)
    assert "CARL = 1" in made.render(plan(choices={"carl": True}))
    assert "CARL = 1" not in made.render(plan(choices={"carl": False}))
    with pytest.raises(BundleError, match=r"t\.jinja: UndefinedError"):
        made.render(plan())


@pytest.mark.parametrize("choice", ["a b", "x\n", "Ünsafe", 1, None, ("a",)])
def test_a_choice_is_a_flag_or_a_plain_word(tmp_path: Path, choice: object) -> None:
    with pytest.raises(BundleError, match="the choice carl"):
        bundler(tmp_path).render(plan(choices={"carl": choice}))


@pytest.mark.parametrize(
    ("wiring", "message"),
    [
        (WIRING.replace("run(", "rum("), "uses rum"),
        (WIRING.replace("import sys", "import sys as LIMIT, sys"), "imports LIMIT"),
        (WIRING + "\n\ndef LIMIT(): ...\n", "two definitions of LIMIT"),
        (WIRING.replace('"""Run."""', "LIMIT = 2"), "local name LIMIT hides"),
        (WIRING.replace('"""Trains nothing."""', ""), "no docstring"),
        (WIRING + "\nimport json\n", "an import below other code"),
        (WIRING.replace('"""Run."""', "eval('1')"), r"eval\(\) is not allowed"),
        (WIRING.replace('"""Run."""', "ｅval('1')"), r"eval\(\) is not allowed"),
        (WIRING.replace('"""Run."""', "import pickle"), "import pickle"),
        (WIRING.replace('"""Run."""', "f(trust_remote_code=True)"), "uses f"),
        (WIRING.replace('"""Run."""', "sys.f(shell=True)"), "shell=True"),
        (WIRING.replace("return", "retrun"), "not valid Python"),
    ],
)
def test_a_template_at_fault_is_refused(
    tmp_path: Path, wiring: str, message: str
) -> None:
    with pytest.raises(BundleError, match=message):
        bundler(tmp_path, wiring).render(plan())


def test_remote_code_needs_the_spec_and_a_commit(tmp_path: Path) -> None:
    def render(**spec: object) -> str:
        config = {"seed": 1, "model": {"trust_remote_code": True}, "spec": spec}
        return bundler(tmp_path).render(plan(config=config))

    model: dict[str, object] = {"trust_remote_code": True, "revision": "main"}
    with pytest.raises(BundleError, match="the spec does not"):
        render()
    with pytest.raises(BundleError, match="commit SHA"):
        render(model=model)
    assert render(model={**model, "revision": "a" * 40})


def test_constants_stay_together_as_in_their_module(tmp_path: Path) -> None:
    maths = MATHS.replace("LIMIT = 3", "LOW = 1\nLIMIT = 3\n\nTOP = 4").replace(
        "seed / 2", "seed / 2 + LOW + TOP"
    )
    script = bundler(tmp_path, maths=maths).render(plan())
    assert "\nLOW = 1\nLIMIT = 3\n\nTOP = 4\n\n\n# Why" in script
    assert black.format_str(script, mode=black.Mode()) == script
