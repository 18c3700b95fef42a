"""Settings that hold for every test."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import settings

from tests import tiny

os.environ.setdefault(
    "OMP_NUM_THREADS", "1"
)  # tiny tensors: threads only get in the way

_scratch = tempfile.mkdtemp(prefix="carl-tests-")  # what libraries would leave at home
atexit.register(shutil.rmtree, _scratch, ignore_errors=True)
os.environ["HF_DATASETS_CACHE"] = f"{_scratch}/datasets"
os.environ["TRACKIO_DIR"] = f"{_scratch}/trackio"

# How long an example takes says more about the machine than about the code.
settings.register_profile("carl", deadline=None)
settings.load_profile("carl")


@pytest.fixture(scope="session")
def tiny_model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with its tokenizer, as a local directory."""
    return tiny.save(tmp_path_factory.mktemp("model") / "tiny")
