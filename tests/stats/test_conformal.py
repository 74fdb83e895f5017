import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import percentileofscore

from assay.errors import InputError
from assay.randomness import Seed, generator
from assay.stats.conformal import conformal_p_values
from assay.stats.multiple import benjamini_hochberg

scores = st.integers(-3, 3).map(float) | st.floats(-1e6, 1e6) | st.just(float("inf"))


def vector(values):
    return torch.tensor(values, dtype=torch.float64)


@given(st.lists(scores, min_size=2, max_size=30))
def test_valid_at_every_level_for_any_scores(pooled):
    """Exchangeable: each of the n + 1 scores is as likely as any other to be the inspected one."""
    values = vector(pooled)
    p_values = torch.cat(
        [
            conformal_p_values(values[i : i + 1], torch.cat([values[:i], values[i + 1 :]]))
            for i in range(len(values))
        ]
    )
    for rejected, level in enumerate(p_values.sort().values.tolist(), start=1):
        assert rejected / len(values) <= level + 1e-12


@given(st.lists(scores, max_size=20), st.lists(scores, min_size=1, max_size=20))
def test_agrees_with_scipy_percentiles(inspected, calibration):
    share_below = [percentileofscore(calibration, s, kind="strict") / 100 for s in inspected]
    n = len(calibration)
    expected = [(1 + n * (1 - below)) / (n + 1) for below in share_below]
    found = conformal_p_values(vector(inspected), vector(calibration))
    assert found.tolist() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("decimals", [None, 0], ids=["continuous", "many ties"])
def test_benjamini_hochberg_controls_false_discoveries(decimals):
    """The p-values depend on each other through the calibration set; the rate holds anyway."""
    g = generator(Seed(11), torch.device("cpu"))
    shares, power = [], []
    for _ in range(400):
        calibration = torch.randn(200, generator=g, dtype=torch.float64)
        inspected = torch.randn(150, generator=g, dtype=torch.float64)
        inspected[:30] += 4
        if decimals is not None:
            calibration, inspected = calibration.round(), inspected.round()
        falls = benjamini_hochberg(conformal_p_values(inspected, calibration)) <= 0.1
        shares.append(falls[30:].sum() / falls.sum().clamp(min=1))
        power.append(falls[:30].double().mean())
    assert torch.stack(shares).mean() <= 0.1
    assert torch.stack(power).mean() > 0.5


def test_edge_cases():
    one = vector([1.0])
    assert conformal_p_values(vector([]), one).tolist() == []
    assert conformal_p_values(vector([0.0, 1.0, 2.0]), one).tolist() == [1.0, 1.0, 0.5]
    assert conformal_p_values(vector([7.0] * 3), vector([7.0] * 9)).tolist() == [1.0] * 3


def test_half_precision_scores_keep_their_p_values_apart():
    calibration = torch.linspace(0, 1, 5000).half()
    p_values = conformal_p_values(torch.tensor([2.0], dtype=torch.float16), calibration)
    assert p_values.item() == pytest.approx(1 / 5001)


def test_missing_and_incomparable_scores_are_refused():
    with pytest.raises(InputError, match="at least 1 calibration scores, got 0"):
        conformal_p_values(vector([1.0]), vector([]))
    with pytest.raises(InputError, match="index 1: nan"):
        conformal_p_values(vector([1.0, float("nan")]), vector([1.0]))
    with pytest.raises(InputError, match="calibration scores"):
        conformal_p_values(vector([1.0]), vector([float("nan")]))
