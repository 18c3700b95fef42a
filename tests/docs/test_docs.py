"""What the documents show works, what they link to exists, and no field is left out."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from carl_bundle.spec.defaults import resolve
from carl_bundle.spec.load import load
from carl_bundle.spec.phases import KINDS, PhaseSettings
from carl_bundle.spec.train_spec import TrainSpec
from tests.fake_hub import FakeHub, serve
from tools.demo_real import SPEC

ROOT = Path(__file__).parent.parent.parent
DOCS = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")]
DOCS += sorted((ROOT / "docs").glob("*.md"))
BLOCK = re.compile(r"```(?P<kind>\w+) testable\n(?P<text>.*?)```", re.DOTALL)
LINK = re.compile(r"\]\((?P<target>[^)#\s]+)?(?:#(?P<anchor>[^)\s]+))?\)")
MODEL = "HuggingFaceTB/SmolLM2-135M-Instruct"
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 576,
    "intermediate_size": 1536,
    "num_hidden_layers": 30,
    "num_attention_heads": 9,
    "num_key_value_heads": 3,
    "max_position_embeddings": 8192,
    "vocab_size": 49152,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}
HUB_FILES: dict[str, Any] = {
    "config.json": CONFIG,
    "tokenizer_config.json": {"chat_template": "{{ messages }}", "eos_token": "</s>"},
    "generation_config.json": {"eos_token_id": 2},
}
WITHOUT_NETWORK = {"http_proxy": "", "https_proxy": "", "no_proxy": "127.0.0.1"}


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("document", DOCS, ids=shown)
def test_what_a_document_shows_works(document: Path, tmp_path: Path) -> None:
    """A block is written to the file that its first line names; bash is run there."""
    blocks = list(BLOCK.finditer(document.read_text(encoding="utf-8")))
    if not blocks:
        pytest.skip("shows nothing to run")
    (tmp_path / "train.jsonl").write_text('{"prompt": "1 + 1 =", "answer": "2"}\n')
    files = {name: json.dumps(value).encode() for name, value in HUB_FILES.items()}
    models = dict.fromkeys((MODEL, "Qwen/Qwen3-0.6B"), files)
    with serve(FakeHub(models=models)) as hub:
        environment = {
            **os.environ,
            **WITHOUT_NETWORK,
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "HF_ENDPOINT": hub.endpoint,
            "HF_HOME": str(tmp_path / "hub"),
        }
        for block in blocks:
            if block["kind"] == "bash":
                command = ["bash", "-euo", "pipefail", "-c", block["text"]]
                done = subprocess.run(
                    command, cwd=tmp_path, env=environment, capture_output=True
                )
                assert done.returncode == 0, done.stderr.decode()
            else:
                name = block["text"].partition("\n")[0].removeprefix("# ")
                (tmp_path / name).write_text(block["text"], encoding="utf-8")
                if block["kind"] == "yaml":
                    load(tmp_path / name)


def test_the_demo_on_a_real_model_uses_the_spec_that_is_shown() -> None:
    text = (ROOT / "docs" / "real-model.md").read_text(encoding="utf-8")
    assert f"# carl.yaml\n{SPEC}```" in text


def anchors(document: Path) -> set[str]:
    """Anchors of the headings, as the hosts of repositories make them."""
    lines = document.read_text(encoding="utf-8").splitlines()
    titles = [line.lstrip("# ").lower() for line in lines if line.startswith("#")]
    return {re.sub(r"[^\w\- ]", "", title).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCS, ids=shown)
def test_links_lead_somewhere(document: Path) -> None:
    for link in LINK.finditer(document.read_text(encoding="utf-8")):
        if link["target"] and link["target"].startswith("https://"):
            continue
        target = document.parent / (link["target"] or document.name)
        assert target.exists(), link[0]
        assert not link["anchor"] or link["anchor"] in anchors(target), link[0]


@pytest.mark.parametrize("document", DOCS, ids=shown)
def test_named_make_targets_and_modules_exist(document: Path) -> None:
    text = document.read_text(encoding="utf-8")
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"(?:`|^)make ([a-z-]+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for module in re.findall(r"python -m ((?:tools|benchmarks)\.\w+)", text):
        assert (ROOT / f"{module.replace('.', '/')}.py").is_file(), module


def cell(value: Any) -> str:
    """A value as the tables of carl-yaml.md show it; – where there is none."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(str, value))}]`"
    return f"`{value}`"


def blocks_in(annotation: Any) -> list[type[BaseModel]]:
    """The blocks that a field's type holds, at any depth."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [block for one in get_args(annotation) for block in blocks_in(one)]


def rows(block: type[BaseModel], prefix: str) -> list[str]:
    """How carl-yaml.md must begin each row about a block's fields, phases left out."""
    found = []
    for name, info in block.model_fields.items():
        inner = blocks_in(info.annotation)
        nested = f"{prefix}{name}."
        if inner and not (name in ("data", "mix") and prefix):
            if not issubclass(inner[0], PhaseSettings):
                found += rows(inner[0], nested)
            if info.default is not None and not isinstance(info.default, tuple):
                continue  # a block that is always there: its fields say it all
        found.append(f"| `{prefix}{name}` | {default_of(info)} |")
    return found


def default_of(info: Any) -> str:
    return cell(info.default_factory() if info.default_factory else info.default)


def phase_rows(name: str) -> list[str]:
    """Likewise for a phase: built-in, with LoRA, all weights."""
    other: dict[str, Any] = {"method": name, "model": "a/b", "data": "x.jsonl"}
    if name in ("grpo", "rloo"):
        other["rewards"] = [{"name": "exact_answer"}]
    specs = [{"method": name}, other, {**other, "lora": False}]
    phases = [getattr(resolve(TrainSpec.model_validate(one)), name) for one in specs]
    found = [f"| `{name}.data` | – | – | – |"]
    for field in type(phases[0]).model_fields:
        cells = " | ".join(cell(getattr(phase, field)) for phase in phases)
        if field != "data":
            found.append(f"| `{name}.{field}` | {cells} |")
    return found


def every_row() -> list[str]:
    phases = [row for name in KINDS for row in phase_rows(name)]
    return [*rows(TrainSpec, ""), *phases]


def test_every_field_stands_in_the_reference_with_its_default() -> None:
    text = (ROOT / "docs" / "carl-yaml.md").read_text(encoding="utf-8")
    expected = every_row()
    lines = text.splitlines()
    missing = [row for row in expected if not any(li.startswith(row) for li in lines)]
    assert not missing, "docs/carl-yaml.md needs these rows:\n" + "\n".join(missing)


def test_the_reference_names_no_field_that_is_gone() -> None:
    text = (ROOT / "docs" / "carl-yaml.md").read_text(encoding="utf-8")
    known = {row.split("`")[1] for row in every_row()}
    named = re.findall(r"^\| `([a-z0-9_.]+)` \|", text, re.MULTILINE)
    assert sorted(set(named) - known) == []
    assert len(named) == len(set(named))
