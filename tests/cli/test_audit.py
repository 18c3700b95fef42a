"""`carl verify`, `carl diff` and `carl explain` as a user sees them."""

from __future__ import annotations

import json
from pathlib import Path

from carl_bundle import __version__
from cli.conftest import Carl


def write(carl: Carl, name: str, *arguments: object) -> Path:
    assert carl("bundle", "-o", name, *arguments).code == 0
    return Path(name)


def test_verify_has_an_exit_code_for_each_finding(carl: Carl) -> None:
    file = write(carl, "train.py")
    found = carl("verify", "train.py")
    assert (found.code, found.out.split("\n")[0]) == (0, "PRISTINE train.py")
    file.write_text(file.read_text().replace("def main(", "def  main("))
    found = carl("verify", "train.py")
    assert found.code == 1
    assert found.out.startswith("EDITED train.py\n  wiring (line ")
    file.write_text("print()\n")
    found = carl("verify", "train.py")
    assert (found.code, found.out) == (2, "FOREIGN train.py\n")
    assert "no [tool.carl] metadata" in found.err


def test_verify_of_a_missing_file_is_an_error(carl: Carl) -> None:
    found = carl("verify", "gone.py")
    assert (found.code, found.out) == (2, "")
    assert found.err.startswith("error: cannot read gone.py")


def test_another_version_is_named_with_its_command(carl: Carl) -> None:
    file = write(carl, "train.py")
    own = f'generator = "{__version__}"'
    file.write_text(file.read_text().replace(own, 'generator = "0.0.1"'))
    found = carl("verify", "train.py")
    assert found.code == 0
    assert "uvx carl-bundle@0.0.1 verify train.py" in found.err


def test_json_has_a_schema(carl: Carl) -> None:
    write(carl, "a.py")
    write(carl, "b.py", "--seed", 1)
    report = json.loads(carl("verify", "a.py", "--json").out)
    assert (report["schema"], report["status"]) == ("carl.verify/1", "PRISTINE")
    report = json.loads(carl("diff", "a.py", "b.py", "--json").out)
    assert report["schema"] == "carl.diff/1"
    assert {change["kind"] for change in report["changes"]} == {
        "header",
        "configuration",
    }
    report = json.loads(carl("explain", "a.py", "--json").out)
    assert report["schema"] == "carl.explain/1"
    assert report["sections"][0]["name"] == "header"
    report = json.loads(carl("explain", "a.py:1", "--json").out)
    assert report["schema"] == "carl.explain-line/1"


def test_diff_by_section(carl: Carl) -> None:
    write(carl, "a.py")
    write(carl, "b.py", "--seed", 1)
    assert carl("diff", "a.py", "a.py").code == 0
    found = carl("diff", "a.py", "b.py")
    assert found.code == 1
    assert "  CONFIG['seed']: 42 -> 1\n" in found.out


def test_diff_of_a_foreign_file_is_an_error(carl: Carl) -> None:
    write(carl, "a.py")
    Path("b.py").write_text("print()\n")
    found = carl("diff", "a.py", "b.py")
    assert (found.code, found.out) == (2, "")
    assert "b.py was not written by carl bundle" in found.err


def test_explain_a_line(carl: Carl) -> None:
    text = write(carl, "a.py").read_text()
    line = text[: text.index("def coherence_components(")].count("\n") + 1
    found = carl("explain", f"a.py:{line}")
    rows = dict(row.split(maxsplit=1) for row in found.out.splitlines())
    assert rows["section"] == "carl_runtime_min/rewards.py"
    assert rows["origin"].startswith("carl_runtime_min/rewards.py:")
    assert rows["within"] == "coherence_components"
    assert rows["reached"].startswith("grpo -> ")
    assert carl("explain", "a.py:0").code == 2


def test_explain_a_script(carl: Carl, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "import json\n\ndef mine(completions):\n    return [json.loads('0.0')]\n"
    )
    write(carl, "a.py", "--set", "rewards=[{function: 'mine.py:mine'}]")
    found = carl("explain", "a.py")
    assert found.code == 0
    assert "carl_runtime_min/rewards.py\n" in found.out
    assert "user code mine.py\n  imports: json\n  calls: json.loads\n" in found.out
