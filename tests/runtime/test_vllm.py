"""vLLM gets the pinned files, or the run ends before anything expensive."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import torch

from carl_runtime_min import vllm
from carl_runtime_min.errors import UsageError
from carl_runtime_min.vllm import vllm_source

COMMIT = "0123456789" * 4


def source(name: str) -> dict[str, Any]:
    return {"id": name, "options": {"revision": COMMIT, "dtype": "auto"}}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Any:
    def pretend(cuda: bool, installed: bool) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
        monkeypatch.setattr(vllm, "find_spec", lambda name: installed or None)

    return pretend


@pytest.mark.parametrize(
    ("cuda", "installed", "lacks"),
    [(False, True, "a CUDA GPU"), (True, False, "the package vllm")],
)
def test_a_machine_that_cannot_is_told_so(
    machine: Any, cuda: bool, installed: bool, lacks: str
) -> None:
    machine(cuda, installed)
    with pytest.raises(UsageError, match=lacks) as caught:
        vllm_source(source("org/model"))
    assert "without vllm" in caught.value.remedy


def test_a_hub_model_is_a_folder_of_the_pinned_commit(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(name: str, revision: str) -> str:
        return f"/cache/{name}/{revision}"

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    machine(True, True)
    found = vllm_source(source("org/model"))
    assert found["id"] == f"/cache/org/model/{COMMIT}"
    assert found["options"] == {"revision": None, "dtype": "auto"}


def test_a_local_model_stays_where_it_is(machine: Any, tmp_path: Path) -> None:
    machine(True, True)
    assert vllm_source(source(str(tmp_path))) == source(str(tmp_path))
