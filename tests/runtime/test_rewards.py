"""R_CARL over ragged batches: against the reference, and its known properties."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from carl_runtime_min.errors import UsageError
from carl_runtime_min.field import order_parameter, token_field
from carl_runtime_min.rewards import carl_reward, coherence_components, scale_coherence
from tests import reference

NAN, INF = math.nan, math.inf
EDGES = [0.0, 0.03, 0.06, 0.47, 0.5, 0.53, 0.67, 0.7, 0.73, 0.97, 1.0]


def padded(rows: list[list[float]], filler: float = 0.0, width: int = 0) -> Tensor:
    width = max([width, *map(len, rows)])
    return torch.tensor(
        [row + [filler] * (width - len(row)) for row in rows], dtype=torch.float64
    )


def batch(
    rows: list[list[float]], log_probs: list[list[float]] | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    log_probs = log_probs or [[-0.5] * len(row) for row in rows]
    ones = [[1.0] * len(row) for row in rows]
    return padded(rows), padded(log_probs), padded(ones).bool()


def score(row: list[float], log_probs: list[float] | None = None) -> float:
    return carl_reward(*batch([row], [log_probs] if log_probs else None)).item()


phis = st.one_of(st.floats(0, 1), st.sampled_from(EDGES))
completions = st.lists(
    st.lists(st.tuples(phis, st.floats(-30, 0), st.booleans()), max_size=70),
    min_size=1,
    max_size=4,
)


@settings(max_examples=200)
@given(completions, st.sampled_from([0.0, NAN, INF, -INF, 0.6]), st.integers(0, 75))
def test_agrees_with_the_reference_whatever_the_padding(
    rows: list[list[tuple[float, float, bool]]], filler: float, width: int
) -> None:
    phi, log_probs, junctions = (
        [[token[i] for token in row] for row in rows] for i in range(3)
    )
    mask = padded([[1.0] * len(row) for row in rows], 0.0, width).bool()
    joints = padded(junctions, 1.0, width).bool()
    fields = padded(phi, filler, width), padded(log_probs, filler, width), mask
    parts = coherence_components(*fields, joints)
    totals = carl_reward(*fields, junctions=joints)
    for i, row in enumerate(phi):
        want = (
            reference.coherence(row),
            reference.cloud(row, log_probs[i]),
            reference.discontinuity(row, junctions[i]),
            reference.reward(row, log_probs[i], junctions[i]),
        )
        got = [part[i].item() for part in (*parts, totals)]
        assert got == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 1023, 1024, 1025])
def test_agrees_with_the_reference_at_every_kind_of_length(length: int) -> None:
    generator = torch.Generator().manual_seed(length)
    phi = torch.rand(length, generator=generator, dtype=torch.float64).tolist()
    log_probs = (torch.rand(length, generator=generator) * -5).tolist()
    assert score(phi, log_probs) == pytest.approx(
        reference.reward(phi, log_probs), abs=1e-12
    )


def test_blocks_grow_no_larger_than_two_to_the_fifteenth() -> None:
    halves = [0.0] * 2**15 + [1.0] * 2**15
    phi, _, mask = batch([halves])
    scales = scale_coherence(phi, mask.sum(-1))
    assert scales.tolist() == [[1.0] * 16]
    ramp = torch.linspace(0, 1, 2**16 + 7, dtype=torch.float64).tolist()
    assert coherence_components(*batch([ramp])).coherence.item() == pytest.approx(
        reference.coherence(ramp), abs=1e-9
    )


def test_scales_of_each_row() -> None:
    phi, _, mask = batch([[0.0, 1.0, 1.0, 1.0, 0.5], [0.3], []])
    scales = scale_coherence(phi, mask.sum(-1)).tolist()
    assert scales[0] == pytest.approx([1.0, 0.75, 1 - math.sqrt(3) / 4])
    assert scales[1] == pytest.approx([1.0, NAN, NAN], nan_ok=True)
    assert scales[2] == pytest.approx([NAN] * 3, nan_ok=True)


def test_coherence_is_clipped_at_zero() -> None:
    parts = coherence_components(*batch([[0.0, 10.0]]))
    assert parts.coherence.item() == pytest.approx(1 / (1 + math.sqrt(2)))


def test_weights_of_the_scales_are_powers_of_the_square_root_of_two() -> None:
    row = [0.0, 0.0, 1.0, 1.0]  # c = 1, 1, 0.5
    expected = (1 + 2**0.5 + 2 * 0.5) / (1 + 2**0.5 + 2)
    assert coherence_components(*batch([row])).coherence.item() == expected


@pytest.mark.parametrize(
    ("before", "after", "worth"),
    [
        (0.0, 0.03, 0.5),  # exactly the threshold is no transition
        (0.03, 0.0, 0.5),
        (0.0, 0.0300001, 0.8),
        (0.0300001, 0.0, 0.5),
        (0.49, 0.9, 0.8),
        (0.5, 0.9, 0.3),  # 0.5 itself is not below 0.5
        (0.7, 0.1, 0.5),  # 0.7 itself is not above 0.7
        (0.71, 0.1, 0.2),
        (0.6, 0.6, 0.5),
    ],
)
def test_worth_of_one_transition(before: float, after: float, worth: float) -> None:
    parts = coherence_components(*batch([[before, after]]))
    assert parts.discontinuity.item() == worth


def test_a_fall_of_exactly_the_threshold_is_not_counted() -> None:
    parts = coherence_components(*batch([[0.03, 0.0, 0.9]]))
    assert parts.discontinuity.item() == 0.8


def test_discontinuity_averages_over_transitions_only() -> None:
    row = [0.1, 0.2, 0.21, 0.9, 0.1]  # 0.8, none, 0.8, 0.2
    parts = coherence_components(*batch([row]))
    assert parts.discontinuity.item() == pytest.approx(0.6)


def test_a_junction_is_no_transition_but_blocks_run_across_it() -> None:
    fields = batch([[0.1, 0.2, 0.9, 0.1]])
    junctions = torch.tensor([[True, False, True, False]])
    with_junction = coherence_components(*fields, junctions)
    without = coherence_components(*fields)
    assert with_junction.discontinuity.item() == pytest.approx((0.8 + 0.2) / 2)
    assert without.discontinuity.item() == pytest.approx((0.8 + 0.8 + 0.2) / 3)
    assert with_junction.coherence == without.coherence


def test_cloud_is_the_mean_of_p_times_phi() -> None:
    parts = coherence_components(
        *batch([[0.5, 1.0], [0.8]], [[math.log(0.5), 0.0], [math.log(0.25)]])
    )
    assert parts.cloud.tolist() == pytest.approx([(0.25 + 1.0) / 2, 0.2])


def test_components_of_an_empty_completion() -> None:
    parts = coherence_components(*batch([[], [0.4]]))
    assert [part[0].item() for part in parts] == [0.5, 0.0, 0.5]
    assert carl_reward(*batch([[], [0.4]]))[0].item() == 0.0


def test_batches_without_tokens_or_rows() -> None:
    assert carl_reward(*batch([[], []])).tolist() == [0.0, 0.0]
    nothing = torch.zeros(0, 5)
    assert carl_reward(nothing, nothing, nothing).shape == (0,)


@pytest.mark.parametrize("bad", [NAN, INF, -INF])
@pytest.mark.parametrize("where", ["phi", "log_probs"])
@pytest.mark.parametrize("place", [0, 2])
def test_a_token_that_is_not_finite_makes_its_row_unscorable(
    bad: float, where: str, place: int
) -> None:
    fields = dict(
        zip(("phi", "log_probs", "mask"), batch([[0.2] * 3] * 2), strict=True)
    )
    fields[where][1, place] = bad
    parts = coherence_components(**fields)
    assert all(part.isnan().tolist() == [False, True] for part in parts)
    assert carl_reward(**fields).isnan().tolist() == [False, True]


@pytest.mark.parametrize("filler", [NAN, INF, -INF, 1e300])
def test_padding_may_hold_anything(filler: float) -> None:
    phi, log_probs, mask = batch([[0.2, 0.4, 0.9], [0.3]])
    clean = carl_reward(phi, log_probs, mask)
    dirty = carl_reward(
        phi.masked_fill(~mask, filler), log_probs.masked_fill(~mask, filler), mask
    )
    assert torch.equal(clean, dirty)


@pytest.mark.parametrize("mask", [[[0, 1]], [[1, 0, 1]], [[1, 1, 1], [1, 0, 1]]])
def test_a_mask_with_holes_is_refused(mask: list[list[int]]) -> None:
    holes = torch.tensor(mask)
    with pytest.raises(UsageError, match="not right-padded") as caught:
        carl_reward(torch.zeros(holes.shape), torch.zeros(holes.shape), holes)
    assert caught.value.remedy.endswith("to the front of their rows")


def test_shapes_must_agree() -> None:
    for shapes in ([(2, 3), (2, 3), (2, 4)], [(2, 3), (3, 2), (2, 3)], [(3,)] * 3):
        with pytest.raises(UsageError, match="one shape"):
            carl_reward(*(torch.ones(shape) for shape in shapes))


def test_default_weights_and_others() -> None:
    fields = batch([[0.2, 0.4, 0.9, 0.6]])
    parts = [part.item() for part in coherence_components(*fields)]
    assert carl_reward(*fields).item() == pytest.approx(
        0.5 * parts[0] + 0.3 * parts[1] + 0.2 * parts[2], abs=1e-15
    )
    for i, weights in enumerate([(1.0, 0, 0), (0, 1.0, 0), (0, 0, 1.0)]):
        assert carl_reward(*fields, weights).item() == parts[i]


def test_results_are_float64_and_need_no_float64_input() -> None:
    phi, log_probs, mask = batch([[0.25, 0.5, 0.75]])
    got = carl_reward(phi.float(), log_probs.float(), mask.int())
    assert got.dtype == torch.float64
    assert torch.equal(got, carl_reward(phi, log_probs, mask))


def test_inputs_are_left_alone() -> None:
    fields = batch([[0.2, 0.9, 0.4], [0.3]])
    kept = [x.clone() for x in fields]
    carl_reward(*fields)
    assert all(torch.equal(a, b) for a, b in zip(fields, kept, strict=True))


class TestKnownProperties:
    """What the reward can be criticised for, stated so that nobody is surprised."""

    @given(st.floats(0, 1), st.integers(1, 300))
    def test_any_constant_phi_is_perfectly_coherent(self, level: float, n: int) -> None:
        parts = coherence_components(*batch([[level] * n]))
        assert parts.coherence.item() == pytest.approx(1.0, abs=1e-12)

    def test_short_noise_is_more_coherent_than_long_noise(self) -> None:
        generator = torch.Generator().manual_seed(0)
        means = []
        for length in (2, 8, 128, 4096):
            phi = torch.rand(2**17 // length, length, generator=generator)
            parts = coherence_components(phi, -phi, torch.ones_like(phi))
            means.append(parts.coherence.mean().item())
        assert means == pytest.approx([0.90, 0.80, 0.735, 0.715], abs=0.006)

    def test_uniform_choice_scores_about_060_and_certainty_090(self) -> None:
        n, vocab = 256, 1000
        uniform = order_parameter(torch.full((n,), math.log(vocab)), vocab).tolist()
        assert score(uniform, [-math.log(vocab)] * n) == pytest.approx(0.60, abs=1e-3)
        assert score([1.0] * n, [0.0] * n) == pytest.approx(0.90, abs=1e-9)

    def test_a_tiny_change_of_entropy_can_move_the_reward_visibly(self) -> None:
        vocab = 1000
        edge = 0.5 * math.log(vocab)  # Phi = 0.5
        rewards = []
        for nudge in (-5e-6, 5e-6):
            entropy = torch.full((40,), 0.4 * math.log(vocab))
            entropy[::2] = edge + nudge
            row = order_parameter(entropy, vocab).tolist()
            rewards.append(score(row, [-1.0] * 40))
        assert abs(rewards[0] - rewards[1]) > 1e-3

    def test_the_reward_depends_on_the_temperature(self) -> None:
        logits = torch.randn(128, 1000, generator=torch.Generator().manual_seed(0)) * 4
        ids = logits.argmax(-1)
        clouds = []
        for temperature in (0.5, 1.0, 2.0):
            entropy, log_probs = token_field(logits, ids, temperature)
            phi = order_parameter(entropy, 1000)[None]
            parts = coherence_components(phi, log_probs[None], torch.ones_like(phi))
            clouds.append(parts.cloud.item())
        assert clouds[0] > 2 * clouds[1] > 4 * clouds[2]
