"""Entropy, log-probability and Phi from logits and from a trainer's scores."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torch import Tensor

from carl_runtime_min import field
from carl_runtime_min.errors import UsageError
from carl_runtime_min.field import order_parameter, policy_field, token_field
from tests import reference

V = 151_936


def exact(
    logits: Tensor, ids: Tensor, temperature: float = 1.0
) -> tuple[Tensor, Tensor]:
    """The field of [N, V] logits in float64."""
    log_p = torch.log_softmax(logits.double() / temperature, -1)
    entropy = -torch.special.xlogy(log_p.exp(), log_p.exp()).sum(-1)
    return entropy, log_p.gather(-1, ids[:, None])[:, 0]


def gauss(rows: int, vocab: int = V, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(rows)
    logits = torch.randn(rows, vocab, generator=generator) * scale
    return logits, torch.randint(0, vocab, (rows,), generator=generator)


def assert_close(got: tuple[Tensor, Tensor], want: tuple[Tensor, Tensor]) -> None:
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=0, atol=5e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("scale", [0.1, 3.0])
def test_ordinary_logits_are_exact_to_5e6(dtype: torch.dtype, scale: float) -> None:
    logits, ids = gauss(4, scale=scale)
    logits = logits.to(dtype)
    got = token_field(logits, ids)
    assert [x.dtype for x in got] == [torch.float32] * 2
    assert_close(got, exact(logits, ids))


def test_a_large_offset_changes_nothing() -> None:
    logits, ids = gauss(4)
    logits = (logits * 64).round() / 64  # so that adding 1e4 in float32 is exact
    assert_close(token_field(logits + 1e4, ids), token_field(logits, ids))


def test_a_coin_between_extreme_logits() -> None:
    logits = torch.full((2, V), -1e4)
    logits[:, [3, 7]] = 1e4
    entropy, log_probs = token_field(logits, torch.tensor([3, 8]))
    assert entropy.tolist() == pytest.approx([math.log(2)] * 2, abs=5e-7)
    assert log_probs.tolist() == pytest.approx([-math.log(2), -2e4 - math.log(2)])


def test_tokens_ruled_out_by_minus_infinity_do_not_count() -> None:
    logits, _ = gauss(4)
    top = logits.topk(50)
    masked = torch.full_like(logits, -math.inf).scatter(-1, top.indices, top.values)
    entropy, log_probs = token_field(masked, top.indices[:, 9])
    assert_close((entropy, log_probs), exact(masked, top.indices[:, 9]))
    _, ruled_out = token_field(masked, logits.argmin(-1))
    assert ruled_out.tolist() == [-math.inf] * 4


def test_a_constant_row_has_all_the_entropy_there_is() -> None:
    for level in (0.0, -1e4, 1e4):
        entropy, log_probs = token_field(torch.full((1, V), level), torch.tensor([5]))
        assert entropy.item() == pytest.approx(math.log(V), abs=1e-6)
        assert entropy.item() <= torch.tensor(math.log(V)).item()
        assert log_probs.item() == pytest.approx(-math.log(V), abs=1e-6)


@pytest.mark.parametrize("low", [0.0, -math.inf])
def test_certainty_has_no_entropy(low: float) -> None:
    logits = torch.full((1, V), low)
    logits[0, 9] = 1e4
    entropy, log_probs = token_field(logits, torch.tensor([9]))
    assert (entropy.item(), log_probs.item()) == (0.0, 0.0)


def test_nearly_certain_rows_keep_their_small_entropy() -> None:
    logits = torch.zeros(1, 1000)
    logits[0, 0] = 25.0
    entropy, log_probs = token_field(logits, torch.tensor([0]))
    h, lp = reference.field_of_row(logits[0].tolist(), 0)
    assert h > 1e-7
    assert entropy.item() == pytest.approx(h, abs=3e-8)
    assert log_probs.item() == pytest.approx(lp, abs=3e-8)


def test_entropy_never_leaves_its_range() -> None:
    levels = torch.linspace(-3, 3, 500)[:, None]
    for vocab in (2, 3, 46, 1000):
        entropy, _ = token_field(levels.expand(-1, vocab), torch.zeros(500).long())
        assert entropy.max() <= torch.tensor(math.log(vocab))
        assert entropy.min() >= 0


@pytest.mark.parametrize(
    "row",
    [
        [-math.inf, -math.inf, -math.inf],
        [0.0, math.nan, 1.0],
        [0.0, math.inf, 1.0],
        [math.inf, -math.inf, 0.0],
    ],
)
def test_a_row_that_is_no_distribution_is_nan_and_its_neighbours_are_not(
    row: list[float],
) -> None:
    logits = torch.tensor([[0.0, 1.0, 2.0], row, [0.0, 1.0, 2.0]])
    for token in range(3):
        both = torch.stack(token_field(logits, torch.full((3,), token)))  # [2, 3]
        assert both[:, 1].isnan().all()
        assert both[:, [0, 2]].isfinite().all()


@pytest.mark.parametrize("temperature", [0.3, 0.7, 1.0, 2.5])
def test_temperature_divides_the_logits(temperature: float) -> None:
    logits, ids = gauss(16, 1000)
    got = token_field(logits, ids, temperature)
    assert_close(got, exact(logits, ids, temperature))
    assert_close(got, token_field(logits / temperature, ids))


@pytest.mark.parametrize("temperature", [0.7, 1.0, 1.7])
def test_no_digit_is_lost_far_from_zero(temperature: float) -> None:
    logits, ids = gauss(16, 1000)
    far = logits + 1e4
    assert_close(token_field(far, ids, temperature), exact(far, ids, temperature))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.nan])
def test_temperature_must_be_positive(temperature: float) -> None:
    with pytest.raises(UsageError, match="temperature must be positive"):
        token_field(torch.zeros(1, 4), torch.zeros(1).long(), temperature)


@given(
    arrays("float32", (5, 7), elements=st.floats(-30, 30, width=32)),
    st.lists(st.integers(0, 6), min_size=5, max_size=5),
    st.sampled_from([0.5, 1.0, 2.0]),
)
def test_agrees_with_the_reference_token_by_token(
    logits: object, ids: list[int], temperature: float
) -> None:
    rows = torch.tensor(logits) * temperature  # float32 is coarser beyond 30
    got = token_field(rows, torch.tensor(ids), temperature)
    for i, (row, token) in enumerate(zip(rows.tolist(), ids, strict=True)):
        entropy, log_p = reference.field_of_row(row, token, temperature)
        assert got[0][i].item() == pytest.approx(entropy, abs=5e-6)
        assert got[1][i].item() == pytest.approx(log_p, abs=5e-6)


def test_any_leading_shape() -> None:
    logits, ids = gauss(12, 50)
    flat = torch.stack(token_field(logits, ids))
    cube = torch.stack(token_field(logits.view(3, 4, 50), ids.view(3, 4)))
    assert torch.equal(cube, flat.view(2, 3, 4))
    single = torch.stack(token_field(logits[5], ids[5]))
    assert torch.equal(single, flat[:, 5])
    shifted = torch.stack(
        token_field(logits.view(3, 4, 50)[:, :-1], ids.view(3, 4)[:, :-1])
    )
    assert torch.equal(shifted, flat.view(2, 3, 4)[:, :, :-1])


def test_no_rows_give_no_values() -> None:
    entropy, log_probs = token_field(torch.zeros(0, 9), torch.zeros(0).long())
    assert entropy.shape == log_probs.shape == (0,)


@pytest.mark.parametrize("chunk", [1, 7, 14, 15, 34, 35, 36, 1000])
def test_chunks_do_not_show(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    logits, ids = gauss(5, 7)
    whole = torch.stack(token_field(logits, ids))
    monkeypatch.setattr(field, "CHUNK", chunk)
    assert torch.equal(torch.stack(token_field(logits, ids)), whole)


def test_another_default_type_changes_nothing() -> None:
    logits, ids = gauss(3, 20)
    want = token_field(logits, ids)
    torch.set_default_dtype(torch.bfloat16)
    try:
        got = token_field(logits, ids)
    finally:
        torch.set_default_dtype(torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(got, want, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_working_in_the_logits_themselves_changes_no_bit(dtype: torch.dtype) -> None:
    logits, ids = gauss(20, 60_000)  # several chunks
    logits = logits.to(dtype)
    want = token_field(logits, ids, 0.7)
    got = token_field(logits, ids, 0.7, overwrite=True)
    assert torch.equal(torch.stack(got), torch.stack(want))


def test_logits_are_left_alone_and_no_graph_is_kept() -> None:
    logits, ids = gauss(3, 20)
    kept = logits.clone()
    logits.requires_grad_()
    entropy, log_probs = token_field(logits, ids)
    assert torch.equal(logits, kept)
    assert not entropy.requires_grad
    assert not log_probs.requires_grad


def test_phi_is_one_minus_relative_entropy_in_float64() -> None:
    entropy = torch.tensor([0.0, 0.3, 1.7, 3.8])
    phi = order_parameter(entropy, 46)
    assert phi.dtype == torch.float64
    want = [reference.phi_of(h, 46) for h in entropy.tolist()]
    assert phi.tolist() == pytest.approx(want, abs=1e-15)


def test_phi_stays_between_0_and_1_where_entropy_carries_rounding() -> None:
    phi = order_parameter(torch.tensor([-1e-6, math.log(1000) + 1e-5]), 1000)
    assert phi.tolist() == [1.0, 0.0]


def test_phi_reports_what_is_not_finite() -> None:
    phi = order_parameter(torch.tensor([math.nan, math.inf, -math.inf, 0.0]), 10)
    assert phi.isnan().tolist() == [True, True, True, False]


@pytest.mark.parametrize("vocab_size", [1, 0, -3])
def test_phi_needs_two_tokens(vocab_size: int) -> None:
    with pytest.raises(UsageError, match="at least two tokens"):
        order_parameter(torch.zeros(1), vocab_size)
    assert order_parameter(torch.zeros(1), 2).item() == 1.0


def test_scores_of_a_trainer_become_a_field() -> None:
    entropy = torch.tensor([[0.1, 0.2, 0.3], [0.4, math.nan, 9.9]])
    log_probs = torch.tensor([[-0.1, -0.2, -0.3], [-0.4, 0.0, 7.7]])
    mask = torch.tensor([[1, 1, 1], [1, 1, 0]])
    got = policy_field(entropy, log_probs, mask, 10)
    assert torch.equal(got.mask, mask.bool())
    assert torch.equal(got.log_probs, log_probs)
    assert got.phi[0].tolist() == order_parameter(entropy[0], 10).tolist()
    assert got.phi[1].isnan().tolist()[:2] == [False, True]
    assert not got.junctions.any()


def test_removed_tokens_leave_a_junction() -> None:
    places = torch.arange(6.0).expand(5, -1) / 10
    mask = torch.tensor(
        [
            [1, 1, 0, 1, 1, 0],  # a tool result in the middle, padding
            [0, 1, 1, 1, 0, 0],  # the first token is not the policy's
            [1, 0, 1, 0, 0, 1],
            [0, 0, 0, 0, 0, 0],
            [1, 1, 1, 1, 1, 1],
        ]
    )
    got = policy_field(torch.zeros(5, 6), places, mask, 10)
    kept = [
        row[keep].tolist() for row, keep in zip(got.log_probs, got.mask, strict=True)
    ]
    assert [[round(10 * x) for x in row] for row in kept] == [
        [0, 1, 3, 4],
        [1, 2, 3],
        [0, 2, 5],
        [],
        [0, 1, 2, 3, 4, 5],
    ]
    assert [row.nonzero().flatten().tolist() for row in got.junctions] == [
        [2],
        [],
        [1, 2],
        [],
        [],
    ]
    assert got.junctions.dtype == got.mask.dtype == torch.bool
