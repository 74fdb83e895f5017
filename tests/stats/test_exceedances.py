import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import fisher_exact

from assay.errors import InputError
from assay.randomness import Seed, generator
from assay.stats.exceedances import exceedance_scan, exceedance_test

scores = st.integers(-3, 3).map(float) | st.floats(-1e6, 1e6)
samples = st.lists(scores, min_size=1, max_size=40)


def vector(values):
    return torch.tensor(values, dtype=torch.float64)


@given(samples, samples, st.integers(-3, 3).map(float))
def test_one_threshold_agrees_with_scipy(inspected, calibration, threshold):
    found = exceedance_test(vector(inspected), vector(calibration), threshold=threshold)
    above = sum(s >= threshold for s in inspected)
    trusted_above = sum(s >= threshold for s in calibration)
    table = [[above, len(inspected) - above], [trusted_above, len(calibration) - trusted_above]]
    assert (found.inspected_above, found.calibration_above) == (above, trusted_above)
    assert found.p_value == pytest.approx(fisher_exact(table, alternative="greater").pvalue)
    assert found.excess == pytest.approx(above / len(inspected) - trusted_above / len(calibration))


@settings(max_examples=30)
@given(st.lists(scores, min_size=2, max_size=8), st.data())
def test_scan_is_exact_over_all_ways_to_choose_the_calibration(pooled, data):
    """The p-value is the share of equally likely splits that look at least as bad, ties and all."""
    size = data.draw(st.integers(1, len(pooled) - 1))
    descending = sorted(pooled, reverse=True)
    cuts = [descending[k - 1] for k in (1, 2, 3, 4, 6, 8) if k <= len(pooled)]

    def smallest(split):
        inspected = vector([s for i, s in enumerate(pooled) if i not in split])
        trusted = vector([pooled[i] for i in split])
        tests = [exceedance_test(inspected, trusted, threshold=cut) for cut in cuts]
        return min(test.p_value for test in tests), exceedance_scan(inspected, trusted).p_value

    both = [smallest(split) for split in itertools.combinations(range(len(pooled)), size)]
    best, scanned = data.draw(st.sampled_from(both))
    as_bad = sum(other <= best * (1 + 1e-9) for other, _ in both)
    assert scanned == pytest.approx(as_bad / len(both))


@given(samples, samples)
def test_scan_lies_between_its_best_threshold_and_bonferroni(inspected, calibration):
    found = exceedance_scan(vector(inspected), vector(calibration))
    best = exceedance_test(vector(inspected), vector(calibration), threshold=found.threshold)
    assert (best.inspected_above, best.calibration_above) == (
        found.inspected_above,
        found.calibration_above,
    )
    thresholds = 2 * (len(inspected) + len(calibration)).bit_length()
    assert best.p_value <= found.p_value * (1 + 1e-9)
    assert found.p_value <= thresholds * best.p_value * (1 + 1e-9)


def test_scan_keeps_its_level_and_finds_a_minority():
    g = generator(Seed(2), torch.device("cpu"))
    inspected, calibration = torch.randn(200, 190, generator=g), torch.randn(200, 60, generator=g)
    pairs = list(zip(inspected, calibration, strict=True))
    clean = vector([exceedance_scan(*pair).p_value for pair in pairs])
    assert 0.02 < (clean <= 0.05).double().mean() < 0.08
    inspected[:, :25] += 4
    poisoned = vector([exceedance_scan(*pair).p_value for pair in pairs[:50]])
    assert (poisoned <= 0.05).double().mean() > 0.9


def test_one_against_one_and_all_ties_tell_nothing():
    assert exceedance_scan(vector([2.0]), vector([1.0])).p_value == pytest.approx(0.5)
    assert exceedance_scan(vector([1.0]), vector([2.0])).p_value == pytest.approx(1)
    assert exceedance_scan(vector([3.0] * 20), vector([3.0] * 10)).p_value == pytest.approx(1)
    assert exceedance_test(vector([3.0]), vector([3.0]), threshold=9.0).p_value == 1.0


def test_overwhelming_evidence_does_not_become_certainty():
    found = exceedance_scan(torch.ones(3000), torch.zeros(3000))
    assert 0 < found.p_value < 1e-300


@pytest.mark.parametrize(
    ("inspected", "calibration", "message"),
    [
        ([], [1.0], "at least 1 scores"),
        ([1.0], [], "at least 1 calibration scores"),
        ([float("nan")], [1.0], "not NaN"),
        ([1.0], [float("nan")], "calibration scores that are not NaN"),
    ],
)
def test_missing_and_incomparable_scores_are_refused(inspected, calibration, message):
    with pytest.raises(InputError, match=message):
        exceedance_scan(vector(inspected), vector(calibration))
    with pytest.raises(InputError, match=message):
        exceedance_test(vector(inspected), vector(calibration), threshold=0.0)
