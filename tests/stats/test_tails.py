import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from assay.errors import InputError
from assay.stats import fit_tail, tail_scan


def normal(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed))


@given(st.integers(0, 10**6), st.sampled_from([100, 300, 1000]))
def test_the_tail_falls_and_starts_at_its_share(seed: int, count: int) -> None:
    tail = fit_tail(normal(count, seed))
    assert tail.share == pytest.approx(0.1, abs=0.01)
    assert tail.exceedance(tail.threshold - 5) == 1.0
    chances = [tail.exceedance(tail.threshold + x) for x in (0.0, 0.5, 1.0, 5.0, 50.0)]
    assert chances == sorted(chances, reverse=True)
    assert 0 < chances[-1] < chances[0] == tail.share


def test_the_tail_agrees_with_scipy_and_overstates_light_tails() -> None:
    tail = fit_tail(normal(2000, 1))
    expected = tail.share * stats.genpareto.sf(1.3, tail.shape, scale=tail.scale)
    assert tail.exceedance(tail.threshold + 1.3) == pytest.approx(expected)
    assert tail.exceedance(5.0) > 10 * stats.norm.sf(5.0)


def test_heavy_tails_get_a_heavier_shape() -> None:
    random = torch.Generator().manual_seed(3)
    cauchy = torch.tan(math.pi * (torch.rand(3000, generator=random) - 0.5))
    assert fit_tail(cauchy).shape > 0.6 > fit_tail(normal(3000, 3)).shape


@pytest.mark.parametrize("odds", [2.0, 5.0])
def test_clean_scores_are_rarely_called_too_high(odds: float) -> None:
    rejected = sum(
        tail_scan(
            normal(1000, 2 * s), fit_tail(normal(500, 2 * s + 1)), odds=odds, fewest=8
        ).p_value
        <= 0.05
        for s in range(60)
    )
    assert rejected <= 3


def test_a_small_group_that_stands_apart_is_found_where_ranks_cannot_tell() -> None:
    tail = fit_tail(normal(500, 0))
    scores = torch.cat([normal(5000, 1), torch.full((20,), 15.0)])
    found = tail_scan(scores, tail, odds=5.0, fewest=8)
    assert found.p_value < 0.01
    assert found.threshold == 15.0


def test_fewer_than_the_fewest_are_no_pattern() -> None:
    tail = fit_tail(normal(500, 0))
    scores = torch.cat([normal(1000, 1), torch.full((7,), 15.0)])
    assert tail_scan(scores, tail, odds=5.0, fewest=8).p_value > 0.05


@pytest.mark.parametrize("count", [1, 7])
def test_fewer_samples_than_the_fewest_are_no_pattern_either(count: int) -> None:
    found = tail_scan(torch.full((count,), 50.0), fit_tail(normal(500, 0)), odds=5.0, fewest=8)
    assert found.p_value == 1
    assert (found.above, found.expected) == (count, count)


@pytest.mark.parametrize("spread", [torch.zeros(200), torch.arange(200).clamp(max=90).float()])
def test_equal_scores_have_no_tail_that_extrapolates(spread: torch.Tensor) -> None:
    tail = fit_tail(spread)
    scores = torch.cat([spread.repeat(5), spread.max() + torch.full((8,), 1e-6)])
    assert tail_scan(scores, tail, odds=2.0, fewest=8).p_value == 1
    assert tail.exceedance(spread.max().item() + 1) == pytest.approx(0.1)


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError):
        fit_tail(normal(99, 0))
    tail = fit_tail(normal(100, 0))
    with pytest.raises(InputError):
        tail_scan(torch.tensor([math.nan]), tail, odds=1.0, fewest=1)
    with pytest.raises(InputError, match="of at least 1"):
        tail_scan(normal(10, 0), tail, odds=0.5, fewest=1)
