"""A run directory as an auditor reads it: what it says, and whether it holds."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from carl_bundle.errors import UsageError
from carl_runtime_min.run import chain_link, read_json, sha256, weights_sha256

KEPT = ("PATH", "HOME", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "OMP_NUM_THREADS")
FAMILIES = ("CUDA_", "NVIDIA_", "HF_", "TORCH")
"""What of the environment a replay keeps: where things are, not what they do."""


@dataclass(frozen=True)
class RunRecord:
    """A finished or stopped run.

    Attributes:
        path: The run directory.
        facts: run.json.
    """

    path: Path
    facts: dict[str, Any]

    @classmethod
    def read(cls, path: str | Path) -> RunRecord:
        """Raises UsageError if it is no run directory."""
        folder = Path(path)
        if not (folder / "run.json").is_file() or not (folder / "train.py").is_file():
            remedy = "name the directory that a script wrote, such as runs/carl"
            raise UsageError(f"{path} is no run directory", remedy=remedy)
        return cls(folder, read_json(folder / "run.json"))

    def records(self, name: str) -> list[dict[str, Any]]:
        """The lines of `<name>.jsonl`.

        Raises:
            UsageError: One is no JSON object.
        """
        path = self.path / f"{name}.jsonl"
        lines = path.read_text().splitlines() if path.is_file() else []
        found = []
        for number, line in enumerate(lines, 1):
            try:
                record = json.loads(line)
            except ValueError:
                record = None
            if not isinstance(record, dict):
                remedy = "restore the file, or run the run again"
                raise UsageError(f"{path}:{number} is no record", remedy=remedy)
            found.append(record)
        return found

    def steps(self) -> list[tuple[str, int]]:
        """Phase and number of every recorded step."""
        return [(one["phase"], one["step"]) for one in self.records("steps")]

    def choose(self, text: str, count: int) -> list[str]:
        """The steps to replay, as `PHASE:A:B`: those named, or `count` by chance."""
        steps = self.steps()
        if not steps or bool(text) == bool(count):
            remedy = "say --steps A:B or --random N, of a run that has steps.jsonl"
            raise UsageError("it is not clear which steps to replay", remedy=remedy)
        if count:
            drawn = random.SystemRandom().sample(steps, min(count, len(steps)))
            return [f"{phase}:{step}:{step}" for phase, step in drawn]
        parts = text.split(":")
        return [text if len(parts) == 3 else f"{steps[-1][0]}:{text}"]

    def replay(self, steps: str, python: str = "") -> int:
        """Run `PHASE:A:B` again by the run's own script; return its exit code."""
        kept = {
            name: value
            for name, value in os.environ.items()
            if name in KEPT or name.startswith(FAMILIES)
        }
        command = [python or sys.executable, str(self.path / "train.py")]
        command += ["--run-dir", str(self.path), "--replay", steps]
        return subprocess.run(command, env=kept, check=False).returncode

    def faults(self) -> list[str]:
        """What of the run does not hold together; nothing if all does."""
        from carl_bundle.bundler.provenance import ForeignError, Script
        from carl_bundle.bundler.verify import verify

        script, facts = self.path / "train.py", self.facts
        found = []
        if sha256(script) != facts.get("script_sha256"):
            found.append("train.py is not the script that ran (script_sha256)")
        try:
            checked = verify(Script.read(str(script)))
            if checked.status != "PRISTINE":
                names = ", ".join(one.section for one in checked.findings)
                found.append(f"train.py is {checked.status}: {names}")
        except ForeignError as error:
            found.append(f"train.py is FOREIGN: {error}")
        for name, digest in facts.get("data_sha256", {}).items():
            if Path(name).is_file() and sha256(Path(name)) != digest:
                found.append(f"{name} is not the data that was trained on")
        for path in sorted(self.path.glob("*.jsonl")):
            before = str(facts.get("script_sha256"))
            for number, record in enumerate(self.records(path.stem), 1):
                chain = record.pop("chain", None)
                before = chain_link(before, record)
                if chain != before:
                    found.append(f"{path.name}:{number} breaks the chain of records")
                    break
        told = read_json(self.path / "summary.json").get("weights_sha256")
        if told and weights_sha256(self.path / "model") != told:
            found.append("model/ does not hold the weights that the run ended with")
        return found
