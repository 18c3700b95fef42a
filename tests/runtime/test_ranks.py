"""A sharded run is refused where there is nothing to spread the model over."""

from __future__ import annotations

import pytest

from carl_runtime_min.errors import UsageError
from carl_runtime_min.ranks import check_ranks


def test_sharding_needs_several_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with pytest.raises(UsageError, match="two GPUs") as refused:
        check_ranks()
    assert "sharding: none" in refused.value.remedy
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_ranks()
