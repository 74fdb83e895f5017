import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from assay.errors import InputError
from assay.stats import excess_p_values, moderated_excess

EVERY = torch.ones(9, dtype=torch.bool)
VALUES = torch.tensor([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 100.0])


def test_without_a_prior_it_is_the_robust_z_score():
    excess = moderated_excess(VALUES, EVERY, usual=1.0, prior=0.0)
    assert excess[8].item() == pytest.approx(96 / (1.4826 * 2))
    assert excess[4].item() == 0


def test_the_usual_spread_counts_as_many_values_as_it_is_told():
    excess = moderated_excess(VALUES, EVERY, usual=10.0, prior=9.0)
    noise = ((100 + (1.4826 * 2) ** 2) / 2) ** 0.5
    assert excess[8].item() == pytest.approx(96 / noise, rel=1e-6)


def test_the_own_spread_counts_up_to_a_bound():
    excess = moderated_excess(VALUES, EVERY, usual=1.0, prior=0.0, most=1.5)
    assert excess[8].item() == pytest.approx(96 / 1.5)


def test_what_is_not_typical_neither_centres_nor_widens():
    typical = EVERY.clone()
    typical[8] = False
    far = torch.cat([VALUES[:8], torch.tensor([1e6])])
    first, second = (moderated_excess(v, typical, usual=1.0, prior=4.0) for v in (VALUES, far))
    assert torch.equal(first[:8], second[:8])


@given(st.floats(-1e3, 1e3), st.floats(0.01, 100))
def test_shifting_changes_nothing_and_scaling_with_the_usual_spread_neither(shift, scale):
    plain = moderated_excess(VALUES.double(), EVERY, usual=2.0, prior=5.0)
    moved = moderated_excess(scale * VALUES.double() + shift, EVERY, usual=2.0 * scale, prior=5.0)
    assert torch.allclose(plain, moved, rtol=1e-6, atol=1e-6)


def test_p_values_fall_with_the_excess_and_are_student_s():
    p_values = excess_p_values(torch.tensor([0.0, 1.812461, 50.0]), freedom=10.0)
    assert p_values[0].item() == 0.5
    assert p_values[1].item() == pytest.approx(0.05, abs=1e-6)
    assert p_values[2] < 1e-9


@pytest.mark.parametrize(("usual", "prior"), [(0.0, 1.0), (-1.0, 1.0), (1.0, -0.1)])
def test_refuses_what_is_no_spread(usual, prior):
    with pytest.raises(InputError, match="usual"):
        moderated_excess(VALUES, EVERY, usual=usual, prior=prior)


def test_refuses_no_typical_value():
    with pytest.raises(InputError, match="typical"):
        moderated_excess(VALUES, ~EVERY, usual=1.0, prior=1.0)
