"""One rendered script of the embedded default for all tests of this folder."""

from __future__ import annotations

import pytest

from carl_bundle import TrainSpec, bundle


@pytest.fixture(scope="session")
def default_script() -> str:
    return bundle(TrainSpec())
