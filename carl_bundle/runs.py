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
from carl_bundle.spec.phases import KINDS
from carl_runtime_min.run import (
    chain_link,
    checkpoints,
    data_of,
    read_json,
    sha256,
    spec_sha256,
    weights_sha256,
)

PHASES = (*KINDS, "eval", "push")
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
        return cls(folder, _facts(folder / "run.json"))

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
        records = self.records("steps")
        return [(str(one.get("phase")), one.get("step", 0)) for one in records]

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
        command = [python or sys.executable, str(self.script_of(steps))]
        command += ["--run-dir", str(self.path), "--replay", steps]
        return subprocess.run(command, env=kept, check=False).returncode

    def script_of(self, steps: str) -> Path:
        """The script that ran the last of some steps, `PHASE:A:B`."""
        phase, _, last = steps.split(":")
        for one in self.records("steps"):
            if (one.get("phase"), str(one.get("step"))) == (phase, last):
                earlier = self.path / f"train-{str(one.get('script'))[:12]}.py"
                if earlier.is_file():
                    return earlier
        return self.path / "train.py"

    def data(self) -> dict[str, str]:
        """The files that were trained on, as they were named, with their digests."""
        return dict(self.facts.get("data_sha256") or {})

    def absent(self) -> list[str]:
        """Those of the files that are not here, as seen from this directory."""
        return [name for name in self.data() if not Path(name).is_file()]

    def faults(self) -> list[str]:
        """What of the run does not hold together; nothing if all does."""
        changes = self.facts.get("changes", ())
        scripts = [str(one.get("script_sha256")) for one in (*changes, self.facts)]
        found = self._script_faults(scripts[:-1])
        for name, digest in self.data().items():
            if Path(name).is_file() and sha256(Path(name)) != digest:
                found.append(f"{name} is not the data that was trained on")
        found += self._broken_chains(scripts)
        found += self._cut_records()
        return found + self._weight_faults()

    def _script_faults(self, earlier: list[str]) -> list[str]:
        """What is wrong with the script, those before it, and what run.json says."""
        from carl_bundle.bundler.provenance import ForeignError, Script
        from carl_bundle.bundler.verify import verify

        path, found = self.path / "train.py", []
        if sha256(path) != self.facts.get("script_sha256"):
            found.append("train.py is not the script that ran (script_sha256)")
        for digest in earlier:
            before = self.path / f"train-{digest[:12]}.py"
            if not before.is_file() or sha256(before) != digest:
                found.append(f"{before.name}, the script before a change, is not here")
        try:
            script = Script.read(str(path))
            checked = verify(script)
        except ForeignError as error:
            return [*found, f"train.py is FOREIGN: {error}"]
        if checked.status != "PRISTINE":
            names = ", ".join(one.section for one in checked.findings)
            found.append(f"train.py is {checked.status}: {names}")
        config = script.config
        phases = [name for name in config if name in PHASES]
        said = {
            "spec_sha256": spec_sha256(config),
            "data_revision": [one["revision"] for one in data_of(config, phases)],
        }
        for key, value in said.items():
            if self.facts.get(key, value) != value:
                found.append(f"run.json has another {key} than train.py")
        return found

    def _broken_chains(self, scripts: list[str]) -> list[str]:
        """Records that do not follow the line before them, or name no known script."""
        found = []
        for path in sorted(self.path.glob("*.jsonl")):
            before = scripts[0]
            for number, record in enumerate(self.records(path.stem), 1):
                chain = record.pop("chain", None)
                before = chain_link(before, record)
                if chain != before:
                    found.append(f"{path.name}:{number} breaks the chain of records")
                    break
                if record.get("script", scripts[0]) not in scripts:
                    found.append(f"{path.name}:{number} is of a script not named")
        return found

    def _weight_faults(self) -> list[str]:
        """Checkpoints of steps without a record, and a result that is another one."""
        steps, found = self.steps(), []
        for folder in sorted(self.path.glob("checkpoints/*")):
            saved = [state["global_step"] for state in checkpoints(folder).values()]
            if saved and (folder.name, max(saved)) not in steps:
                step = f"step {max(saved)} of {folder.name}"
                found.append(f"steps.jsonl lacks {step}, which has a checkpoint")
        told = _facts(self.path / "summary.json").get("weights_sha256")
        models = [self.path / "model"]  # if the run has ended; else of its last phase
        if not models[0].is_dir():
            models = list(self.path.glob("checkpoints/*/model"))
        if told and told not in map(weights_sha256, models):
            found.append("model/ does not hold the weights that the run ended with")
        return found

    def _cut_records(self) -> list[str]:
        """Where lines are missing, or were added, at the end of records."""
        ends, done = _facts(self.path / "records.json"), self.path / "phases.json"
        found = []
        if not ends and _facts(done):
            found.append("records.json is missing, which says where records end")
        for name, end in ends.items():
            records = self.records(name)
            chains = [record.get("chain") for record in records]
            if end not in chains:
                found.append(f"{name}.jsonl lacks lines, or has others (records.json)")
            elif end != chains[-1] and records[-1].get("phase") in _facts(done):
                found.append(f"{name}.jsonl goes on after the end of its phase")
        return found


def _facts(path: Path) -> dict[str, Any]:
    """A JSON object that a script wrote, an empty one if there is no such file."""
    try:
        return dict(read_json(path))
    except (ValueError, TypeError) as error:
        remedy = "restore the file, or run the run again"
        raise UsageError(f"{path} is no record: {error}", remedy=remedy) from error
