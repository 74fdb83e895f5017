import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import median_abs_deviation

from assay.errors import InputError
from assay.stats.robust import median, median_absolute_deviation, robust_z_scores

ALL = pytest.mark.parametrize("statistic", [median, median_absolute_deviation, robust_z_scores])
samples = st.lists(st.integers(-99, 99).map(float), min_size=1, max_size=40)


def vector(values):
    return torch.tensor(values, dtype=torch.float64)


@given(samples)
def test_spread_agrees_with_scipy(values):
    expected = median_abs_deviation(values)
    assert median_absolute_deviation(vector(values)).item() == pytest.approx(expected)


@given(samples)
def test_median_agrees_with_torch(values):
    assert median(vector(values)).item() == vector(values).quantile(0.5).item()


@given(samples, st.sampled_from([-8.0, -0.5, 0.25, 4.0]), st.integers(-50, 50))
def test_scores_follow_the_unit_of_measurement_only_in_sign(values, scale, shift):
    expected = robust_z_scores(vector(values)) * (1 if scale > 0 else -1)
    found = robust_z_scores(scale * vector(values) + shift)
    assert found.tolist() == pytest.approx(expected.tolist(), abs=1e-9)


def test_scores_of_normal_data_with_a_wild_minority_are_standard_normal():
    normal = torch.special.ndtri((torch.arange(900, dtype=torch.float64) + 0.5) / 900)
    values = torch.cat([10 + 3 * normal, torch.full((45,), 1e6), torch.full((45,), -1e6)])
    scores = robust_z_scores(values)
    assert scores[:900].std().item() == pytest.approx(1, abs=0.15)
    assert (scores[900:].abs() > 1e5).all()


def test_without_deviation_of_the_median_the_mean_deviation_steps_in():
    scores = robust_z_scores(vector([5.0] * 9 + [6.0]))
    assert scores[:9].tolist() == [0.0] * 9
    assert scores[9].item() == pytest.approx(10 / 1.2533)
    assert median_absolute_deviation(vector([5.0] * 9 + [6.0])).item() == 0


@pytest.mark.parametrize("values", [[3.0], [3.0, 3.0, 3.0]])
def test_equal_values_score_zero(values):
    assert robust_z_scores(vector(values)).tolist() == [0.0] * len(values)


@ALL
@pytest.mark.parametrize("bad", [[], [1.0, float("nan")], [1.0, float("inf"), 2.0]])
def test_empty_and_infinite_values_are_refused(statistic, bad):
    with pytest.raises(InputError, match=r"expected (at least 1 )?values"):
        statistic(vector(bad))
