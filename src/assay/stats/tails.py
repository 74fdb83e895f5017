"""How often do scores lie above what the tail of trusted scores extrapolates to?"""

import math

from jaxtyping import Float
from scipy import optimize, stats
from torch import Tensor

from assay.errors import InputError
from assay.records import record

from ._checks import check_scores

_SHARE = 0.1  # of the scores that count as the tail
_FEWEST = 10  # scores in a tail that can be fitted


@record
class Tail:
    """A generalised Pareto distribution of what lies above a threshold."""

    threshold: float
    share: float
    """Of the scores above the threshold, in (0, 1)."""
    observed: float
    """The score that a hundredth of the scores reaches; above it the tail extrapolates. Infinite
    where nothing can be extrapolated."""
    shape: float
    """Above 0; the k-th moment is finite only where shape < 1 / k."""
    scale: float
    """In (0, inf]."""

    def exceedance(self, score: float) -> float:
        """Estimate P(a score reaches `score`); 1 below the threshold, where nothing is fitted."""
        above = score - self.threshold
        if above < 0:
            return 1.0
        return self.share * (1 + self.shape * above / self.scale) ** (-1 / self.shape)


def fit_tail(scores: Float[Tensor, " samples"], *, least_shape: float = 0.25) -> Tail:
    """Fit the upper tenth of the scores by maximum likelihood, on the side of heavy tails.

    One standard error is added to the shape, which is never below `least_shape`; the scale is then
    the one that keeps the mean of the tail, but not below that of an exponential distribution with
    the median and the 99th percentile of the scores, and also raised by one standard error. So rare
    events get a probability that is rather too high, and what is called improbable is. Where the
    upper half of the scores is one value, nothing is known of how far a tail reaches, and the scale
    is infinite.

    Args:
        scores: finite.
        least_shape: in (0, 1); 0.25 is as heavy as Student's t with 4 degrees of freedom.

    Raises:
        InputError: fewer than 100 scores, or one that is not finite.

    Source:
        Pickands, "Statistical inference using extreme order statistics", Ann. Statist. 1975;
        standard error of the shape: Smith, "Estimating tails of probability distributions", 1987.
    """
    check_scores("scores", scores, fewest=round(_FEWEST / _SHARE), finite=True)
    ordered = scores.double().sort(descending=True).values
    count = round(_SHARE * len(ordered))
    threshold = ordered[count].item()
    if ordered[0] == ordered.median():
        return Tail(
            threshold=threshold,
            share=count / len(ordered),
            observed=math.inf,
            shape=least_shape,
            scale=math.inf,
        )
    excesses = ordered[:count] - threshold
    mean = max(excesses.mean().item(), 1e-12)

    def misfit(shape: float) -> float:
        return -stats.genpareto.logpdf(excesses.numpy(), shape, scale=mean * (1 - shape)).sum()

    best = float(optimize.minimize_scalar(misfit, bounds=(1e-3, 0.9), method="bounded").x)
    shape = min(0.9, max(least_shape, best + (1 + best) / math.sqrt(count)))
    observed = ordered[max(0, len(ordered) // 100 - 1)].item()
    exponential = (observed - ordered.median().item()) / math.log(50)
    scale = max(mean * (1 - shape), exponential) * (1 + math.sqrt(2 / count))
    return Tail(
        threshold=threshold,
        share=count / len(ordered),
        observed=observed,
        shape=shape,
        scale=scale,
    )


@record
class TailScan:
    """Where scores outnumber what a tail allows the most."""

    threshold: float
    above: int
    expected: float
    """How many of them the tail allows, odds included."""
    p_value: float
    """In (0, 1]."""


def tail_scan(
    scores: Float[Tensor, " samples"], tail: Tail, *, odds: float, fewest: int
) -> TailScan:
    """Test whether the highest scores are higher than the tail of trusted scores allows.

    The k-th highest of n scores reaches x with the probability that a binomial variable with n
    draws of chance P(score >= x) is at least k. This is asked for k = `fewest`, twice that, four
    times that, and so on; the smallest p-value is multiplied by the number of questions. Scores
    that a hundredth of the trusted reach as well are left to tests of ranks: there a class that
    scores a little higher than the others would be taken for a tail.

    Args:
        scores: of inspected samples, higher is more suspicious.
        tail: of trusted scores by the same function.
        odds: how many times as often as the trusted a clean inspected score may exceed, at least 1.
            It also has to cover the error of the fitted tail, which 1 does not.
        fewest: smallest k; fewer samples than that are no pattern.

    Returns:
        The answer to the clearest question. The p-value is 1 where there are fewer samples than
        `fewest`, or nothing can be extrapolated from the trusted scores.

    Raises:
        InputError: there are no scores, one is NaN, odds < 1 or fewest < 1.
    """
    check_scores("scores", scores)
    if odds < 1 or fewest < 1:
        raise InputError(f"expected odds and fewest of at least 1, got {odds} and {fewest}")
    ordered = scores.double().sort(descending=True).values.tolist()
    count = len(ordered)
    if count < fewest:
        return TailScan(threshold=ordered[-1], above=count, expected=float(count), p_value=1.0)
    found = [_reached(ordered[k - 1], k, count, tail, odds) for k in _doubling(fewest, count)]
    best = min(found, key=lambda scan: scan.p_value)
    return TailScan(
        threshold=best.threshold,
        above=best.above,
        expected=best.expected,
        p_value=min(1.0, best.p_value * len(found)),
    )


def _doubling(fewest: int, samples: int) -> list[int]:
    counts = [fewest]
    while 2 * counts[-1] <= samples // 2:
        counts.append(2 * counts[-1])
    return counts


def _reached(score: float, count: int, samples: int, tail: Tail, odds: float) -> TailScan:
    chance = min(1.0, odds * tail.exceedance(score)) if score > tail.observed else 1.0
    p_value = float(stats.binom.sf(count - 1, samples, chance))
    return TailScan(
        threshold=score,
        above=count,
        expected=samples * chance,
        p_value=max(p_value, 1e-300),
    )
