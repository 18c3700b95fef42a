"""What a run of the benchmarks leaves on disk."""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.measure import Row
from benchmarks.results import hardware, keep


def test_rows_are_kept_under_the_name_of_the_hardware(tmp_path: Path) -> None:
    cpu = {"processor": "Some CPU @ 3.0", "cores": 2, "gpu": None}
    path = keep([Row("a", 1.0, 2.0), Row("b", None)], cpu, tmp_path / "results")
    assert path.name == "some-cpu-3-0-2-cores.json"
    told = json.loads(path.read_text())
    assert told["hardware"] == cpu
    assert [row["status"] for row in told["rows"]] == ["met", "not measured"]
    assert keep([], {**cpu, "gpu": "GPU X"}, tmp_path).name == "gpu-x.json"


def test_the_hardware_is_named() -> None:
    assert hardware()["processor"]
    assert hardware()["torch"]
