"""What vLLM needs of the model: files of this disk, and a GPU."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from carl_runtime_min.errors import UsageError


def vllm_source(source: dict[str, Any]) -> dict[str, Any]:
    """The model as a folder: TRL tells vLLM its name, and never the revision."""
    if not (torch.cuda.is_available() and find_spec("vllm")):
        lacks = "the package vllm" if torch.cuda.is_available() else "a CUDA GPU"
        remedy = "train where there is one, or render the script without vllm"
        raise UsageError(f"generating with vLLM needs {lacks}", remedy=remedy)
    if Path(source["id"]).is_dir():
        return source
    from huggingface_hub import snapshot_download

    folder = snapshot_download(source["id"], revision=source["options"]["revision"])
    return {**source, "id": folder, "options": {**source["options"], "revision": None}}
