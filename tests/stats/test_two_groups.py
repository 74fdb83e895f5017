import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.mixture import GaussianMixture

from assay.errors import InputError
from assay.randomness import Seed, generator
from assay.stats.two_groups import NARROWEST, fit_two_groups

samples = st.lists(
    st.integers(-20, 20).map(float) | st.floats(-1e6, 1e6, width=32), min_size=2, max_size=40
).filter(lambda values: len(set(values)) > 1)


def mixture(sizes, means, deviations):
    g = generator(Seed(3), torch.device("cpu"))
    parts = zip(sizes, means, deviations, strict=True)
    return torch.cat(
        [m + d * torch.randn(n, generator=g, dtype=torch.float64) for n, m, d in parts]
    )


@pytest.mark.parametrize(
    ("sizes", "means", "deviations"),
    [
        pytest.param((500, 500), (0.0, 5.0), (1.0, 1.0), id="even"),
        pytest.param((4750, 250), (0.0, 3.0), (1.0, 0.5), id="narrow minority above"),
        pytest.param((250, 4750), (-3.0, 0.0), (0.5, 1.0), id="narrow minority below"),
        pytest.param((1494, 6), (0.0, 6.0), (1.0, 0.5), id="six of fifteen hundred"),
        pytest.param((800, 400), (0.0, 4.0), (0.2, 2.0), id="quiet and noisy"),
    ],
)
def test_agrees_with_scikit_learn_started_at_the_truth(sizes, means, deviations):
    values = mixture(sizes, means, deviations)
    reference = GaussianMixture(
        2,
        reg_covar=0,
        tol=1e-9,
        max_iter=1000,
        weights_init=[size / sum(sizes) for size in sizes],
        means_init=[[mean] for mean in means],
        precisions_init=[[[deviation**-2]] for deviation in deviations],
    ).fit(values[:, None].numpy())
    found = fit_two_groups(values)
    assert found.means == pytest.approx(reference.means_[:, 0].tolist(), abs=0.02)
    assert found.weights == pytest.approx(reference.weights_.tolist(), abs=0.005)
    assert found.deviations == pytest.approx(reference.covariances_[:, 0, 0] ** 0.5, abs=0.02)
    one_group = -(math.log(2 * math.pi * values.var(correction=0).item()) + 1) / 2
    gain = len(values) * (reference.score(values[:, None].numpy()) - one_group)
    assert found.log_likelihood_ratio == pytest.approx(gain, rel=1e-3)
    sides = reference.predict_proba([[found.threshold]])[0]
    assert sides.tolist() == pytest.approx([0.5, 0.5], abs=0.02)


@given(samples)
def test_the_answer_is_always_a_mixture(values):
    spread = torch.tensor(values).double().std(correction=0).item()
    found = fit_two_groups(torch.tensor(values))
    assert sum(found.weights) == pytest.approx(1)
    assert all(0 < weight < 1 for weight in found.weights)
    assert min(values) - 1e-6 * spread <= found.means[0] <= found.threshold
    assert found.threshold <= found.means[1] <= max(values) + 1e-6 * spread
    assert all(deviation >= 0.999 * NARROWEST * spread for deviation in found.deviations)
    assert 0 <= found.log_likelihood_ratio < math.inf


@settings(max_examples=40)
@given(samples, st.sampled_from([-2.0, 0.25]), st.integers(-9, 9))
def test_unit_of_measurement_does_not_matter(values, scale, shift):
    raw = torch.tensor(values, dtype=torch.float64).round(decimals=2)
    assume(len(raw.unique()) > 1)
    before, after = fit_two_groups(raw), fit_two_groups(scale * raw + shift)
    assert after.log_likelihood_ratio == pytest.approx(before.log_likelihood_ratio, abs=0.01)


def test_threshold_follows_the_unit_of_measurement():
    values = mixture((300, 100), (0.0, 5.0), (1.0, 0.5))
    threshold = fit_two_groups(values).threshold
    assert fit_two_groups(3 * values - 7).threshold == pytest.approx(3 * threshold - 7)
    assert fit_two_groups(-values).threshold == pytest.approx(-threshold)


def test_two_groups_explain_two_groups_better_and_one_group_hardly():
    assert fit_two_groups(mixture((900, 100), (0.0, 5.0), (1.0, 1.0))).log_likelihood_ratio > 200
    assert fit_two_groups(mixture((1000,), (0.0,), (1.0,))).log_likelihood_ratio < 15


def test_two_samples_and_order():
    found = fit_two_groups(torch.tensor([8.0, 2.0]))
    assert found.means == pytest.approx((2.0, 8.0))
    assert found.threshold == pytest.approx(5.0)
    values = mixture((50, 50), (0.0, 4.0), (1.0, 1.0))
    assert fit_two_groups(values).threshold == fit_two_groups(values.flip(0)).threshold


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([], "at least 2 scores, got 0"),
        ([1.0], "at least 2 scores, got 1"),
        ([4.0, 4.0, 4.0], "got 3 equal ones"),
        ([1.0, float("nan")], "finite"),
        ([1.0, 2.0, float("-inf")], "index 2: -inf"),
    ],
)
def test_what_cannot_be_split_is_refused(values, message):
    with pytest.raises(InputError, match=message):
        fit_two_groups(torch.tensor(values))


@pytest.mark.parametrize(("value", "count"), [(0.1, 7), (0.1, 11), (0.7, 49), (1 / 3, 100)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_scores_are_refused_whatever_rounds(value, count, dtype):
    with pytest.raises(InputError, match="equal ones"):
        fit_two_groups(torch.full((count,), value, dtype=dtype))


def test_separation_is_the_distance_in_deviations() -> None:
    random = torch.Generator().manual_seed(0)
    low, high = (torch.randn(2000, generator=random) + shift for shift in (0.0, 6.0))
    assert fit_two_groups(torch.cat([low, high])).separation == pytest.approx(6, rel=0.05)
