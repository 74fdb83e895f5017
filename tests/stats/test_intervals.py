import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scipy.stats import binom, binomtest

from assay.errors import InputError
from assay.stats.intervals import clopper_pearson, wilson

BOTH = pytest.mark.parametrize(
    ("interval", "method"), [(wilson, "wilson"), (clopper_pearson, "exact")]
)
counts = st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n)))
confidences = st.floats(0.01, 0.9999)


@BOTH
@given(counts=counts, confidence=confidences)
@example(counts=(0, 43), confidence=0.95)  # where Wilson's lower bound rounds to 7e-18
def test_bounds_hold_the_observed_share(interval, method, counts, confidence):
    successes, trials = counts
    found = interval(successes, trials, confidence=confidence)
    assert 0 <= found.low <= successes / trials <= found.high <= 1


@BOTH
@given(counts=counts, confidence=confidences)
def test_agrees_with_scipy(interval, method, counts, confidence):
    found = interval(*counts, confidence=confidence)
    expected = binomtest(*counts).proportion_ci(confidence, method)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-9)


@pytest.mark.parametrize("share", [0.001, 0.02, 0.3, 0.5, 0.97])
def test_clopper_pearson_covers_as_often_as_promised(share):
    intervals = [clopper_pearson(k, 40, confidence=0.9) for k in range(41)]
    covered = [binom.pmf(k, 40, share) for k, i in enumerate(intervals) if i.low <= share <= i.high]
    assert sum(covered) >= 0.9


@BOTH
def test_one_trial_and_no_variation(interval, method):
    assert interval(0, 1).low == 0.0
    assert interval(1, 1).high == 1.0
    assert interval(0, 30).high < interval(0, 10).high < 1
    assert 0 < interval(10, 10).low < interval(30, 30).low


@BOTH
@pytest.mark.parametrize(("successes", "trials"), [(0, 0), (-1, 5), (6, 5), (0, -1)])
def test_impossible_counts_are_refused(interval, method, successes, trials):
    with pytest.raises(InputError, match=f"got {successes} of {trials}"):
        interval(successes, trials)


@BOTH
@pytest.mark.parametrize("confidence", [0.0, 1.0, 95.0, float("nan")])
def test_impossible_confidence_is_refused(interval, method, confidence):
    with pytest.raises(InputError, match="confidence"):
        interval(1, 2, confidence=confidence)
