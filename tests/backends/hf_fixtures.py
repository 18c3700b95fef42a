"""A server that stands for Hugging Face, with nothing on it yet."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator

import pytest

from backends.fake_hf import FakeHf, serve
from carl_bundle.backends.hf import log

# Read by the Rust client when it first does something.
os.environ["HF_XET_XORB_COMPRESSION_POLICY"] = "none"
os.environ["HF_XET_CLIENT_RETRY_BASE_DELAY"] = "10ms"
os.environ["HF_XET_CACHE"] = tempfile.mkdtemp(prefix="carl-xet-")


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """What was slept; no sleep is longer than a moment."""
    real, found = time.sleep, []

    def sleep(seconds: float) -> None:
        found.append(seconds)
        real(min(seconds, 0.01))

    monkeypatch.setattr(time, "sleep", sleep)
    return found


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, slept: list[float]) -> Iterator[FakeHf]:
    from huggingface_hub import constants

    with serve(FakeHf()) as fake:
        monkeypatch.setenv("HF_ENDPOINT", fake.endpoint)
        monkeypatch.setenv("HF_TOKEN", "hf_of_the_tests")
        monkeypatch.setattr(constants, "ENDPOINT", fake.endpoint)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(log, "QUIET", 0.2)
        yield fake
        assert fake.broken == []
