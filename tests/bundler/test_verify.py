"""PRISTINE, EDITED (which sections, against what) or FOREIGN."""

from __future__ import annotations

from pathlib import Path

import pytest

from carl_bundle import TrainSpec, __version__, bundle
from carl_bundle.bundler.provenance import ForeignError, Script
from carl_bundle.bundler.verify import RENDER, RULERS, verify
from carl_bundle.errors import UsageError


def edited(script: str) -> list[tuple[str, str]]:
    found = verify(Script.parse(script))
    assert found.status == "EDITED"
    return [(finding.section, finding.against) for finding in found.findings]


def test_a_fresh_script_is_pristine(default_script: str) -> None:
    found = verify(Script.parse(default_script))
    assert (found.status, found.against, found.findings) == ("PRISTINE", RENDER, ())


def test_a_script_of_another_spec_is_pristine_too() -> None:
    spec = TrainSpec.model_validate(
        {"method": "grpo", "seed": 3, "carl": {"enabled": False}}
    )
    assert verify(Script.parse(bundle(spec))).status == "PRISTINE"


def test_user_code_is_taken_from_the_script(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text("def mine(completions):\n    return [0.0]\n")
    spec = TrainSpec.model_validate({"rewards": [{"function": "mine.py:mine"}]})
    script = bundle(spec, user_root=tmp_path)
    assert verify(Script.parse(script)).status == "PRISTINE"
    assert edited(script.replace("[0.0]", "[1.0]")) == [("mine.py", RULERS)]


@pytest.mark.parametrize(
    ("old", "new", "section", "against"),
    [
        ('"seed": 42', '"seed": 43', "configuration", RULERS),
        (
            "def carl_reward(",
            "def carl_reward( ",
            "carl_runtime_min/rewards.py",
            RULERS,
        ),
        ("def main(", "def  main(", "wiring", RULERS),
        ('"torch==', '"torch>=', "header", RENDER),
        ("# SPDX", "#  SPDX", "header", RENDER),
    ],
)
def test_an_edit_is_found_in_its_section(
    default_script: str, old: str, new: str, section: str, against: str
) -> None:
    assert edited(default_script.replace(old, new, 1)) == [(section, against)]


def test_a_removed_section_is_missed(default_script: str) -> None:
    start = default_script.index("# ---- carl_runtime_min/rewards.py")
    end = default_script.index("# ---- ", start + 1)
    found = edited(default_script[:start] + default_script[end:])
    assert found == [("carl_runtime_min/rewards.py (missing)", RENDER)]


def test_a_forged_ruler_does_not_help(default_script: str) -> None:
    from carl_bundle.bundler.ruler import sections_of, under_ruler

    section = next(s for s in sections_of(default_script) if s.name == "wiring")
    old = under_ruler("wiring", section.text)
    new = under_ruler("wiring", section.text.replace("def main", "def  main"))
    found = verify(Script.parse(default_script.replace(old, new)))
    assert [finding.section for finding in found.findings] == ["wiring"]
    assert found.note.startswith("every ruler matches")


def test_another_version_is_checked_by_its_rulers(default_script: str) -> None:
    old = default_script.replace(f'generator = "{__version__}"', 'generator = "0.0.9"')
    found = verify(Script.parse(old, "train.py"))
    assert (found.status, found.against) == ("PRISTINE", RULERS)
    assert found.command == "uvx carl-bundle@0.0.9 verify train.py"
    changed = old.replace('"seed": 42', '"seed": 43', 1)
    assert verify(Script.parse(changed)).status == "EDITED"


def test_a_spec_that_is_invalid_here_is_an_edit(default_script: str) -> None:
    broken = default_script.replace('"spec": {}', '"spec": {"sed": 1}')
    found = verify(Script.parse(broken))
    assert found.status == "EDITED"
    assert "cannot be rendered here" in found.note


def test_broken_python_is_an_edit(default_script: str) -> None:
    found = verify(Script.parse(default_script.replace("def main(", "def main((")))
    assert [f.section for f in found.findings] == ["wiring"]
    assert "not valid Python" in found.note


def test_windows_line_ends_are_named(default_script: str) -> None:
    found = edited(default_script.replace("\n", "\r\n"))
    assert found == [("line ends (CRLF)", RENDER)]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "print()\n",
        "# /// script\n# dependencies = []\n# ///\nprint()\n",
        "# /// script\n# [tool.carl]\n# format = 99\n# ///\n",
        "# /// script\n# [\n# ///\n",
        "# /// script\n# [tool.carl]\n# format = 1\n# ///\nno sections\n",
    ],
)
def test_other_files_are_foreign(text: str) -> None:
    with pytest.raises(ForeignError):
        Script.parse(text)


def test_files_that_are_no_text(tmp_path: Path) -> None:
    (tmp_path / "x").write_bytes(b"\xff\xfe")
    with pytest.raises(ForeignError):
        Script.read(tmp_path / "x")
    with pytest.raises(UsageError, match="cannot read"):
        Script.read(tmp_path / "gone")
    with pytest.raises(UsageError, match="cannot read"):
        Script.read(tmp_path)
