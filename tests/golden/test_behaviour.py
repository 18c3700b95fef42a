"""Tier three: the script, loaded as a module, computes what the library computes."""

from __future__ import annotations

import importlib.util
import json
import sys
from functools import cache
from types import ModuleType
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import carl_runtime_min.cascade
import carl_runtime_min.field
import carl_runtime_min.gate
import carl_runtime_min.rewards
from tools.make_fields import FIELDS, fields
from tools.make_golden import ROOT

COMMITTED = 1e-5


@cache
def script(case: str) -> ModuleType:
    path = ROOT / "golden" / case / "train.py"
    spec = importlib.util.spec_from_file_location(f"golden_{case}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


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


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 2**31), temperature=st.sampled_from([0.5, 1.0, 1.3]))
def test_field_and_rewards_are_bit_identical(seed: int, temperature: float) -> None:
    copy = script("default")
    logits, ids, mask = batch(seed)
    ours = carl_runtime_min.field.token_field(logits, ids, temperature)
    theirs = copy.token_field(logits, ids, temperature)
    assert [bits(x) for x in ours] == [bits(x) for x in theirs]
    phi = carl_runtime_min.field.order_parameter(ours[0], 19)
    assert bits(phi) == bits(copy.order_parameter(theirs[0], 19))
    library = carl_runtime_min.rewards
    assert bits(library.carl_reward(phi, ours[1], mask)) == bits(
        copy.carl_reward(phi, ours[1], mask)
    )
    parts = library.coherence_components(phi, ours[1], mask)
    copied = copy.coherence_components(phi, ours[1], mask)
    assert [bits(x) for x in parts] == [bits(x) for x in copied]


values = st.lists(st.floats(0, 1) | st.none(), min_size=1, max_size=80)


@settings(max_examples=80, deadline=None)
@given(metrics=values)
def test_gate_and_cascade_decide_alike(metrics: list[float | None]) -> None:
    copy = script("default")
    library = carl_runtime_min.gate
    gates = library.PhaseTransitionGate(0.7), copy.PhaseTransitionGate(0.7)
    cascades = [
        module.Cascade(maximum=1.0) for module in (carl_runtime_min.cascade, copy)
    ]
    for step, value in enumerate(metrics):
        fired = [gate.check(value, 1.0, step) for gate in gates]
        assert fired[0] == fired[1]
        for cascade in cascades:
            cascade.observe(value, step)
        assert cascades[0].weight(step) == cascades[1].weight(step)
    assert vars(gates[0]) == vars(gates[1])
    assert vars(cascades[0]) == vars(cascades[1])


@pytest.mark.parametrize("case", FIELDS)
def test_the_committed_values_still_hold(case: str) -> None:
    path = ROOT / "golden" / case / "fields.json"
    committed = json.loads(path.read_text())
    for source in (script(case), None):
        found = fields(source)
        assert found.keys() == committed.keys()
        for name, expected in committed.items():
            torch.testing.assert_close(
                torch.tensor(found[name], dtype=torch.float64),
                torch.tensor(expected, dtype=torch.float64),
                rtol=0,
                atol=COMMITTED,
                equal_nan=True,
                msg=lambda text, name=name: f"{name}: {text}\nmake golden CASES={case}",
            )
