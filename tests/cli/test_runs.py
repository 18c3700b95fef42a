"""`carl verify` and `carl replay` on run directories that are not as one expects."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from carl_runtime_min.run import chain_link, sha256
from cli.conftest import Carl


@pytest.fixture
def stopped(carl: Carl) -> Path:
    """The run of a pipeline that was stopped in its second phase."""
    weights = Path("run/checkpoints/sft/model/model.safetensors")
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    assert carl("bundle", "-o", "run/train.py").code == 0
    record("run.json", {"script_sha256": sha256(Path("run/train.py"))})
    record("summary.json", {"weights_sha256": sha256(weights)})
    return Path("run")


def record(name: str, facts: Any) -> None:
    (Path("run") / name).write_text(json.dumps(facts))


def test_a_run_between_two_phases_is_as_it_was_written(
    carl: Carl, stopped: Path
) -> None:
    found = carl("verify", stopped)
    assert (found.code, found.out) == (0, "PRISTINE run\n")
    (stopped / "checkpoints/sft/model/model.safetensors").write_bytes(b"others")
    assert "model/ does not hold the weights" in carl("verify", stopped).out
    (stopped / "model").mkdir()
    (stopped / "model/model.safetensors").write_bytes(b"weights")
    assert carl("verify", stopped).code == 0


@pytest.mark.parametrize("name", ["run.json", "summary.json"])
@pytest.mark.parametrize("text", ["{", "[1]", "\xff"])
def test_a_record_that_cannot_be_read_is_named(
    carl: Carl, stopped: Path, name: str, text: str
) -> None:
    (stopped / name).write_text(text, encoding="latin-1")
    found = carl("verify", stopped)
    assert found.code == 2
    assert f"run/{name} is no record" in found.err


def test_data_that_is_not_here_is_said_to_be_unchecked(
    carl: Carl, stopped: Path
) -> None:
    facts = json.loads((stopped / "run.json").read_text())
    record("run.json", {**facts, "data_sha256": {"rows.jsonl": "d1"}})
    found = carl("verify", stopped)
    assert (found.code, found.out) == (0, "PRISTINE run\n")
    assert "rows.jsonl is not here, and was not checked" in found.err
    Path("rows.jsonl").write_text("{}\n")
    assert carl("verify", stopped).code == 1


def test_records_that_were_cut_short_are_found(carl: Carl, stopped: Path) -> None:
    steps, place = stopped / "steps.jsonl", stopped / "checkpoints/sft/checkpoint-2"
    place.mkdir()
    (place / "trainer_state.json").write_text('{\n  "global_step": 2\n}\n')
    before, lines = sha256(stopped / "train.py"), []
    for step in (1, 2):
        line = {"phase": "sft", "step": step}
        before = chain_link(before, line)
        lines.append(json.dumps({**line, "chain": before}) + "\n")
    steps.write_text("".join(lines))
    record("phases.json", {"sft": 0})
    assert "records.json is missing" in carl("verify", stopped).out
    record("records.json", {"steps": before})
    assert carl("verify", stopped).code == 0
    for text in (lines[0], ""):
        steps.write_text(text)
        found = carl("verify", stopped)
        assert found.code == 1
        assert "steps.jsonl lacks step 2 of sft" in found.out
        assert "steps.jsonl lacks lines" in found.out
    added = {"phase": "sft", "step": 3}
    line = json.dumps({**added, "chain": chain_link(before, added)})
    steps.write_text("".join(lines) + line + "\n")
    assert "goes on after the end of its phase" in carl("verify", stopped).out
    steps.unlink()
    assert "steps.jsonl lacks lines" in carl("verify", stopped).out


def test_less_than_no_steps_cannot_be_drawn(carl: Carl, stopped: Path) -> None:
    (stopped / "steps.jsonl").write_text('{"phase": "sft", "step": 1}\n')
    found = carl("replay", stopped, "--random", -3)
    assert found.code == 2
    assert "--random" in found.err


@pytest.mark.parametrize("key", ["spec_sha256", "data_revision"])
def test_what_run_json_says_of_spec_and_data_is_held_against_the_script(
    carl: Carl, stopped: Path, key: str
) -> None:
    facts = json.loads((stopped / "run.json").read_text())
    record("run.json", {**facts, key: "other"})
    found = carl("verify", stopped)
    assert found.code == 1
    assert f"run.json has another {key} than train.py" in found.out
