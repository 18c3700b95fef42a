"""What was measured, kept by what it depends on."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

from tools.matrix.instance import Case, settings
from tools.matrix.shrink import ABSENT

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "build" / "matrix"
LIBRARIES = ("torch", "transformers", "trl", "peft", "accelerate", "datasets")
BUNDLER = ("carl_runtime_min", "carl_bundle", "templates")


@dataclass(frozen=True)
class Outcome:
    """How one run ended: a word of `isolated`, the reason, seconds of wall time."""

    word: str
    reason: str = ""
    seconds: float = 0.0


def versions() -> dict[str, str]:
    return {name: version(name).partition("+")[0] for name in LIBRARIES}


def digest(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()[:16]


@cache
def files() -> dict[str, str]:
    """Digests of the files and versions that each side depends on."""
    here, kinds = Path(__file__).parent, (".py", ".jinja", ".json")
    tool = [(here / name).read_text() for name in ("instance.py", "sides.py")]
    paths = sorted(path for name in BUNDLER for path in (ROOT / name).rglob("*"))
    bundler = [path.read_text() for path in paths if path.suffix in kinds]
    plain = digest(versions(), *tool)
    return {"instance": plain, "plain": plain, "ours": digest(plain, *bundler)}


def keys(case: Case) -> dict[str, str]:
    """What the outcomes of a case depend on, by side: files, and its small model."""
    try:
        shrunken: object = [settings(case, absent) for absent in ({}, ABSENT)]
    except Exception as error:  # a class that makes no configuration from its defaults
        shrunken = str(error)
    return {side: digest(value, shrunken) for side, value in files().items()}


def side(run: str) -> str:
    """Which side a run such as `ours/sft` is of."""
    return run.partition("/")[0]


def load(
    folder: Path, name: str, current: dict[str, str], stale: bool = False
) -> dict[str, Outcome]:
    """The outcomes of a case that still hold, by run; `stale`: all that there are."""
    path = folder / f"{name}.json"
    kept = json.loads(path.read_text()) if path.is_file() else {"keys": {}, "runs": {}}
    return {
        run: Outcome(**value)
        for run, value in kept["runs"].items()
        if stale or kept["keys"].get(side(run)) == current[side(run)]
    }


def store(
    folder: Path, name: str, current: dict[str, str], runs: dict[str, Outcome]
) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    draft, path = folder / f"{name}.draft", folder / f"{name}.json"
    values = {run: asdict(outcome) for run, outcome in runs.items()}
    draft.write_text(json.dumps({"keys": current, "runs": values}, indent=1))
    draft.replace(path)
