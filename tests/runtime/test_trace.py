"""What is measured of one completion, from either kind of input."""

from __future__ import annotations

import json
import math
from itertools import pairwise

import pytest
import torch

from carl_runtime_min.errors import UsageError
from carl_runtime_min.field import order_parameter, token_field
from carl_runtime_min.snapshot import CoherenceSnapshot
from carl_runtime_min.trace import CoherenceProbe, CoherenceTrace
from tests import reference

V = 50


def made(length: int = 37, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scale = torch.rand(length, 1, generator=generator) * 6
    logits = torch.randn(length, V, generator=generator) * scale
    return logits, torch.randint(0, V, (length,), generator=generator)


def of_phi(phi: list[float], junctions: list[bool] | None = None) -> CoherenceTrace:
    """A trace with these values of Phi, up to the rounding of float32 entropies."""
    return CoherenceTrace.from_entropy(
        (1 - torch.tensor(phi)) * math.log(V),
        torch.full((len(phi),), -1.0),
        V,
        junctions=None if junctions is None else torch.tensor(junctions),
    )


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_both_constructors_agree(temperature: float) -> None:
    logits, ids = made()
    first = CoherenceTrace.from_logits(logits, ids, temperature, step=3)
    entropy, log_probs = token_field(logits, ids, temperature)
    second = CoherenceTrace.from_entropy(entropy, log_probs, V, step=3)
    ours, theirs = first.to_snapshot().to_dict(), second.to_snapshot().to_dict()
    assert 0 < ours.pop("top_k_mass") < 1
    assert theirs.pop("top_k_mass") is None
    assert ours == theirs


def test_measurements_are_those_of_the_definitions() -> None:
    logits, ids = made()
    trace = CoherenceTrace.from_logits(logits, ids)
    got = trace.to_snapshot()
    phi, entropy = trace.phi.tolist(), trace.entropy.tolist()
    log_probs = trace.log_probs.tolist()
    changes = [b - a for a, b in pairwise(phi)]
    ups, downs = sum(d > 0.03 for d in changes), sum(d < -0.03 for d in changes)
    real = sum(math.cos(math.pi * x) for x in phi) / len(phi)
    imaginary = sum(math.sin(math.pi * x) for x in phi) / len(phi)
    want = {
        "phi_mean": sum(phi) / 37,
        "phi_std": reference_std(phi),
        "entropy_mean": sum(entropy) / 37,
        "entropy_std": reference_std(entropy),
        "surprisal_mean": -sum(log_probs) / 37,
        "surprisal_std": reference_std(log_probs),
        "n_crystallizations": ups,
        "n_meltings": downs,
        "defect_density": (ups + downs) / 37,
        "multiscale_coherence": reference.coherence(phi),
        "cloud_quality": reference.cloud(phi, log_probs),
        "discontinuity_score": reference.discontinuity(phi),
        "reward": reference.reward(phi, log_probs),
        "kuramoto_R": math.hypot(real, imaginary),
        "n_tokens": 37,
        "step": None,
    }
    found = {name: getattr(got, name) for name in want}
    assert found == pytest.approx(want, abs=1e-9)
    by_scale = {j: reference.coherence_of_scale(phi, j) for j in range(6)}
    assert got.coherence_by_scale == pytest.approx(by_scale)
    assert got.phi_trajectory == phi


def reference_std(values: list[float]) -> float:
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((x - mean) ** 2 for x in values) / len(values))


@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize("top_k", [1, 10, V, 10 * V])
def test_top_k_mass(temperature: float, top_k: int) -> None:
    logits, ids = made()
    logits[0, 3:] = -math.inf
    trace = CoherenceTrace.from_logits(logits, ids, temperature, top_k=top_k)
    p = torch.softmax(logits.double() / temperature, -1).sort(descending=True).values
    assert trace.top_k_mass is not None
    torch.testing.assert_close(
        trace.top_k_mass.double(), p[:, :top_k].sum(-1), rtol=0, atol=2e-6
    )


def test_positions_of_transitions_and_their_sharpness() -> None:
    trace = of_phi([0.1, 0.5, 0.51, 0.2, 0.9])
    assert trace.crystallization_positions() == [0, 3]
    assert trace.melting_positions() == [2]
    assert trace.transition_sharpness([0, 2]) == pytest.approx(0.355, abs=1e-6)
    assert trace.transition_sharpness([0, 4, 99, -1]) == pytest.approx(0.4, abs=1e-6)
    assert trace.transition_sharpness([]) == 0.0


def test_a_junction_is_no_transition() -> None:
    trace = of_phi([0.1, 0.5, 0.51, 0.2, 0.9], [False, True, False, False, True])
    assert trace.crystallization_positions() == []
    assert trace.melting_positions() == [2]
    assert trace.transition_sharpness([0, 2]) == pytest.approx(0.31, abs=1e-6)
    assert trace.components()["discontinuity"] == 0.5
    assert trace.reward() == pytest.approx(
        reference.reward(
            trace.phi.tolist(), [-1.0] * 5, [False, True, False, False, True]
        )
    )
    assert of_phi([0.1, 0.5]).reward((0, 0, 1.0)) == pytest.approx(0.8)


