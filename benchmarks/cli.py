"""Cold start of the command, as ratios within one run.

python -m benchmarks.cli

Fresh processes, interleaved; processor time (user and system), which other work on the
machine disturbs less than wall time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.measure import PAIRS, Row, ratio, report, spent

HEAVY = ("torch", "transformers", "trl", "peft", "datasets", "black")
SPEC = """\
name: bench
method: grpo
model: {model}
data: rows.jsonl
rewards:
  - name: exact_answer
grpo:
  max_steps: 10
"""
CONFIG = {
    "architectures": ["Qwen3ForCausalLM"],
    "model_type": "qwen3",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 512,
    "max_position_embeddings": 1024,
}
LOAD = "from carl_bundle.spec.load import load; load('carl.yaml')"


def programs() -> dict[str, list[str]]:
    """The command lines to time, by name."""
    python = [sys.executable, "-c"]
    carl = (
        "import sys; from carl_bundle.cli.app import main; "
        "sys.argv[1:] = {}; sys.exit(main())"
    )
    return {
        "carl bundle SPEC.yaml": [*python, carl.format(["bundle", "carl.yaml"])],
        "build the same TrainSpec": [*python, f"import typer, jinja2, yaml; {LOAD}"],
        "import typer, pydantic, jinja2": [*python, "import typer, pydantic, jinja2"],
        "carl --help": [*python, carl.format(["--help"])],
        "import typer, rich": [*python, "import typer, rich"],
        "control": [*python, "import typer, rich"],
    }


GOALS = (
    ("carl bundle SPEC.yaml", "build the same TrainSpec", 1.5),
    ("build the same TrainSpec", "import typer, pydantic, jinja2", 2.5),
    ("carl --help", "import typer, rich", 1.5),
)


def write_project(folder: Path) -> None:
    """A spec with a local model: its small files, no weights."""
    model = folder / "model"
    model.mkdir()
    (model / "config.json").write_text(json.dumps(CONFIG))
    template = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    settings = {"chat_template": template, "eos_token": "</s>"}
    (model / "tokenizer_config.json").write_text(json.dumps(settings))
    rows = '{"prompt": "1+1", "answer": "2"}\n'
    (folder / "rows.jsonl").write_text(rows)
    (folder / "carl.yaml").write_text(SPEC.format(model=model))


def environment(folder: Path) -> dict[str, str]:
    """This one, with bytecode kept in a folder: an installed package has it."""
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "PYTHONPYCACHEPREFIX": str(folder / "bytecode")}


def measure(folder: Path) -> dict[str, list[float]]:
    """Seconds of each program; every round runs each once."""
    found: dict[str, list[float]] = {name: [] for name in programs()}
    for _ in range(PAIRS + 1):
        for name, command in programs().items():
            found[name].append(spent(command, folder, environment(folder)))
    # The first round fills the caches of the file system and of bytecode.
    return {name: times[1:] for name, times in found.items()}


def heavy_imports(folder: Path, arguments: list[str]) -> list[str]:
    """The heavy libraries that a command imports."""
    program = (
        "import sys; from carl_bundle.cli.app import main; "
        f"main({arguments!r}); "
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=True)
    return [name for name in HEAVY if repr(name).encode() in done.stderr]


def rows() -> list[Row]:
    found, heavy = [], 0
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_project(folder)
        for arguments in (["--help"], ["bundle", "carl.yaml"]):
            imported = heavy_imports(folder, arguments)
            heavy += len(imported)
            print(f"carl {' '.join(arguments)} imports {imported or 'nothing heavy'}")
        seconds = measure(folder)
    control = ratio("", seconds["control"], seconds["import typer, rich"]).measured
    for program, baseline, limit in GOALS:
        row = ratio(
            f"{program} / {baseline}", seconds[program], seconds[baseline], limit
        )
        found.append(replace(row, control=control))
    name = "heavy libraries that `carl --help` and `carl bundle` import"
    return [*found, Row(name, heavy, 0, form="d")]


if __name__ == "__main__":
    sys.exit(report(rows()))
