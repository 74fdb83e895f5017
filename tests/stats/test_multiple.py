import itertools

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import false_discovery_control

from assay.errors import InputError
from assay.randomness import Seed, generator
from assay.stats.multiple import benjamini_hochberg, holm

BOTH = pytest.mark.parametrize("adjust", [holm, benjamini_hochberg])
p_values = st.one_of(st.floats(0, 1), st.sampled_from([0.0, 0.01, 0.05, 0.5, 1.0]))


def vector(values):
    return torch.tensor(values, dtype=torch.float64)


@given(st.lists(p_values, max_size=7))
def test_holm_closes_the_bonferroni_tests(values):
    """Closed testing: a hypothesis falls when every set that contains it falls."""
    tests = range(len(values))
    sets = [s for size in range(1, len(values) + 1) for s in itertools.combinations(tests, size)]
    bonferroni = {s: min(1.0, len(s) * min(values[i] for i in s)) for s in sets}
    expected = [max(p for s, p in bonferroni.items() if i in s) for i in tests]
    assert holm(vector(values)).tolist() == pytest.approx(expected, abs=1e-12)


@given(st.lists(p_values, min_size=1, max_size=60))
def test_benjamini_hochberg_agrees_with_scipy(values):
    expected = false_discovery_control(values, method="bh").tolist()
    assert benjamini_hochberg(vector(values)).tolist() == pytest.approx(expected, abs=1e-12)


@given(st.lists(p_values, max_size=60))
@example([0.0] * 48 + [1.0])  # 49 * (1 / 49) rounds to less than 1
@example([0.173] * 3)  # 0.173 * 3 / 3 rounds to less than 0.173
def test_adjustment_never_shrinks_and_holm_is_the_stricter(values):
    raw = vector(values)
    assert (raw <= benjamini_hochberg(raw)).all()
    assert (benjamini_hochberg(raw) <= holm(raw)).all()
    assert (holm(raw) <= 1).all()


@BOTH
@given(values=st.lists(p_values, min_size=2, max_size=20), turn=st.integers(1, 19))
def test_order_does_not_matter(adjust, values, turn):
    raw = vector(values)
    assert torch.equal(adjust(raw).roll(turn), adjust(raw.roll(turn)))


def test_error_rates_hold_on_simulated_data():
    """90 true null hypotheses and 10 false ones, 2,000 times."""
    uniform = torch.rand(2000, 100, generator=generator(Seed(5), torch.device("cpu"))).double()
    uniform[:, :10] **= 8
    null = torch.arange(100) >= 10
    falls = torch.stack([benjamini_hochberg(row) <= 0.2 for row in uniform])
    false_share = falls[:, null].sum(1) / falls.sum(1).clamp(min=1)
    assert 0.15 < false_share.mean() < 0.2
    any_false = torch.stack([(holm(row) <= 0.2)[null].any() for row in uniform])
    assert 0.13 < any_false.double().mean() < 0.21


@BOTH
def test_edge_cases(adjust):
    assert adjust(vector([])).tolist() == []
    assert adjust(vector([0.3])).tolist() == [0.3]
    assert adjust(vector([1.0, 1.0])).tolist() == [1.0, 1.0]
    assert adjust(torch.tensor([0.5])).dtype == torch.float32


def test_all_ties():
    assert holm(vector([0.02] * 4)).tolist() == [0.08] * 4
    assert benjamini_hochberg(vector([0.02] * 4)).tolist() == [0.02] * 4


@BOTH
@pytest.mark.parametrize("bad", [-0.01, 1.01, float("nan")])
def test_what_is_no_p_value_is_refused(adjust, bad):
    with pytest.raises(InputError, match="p-values in"):
        adjust(vector([0.5, bad]))
