"""Tier three: the script, loaded as a module, computes what the library computes."""

from __future__ import annotations

import json
from functools import cache
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import carl_runtime_min.cascade
import carl_runtime_min.gate
from tools.make_fields import FIELDS, fields, loaded, scored
from tools.make_golden import ROOT

COMMITTED = 1e-5


@cache
def script(case: str) -> ModuleType:
    return loaded(ROOT / "golden" / case / "train.py")


def bits(value: Any) -> bytes:
    """A tensor's bytes: NaN equals NaN here, and -0.0 is not 0.0."""
    return bytes(value.contiguous().view(-1).view(torch.uint8).numpy().tobytes())


def batch(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    b, t = (int(torch.randint(1, n, (), generator=draw)) for n in (6, 40))
    lengths = torch.randint(0, t + 1, (b, 1), generator=draw)
    logits = torch.randn(b, t, 19, generator=draw) * 4
    ids = torch.randint(0, 19, (b, t), generator=draw)
    return logits, ids, torch.arange(t) < lengths


@pytest.mark.parametrize("case", FIELDS)
@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), temperature=st.sampled_from([0.5, 1.0, 1.3]))
def test_field_and_rewards_are_bit_identical(
    case: str, seed: int, temperature: float
) -> None:
    ours = scored(None, *batch(seed), temperature)
    theirs = scored(script(case), *batch(seed), temperature)
    assert "phi" in theirs
    for name, value in theirs.items():
        assert bits(value) == bits(ours[name]), name


values = st.lists(st.floats(0, 1) | st.none(), min_size=1, max_size=80)


@settings(max_examples=80, deadline=None)
@given(metrics=values)
def test_the_gates_decide_alike(metrics: list[float | None]) -> None:
    library = carl_runtime_min.gate
    gates = library.PhaseTransitionGate(0.7), script("default").PhaseTransitionGate(0.7)
    for step, value in enumerate(metrics):
        fired = [gate.check(value, 1.0, step) for gate in gates]
        assert fired[0] == fired[1]
    assert vars(gates[0]) == vars(gates[1])


@pytest.mark.parametrize("case", ["default", "rloo"])
@settings(max_examples=80, deadline=None)
@given(metrics=values)
def test_the_cascades_decide_alike(case: str, metrics: list[float | None]) -> None:
    modules: tuple[Any, Any] = carl_runtime_min.cascade, script(case)
    cascades = [module.Cascade(maximum=1.0) for module in modules]
    for step, value in enumerate(metrics):
        for cascade in cascades:
            cascade.observe(value, step)
        assert cascades[0].weight(step) == cascades[1].weight(step)
    assert vars(cascades[0]) == vars(cascades[1])


@pytest.mark.parametrize("case", FIELDS)
def test_the_committed_values_still_hold(case: str) -> None:
    path = ROOT / "golden" / case / "fields.json"
    committed = json.loads(path.read_text())
    copied, library = fields(script(case)), fields()
    assert copied.keys() == committed.keys()
    for found in (copied, library):
        for name, expected in committed.items():
            torch.testing.assert_close(
                torch.tensor(found[name], dtype=torch.float64),
                torch.tensor(expected, dtype=torch.float64),
                rtol=0,
                atol=COMMITTED,
                equal_nan=True,
                msg=lambda text, name=name: f"{name}: {text}\nmake golden CASES={case}",
            )


def test_the_default_script_holds_every_value() -> None:
    assert fields(script("default")).keys() == fields().keys()