def test_kuramoto() -> None:
    assert of_phi([0.3] * 5).kuramoto_R() == pytest.approx(1.0)
    opposite = of_phi([0.0, 1.0, 1.0])
    assert opposite.kuramoto_R() == pytest.approx(1 / 3, abs=1e-6)
    assert opposite.kuramoto_R([0, 1]) == pytest.approx(0.0, abs=1e-6)
    assert opposite.kuramoto_R([1, 2, 77, -4]) == pytest.approx(1.0)
    assert opposite.kuramoto_R([1]) == 0.0
    assert of_phi([0.4]).kuramoto_R() == 0.0


def test_segments_cover_every_token() -> None:
    trace = of_phi([0.0, 0.2, 0.4, 0.6])
    means = trace.segment_phi_means([1, 3])
    assert means == pytest.approx([0.0, 0.3, 0.6], abs=1e-6)
    assert trace.segment_phi_means([]) == pytest.approx([0.3], abs=1e-6)
    assert math.isnan(trace.segment_phi_means([0])[0])


def test_an_empty_completion_has_no_means_but_strict_json() -> None:
    trace = CoherenceTrace.from_logits(torch.zeros(0, V), torch.zeros(0).long())
    got = trace.to_snapshot()
    assert math.isnan(got.phi_mean)
    assert (got.reward, got.defect_density, got.kuramoto_R) == (0.0, 0.0, 0.0)
    assert (got.coherence_by_scale, got.phi_trajectory) == ({}, [])
    text = json.dumps(got.to_dict(), allow_nan=False)
    assert json.loads(text)["phi_mean"] is None
    assert (trace.sparkline(), trace.n_tokens) == ("", 0)


def test_records_come_back_as_they_were() -> None:
    logits, ids = made()
    junctions = torch.zeros(37, dtype=torch.bool)
    junctions[[4, 9]] = True
    trace = CoherenceTrace.from_logits(logits, ids, junctions=junctions, step=8)
    again = CoherenceTrace.from_dict(json.loads(json.dumps(trace.to_dict())))
    assert again.to_dict() == trace.to_dict()
    assert torch.equal(again.phi, trace.phi)
    assert torch.equal(again.junctions, junctions)
    snapshot = trace.to_snapshot()
    record = json.loads(json.dumps(snapshot.to_dict(), allow_nan=False))
    assert CoherenceSnapshot.from_dict(record) == snapshot
    bare = CoherenceTrace.from_entropy(trace.entropy, trace.log_probs, V)
    assert CoherenceTrace.from_dict(bare.to_dict()).top_k_mass is None


def test_an_unscorable_token_is_reported_in_records_too() -> None:
    logits, ids = made(5)
    logits[2] = math.nan
    trace = CoherenceTrace.from_logits(logits, ids)
    assert math.isnan(trace.reward())
    record = json.loads(json.dumps(trace.to_dict(), allow_nan=False))
    assert record["phi"][2] is None
    again = CoherenceTrace.from_dict(record)
    assert again.phi.isnan().tolist() == [False, False, True, False, False]
    snapshot = trace.to_snapshot()
    restored = CoherenceSnapshot.from_dict(snapshot.to_dict())
    assert math.isnan(restored.phi_mean)
    assert "?" in trace.sparkline()


def test_an_entropy_that_the_vocabulary_cannot_have_is_refused() -> None:
    with pytest.raises(UsageError, match=r"exceeds ln\(10\)") as caught:
        CoherenceTrace.from_entropy(torch.tensor([1.0, 5.0]), torch.zeros(2), 10)
    assert "output head" in caught.value.remedy
    with pytest.raises(UsageError, match="one shape"):
        CoherenceTrace.from_entropy(torch.zeros(2), torch.zeros(3), 10)
    with pytest.raises(UsageError, match="at least two tokens"):
        CoherenceTrace.from_entropy(torch.zeros(2), torch.zeros(2), 1)


def test_sparklines() -> None:
    assert of_phi([0.0, 0.6, 1.0]).sparkline() == "▁▅█"
    assert of_phi([0.0, 0.6, 1.0]).entropy_sparkline() == "█▄▁"
    assert of_phi([0.0] * 50 + [1.0] * 50).sparkline(4) == "▁▁██"
    assert len(of_phi([0.4] * 100).sparkline()) == 60


def test_a_long_trajectory_is_thinned() -> None:
    assert len(of_phi([0.4] * 640).to_snapshot().phi_trajectory) == 64
    assert len(of_phi([0.4] * 100).to_snapshot().phi_trajectory) == 100


def test_a_probe_keeps_nothing_between_completions() -> None:
    probe = CoherenceProbe(V)
    high, low = made(seed=1), made(seed=2)
    alone = CoherenceProbe(V).measure(*low)
    probe.measure(*high)
    assert probe.measure(*low) == alone
    entropy, log_probs = token_field(*low)
    from_scores = probe.measure_from_entropy(entropy, log_probs, step=4)
    assert (from_scores.reward, from_scores.step) == (alone.reward, 4)
    trace = CoherenceProbe(V, temperature=0.5, top_k=1).measure_trace(*low, step=2)
    assert torch.equal(
        trace.phi, order_parameter(token_field(*low, temperature=0.5)[0], V)
    )
    assert trace.step == 2


def test_a_probe_refuses_logits_of_another_width() -> None:
    with pytest.raises(UsageError, match="50 wide"):
        CoherenceProbe(64).measure(*made())
