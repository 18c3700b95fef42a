"""The run directory: what a run leaves behind, written so that a crash cannot lie."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import Any

from carl_runtime_min.strict_json import json_value

STATE = "trainer_state.json"  # the last file of a checkpoint: beside it, all is whole


def sync(paths: Iterable[Path]) -> None:
    """Wait until files and folders are on the disk, as a power cut would find them."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Replace `path` in one step: readers see the old file or the new, never half."""
    draft = path.with_name(f".{path.name}.draft")
    try:
        draft.write_text(json.dumps(json_value(value), indent=2))
        sync([draft])
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in `path`, an empty one if there is no such file."""
    return json.loads(path.read_bytes()) if path.is_file() else {}


def sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def data_of(config: dict[str, Any], phases: Iterable[str]) -> list[dict[str, Any]]:
    """The settings of all the data that phases use: `id`, `revision` and more."""
    blocks = [config[phase] for phase in phases]
    blocks += [block["validation"] for block in blocks if "validation" in block]
    blocks += [source for block in blocks for source in block.get("mix", ())]
    return [block["data"] for block in blocks if "data" in block]


def spec_sha256(config: dict[str, Any]) -> str:
    spec = json.dumps(config["spec"], sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(spec.encode()).hexdigest()


def folder_sha256(folder: Path) -> str:
    """Digest of the names and the digests of the files in `folder`."""
    files = sorted(path for path in folder.iterdir() if path.is_file())
    named = [[path.name, sha256(path)] for path in files]
    return hashlib.sha256(json.dumps(named).encode()).hexdigest()


def weights_sha256(folder: Path) -> str:
    """Digest of the weight file in `folder`; of several, of their digests in order."""
    digests = [sha256(path) for path in sorted(folder.glob("*.safetensors"))]
    joined = hashlib.sha256("".join(digests).encode()).hexdigest()
    return digests[0] if len(digests) == 1 else joined


def checkpoints(folder: Path) -> dict[Path, dict[str, Any]]:
    """The checkpoints in `folder` that are whole, each with its trainer's state."""
    texts = {path.parent: path.read_text() for path in folder.glob(f"*/{STATE}")}
    return {path: json.loads(t) for path, t in texts.items() if t.endswith("\n}\n")}


def chain_link(before: str, record: dict[str, Any]) -> str:
    """The next link of a chain: a digest of the one before it and of a record."""
    text = json.dumps(record, sort_keys=True)
    return hashlib.sha256(f"{before}{text}".encode()).hexdigest()


class Run:
    """The directory of one run, as one phase sees it. Only the first rank writes."""

    until: int | None = None  # a replay ends after this step

    def __init__(self, path: Path, phase: str, resume: str) -> None:
        self.path, self.phase, self.resume = path, phase, resume
        self.script = read_json(path / "run.json").get("script_sha256")
        self.chains: dict[str, str] = {}
        self.checkpoints = path / "checkpoints" / phase
        self.first = int(os.environ.get("RANK", 0)) == 0

    def say(self, *words: object) -> None:
        if self.first:
            print(*words, flush=True)

    def append(self, name: str, record: dict[str, Any]) -> None:
        """Add a line to `<name>.jsonl`, bound to all lines before it."""
        if self.first:
            line = json_value({"phase": self.phase, **record})
            self.chains.setdefault(name, self.last(name))
            line["chain"] = self.chains[name] = chain_link(self.chains[name], line)
            with (self.path / f"{name}.jsonl").open("a") as file:
                file.write(json.dumps(line) + "\n")

    def last(self, name: str) -> str:
        """The end of a chain of lines, which begins with the first script's digest."""
        run = read_json(self.path / "run.json")
        script = run.get("changes", [run])[0].get("script_sha256")
        return str([{"chain": script}, *self.records(name)][-1]["chain"])

    def anchor(self) -> None:
        """Note the ends of all chains: lines up to there can't be cut off unseen."""
        names = sorted(path.stem for path in self.path.glob("*.jsonl"))
        ends = {name: self.chains.get(name) or self.last(name) for name in names}
        write_json(self.path / "records.json", ends)

    def records(self, name: str) -> list[dict[str, Any]]:
        """The lines of `<name>.jsonl`; one that a crash tore is left out."""
        path = self.path / f"{name}.jsonl"
        lines = path.read_bytes().split(b"\n")[:-1] if path.is_file() else []
        return [json.loads(line) for line in lines]

    def summarise(self, file: str = "summary", **facts: Any) -> None:
        """Add `facts` to summary.json, or to another file."""
        if self.first:
            path = self.path / f"{file}.json"
            write_json(path, read_json(path) | facts)

    def start(self) -> tuple[Path | None, dict[str, Any]]:
        """The checkpoint to continue from and its state; later ones are forgotten."""
        states = checkpoints(self.checkpoints)
        last = max(states, key=lambda path: states[path]["global_step"], default=None)
        chosen = next((p for p in states if p == Path(self.resume).resolve()), last)
        state = states[chosen] if chosen else {"global_step": 0}
        if self.first:
            self.rewind(state["global_step"], states)
        return chosen, state

    def clean(self, keep: Collection[Path]) -> None:
        """Remove every checkpoint of this phase but those in `keep`."""
        for path in self.checkpoints.glob("checkpoint-*"):
            if path not in keep:
                (path / STATE).unlink(missing_ok=True)  # from now on it is not whole
                shutil.rmtree(path)

    def rotate(self, limit: int | None, best: str | None) -> None:
        """Of checkpoints that are all whole, keep the last ones and the best one."""
        whole = list(self.checkpoints.glob("checkpoint-*"))
        whole.sort(key=lambda path: int(path.name.split("-")[1]))
        spare = [path for path in whole[:-1] if path != Path(best or "")]
        gone = spare[: max(0, len(whole) - (limit or len(whole)))]
        self.clean([path for path in whole if path not in gone])

    def rewind(self, step: int, states: dict[Path, dict[str, Any]]) -> None:
        """Remove what this phase did after `step`, and what is not whole."""
        self.clean([p for p, state in states.items() if state["global_step"] <= step])
        for path in self.path.glob("*.jsonl"):
            kept = [
                json.dumps(record) + "\n"
                for record in self.records(path.stem)
                if record["phase"] != self.phase or record["step"] <= step
            ]
            path.with_suffix(".draft").write_text("".join(kept))
            path.with_suffix(".draft").replace(path)
        self.anchor()
