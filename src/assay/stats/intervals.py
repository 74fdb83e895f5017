"""Confidence intervals of a proportion."""

from statistics import NormalDist

from scipy.special import betainccinv, betaincinv

from assay.errors import InputError
from assay.results import Interval


def wilson(successes: int, trials: int, *, confidence: float = 0.95) -> Interval:
    """Wilson's score interval: short, and right on average over the unknown proportion.

    Args:
        successes: in [0, trials].
        trials: at least 1.
        confidence: in (0, 1).

    Returns:
        Bounds in [0, 1] around the observed share.

    Raises:
        InputError: the counts or the confidence are out of range.

    Source:
        Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927.

    Example:
        >>> interval = wilson(8, 10)
        >>> round(interval.low, 3), round(interval.high, 3)
        (0.49, 0.943)
    """
    _check(successes, trials, confidence)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / trials
    scale = 1 + z**2 / trials
    middle = (share + z**2 / (2 * trials)) / scale
    half = z * (share * (1 - share) / trials + z**2 / (4 * trials**2)) ** 0.5 / scale
    return Interval(
        low=middle - half if successes > 0 else 0.0,
        high=middle + half if successes < trials else 1.0,
        confidence=confidence,
    )


def clopper_pearson(successes: int, trials: int, *, confidence: float = 0.95) -> Interval:
    """The exact interval: covers every proportion at least as often as `confidence` promises.

    Args:
        successes: in [0, trials].
        trials: at least 1.
        confidence: in (0, 1).

    Returns:
        Bounds in [0, 1] around the observed share.

    Raises:
        InputError: the counts or the confidence are out of range.

    Source:
        Clopper, Pearson, "The use of confidence or fiducial limits illustrated in the case of the
        binomial", Biometrika 1934.

    Example:
        >>> interval = clopper_pearson(0, 10)
        >>> interval.low, round(interval.high, 3)
        (0.0, 0.308)
    """
    _check(successes, trials, confidence)
    tail = (1 - confidence) / 2
    failures = trials - successes
    return Interval(
        low=float(betaincinv(successes, failures + 1, tail)) if successes > 0 else 0.0,
        high=float(betainccinv(successes + 1, failures, tail)) if failures > 0 else 1.0,
        confidence=confidence,
    )


def _check(successes: int, trials: int, confidence: float) -> None:
    if not 0 <= successes <= trials or trials < 1:
        raise InputError(
            f"expected 0 <= successes <= trials and at least one trial, got {successes} of {trials}"
        )
    if not 0 < confidence < 1:
        raise InputError(f"expected confidence in (0, 1), got {confidence}")
