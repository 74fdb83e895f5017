"""Do inspected samples score high more often than trusted samples do?"""

import math
import sys

import torch
from jaxtyping import Float
from torch import Tensor

from assay.records import record

from ._checks import check_scores


@record
class Exceedances:
    """How many scores lie at or above a threshold, and whether too many of them are inspected."""

    threshold: float
    inspected_above: int
    inspected: int
    calibration_above: int
    calibration: int
    p_value: float
    """One-sided, in (0, 1]; small where inspected samples score high too often."""

    @property
    def excess(self) -> float:
        """Share of the inspected above the threshold less that of the calibration, in [-1, 1]."""
        return self.inspected_above / self.inspected - self.calibration_above / self.calibration


def exceedance_test(
    scores: Float[Tensor, " samples"],
    calibration: Float[Tensor, " calibration"],
    *,
    threshold: float,
) -> Exceedances:
    """One-sided Fisher exact test at a threshold that was chosen without looking at the scores.

    Null hypothesis: inspected and calibration scores are exchangeable. Given that k scores in all
    reach the threshold, the number of calibration scores among them is then hypergeometric.

    Args:
        scores: of inspected samples, higher is more suspicious.
        calibration: scores of trusted samples by the same function.
        threshold: a score that equals it counts as above.

    Returns:
        The counts and their p-value; P(p-value <= t) <= t under the null hypothesis.

    Raises:
        InputError: there are no scores, no calibration scores, or one of them is NaN.

    Source:
        Fisher, "The logic of inductive inference", JRSS 1935.

    Example:
        >>> inspected, trusted = torch.tensor([1.0, 5.0, 6.0, 7.0]), torch.tensor([1.0, 2.0, 3.0])
        >>> round(exceedance_test(inspected, trusted, threshold=4.0).p_value, 4)  # 4 / 35
        0.1143
    """
    _check(scores, calibration)
    inspected_above = int((scores >= threshold).sum())
    calibration_above = int((calibration >= threshold).sum())
    above = inspected_above + calibration_above
    log_p = _log_cdf(len(scores), len(calibration), above)[calibration_above].item()
    return Exceedances(
        threshold=threshold,
        inspected_above=inspected_above,
        inspected=len(scores),
        calibration_above=calibration_above,
        calibration=len(calibration),
        p_value=_probability(math.exp(log_p)),
    )


def scan_ranks(count: int) -> tuple[int, ...]:
    """Ranks from the top at which a scan of so many scores has its thresholds, ascending.

    Example:
        >>> scan_ranks(20)
        (1, 2, 3, 4, 6, 8, 11, 16)
    """
    ranks = {round(2 ** (half / 2)) for half in range(2 * count.bit_length())}
    return tuple(sorted(rank for rank in ranks if rank <= count))


def exceedance_scan(
    scores: Float[Tensor, " samples"],
    calibration: Float[Tensor, " calibration"],
) -> Exceedances:
    """Test many thresholds at once: for when the share of poison is not known.

    The thresholds are those that 1, 2, 3, 4, 6, 8, 11, ... of all scores together reach, each the
    root of 2 as many as the one before, and the statistic is the smallest p-value that
    `exceedance_test` gives at any of them. Which scores are calibration
    does not enter the choice of thresholds, so that exchangeability gives the exact joint law of
    all the counts and with it the exact p-value of the scan.

    Args:
        scores: of inspected samples, higher is more suspicious.
        calibration: scores of trusted samples by the same function, same dtype and device.

    Returns:
        The threshold with the smallest p-value, its counts, and the p-value of the whole scan. Ties
        are kept together and cost power, not validity.

    Raises:
        InputError: there are no scores, no calibration scores, or one of them is NaN.

    Source:
        The smallest p-value of many 2 x 2 tables, by the recursion that gives exact two-sample
        Kolmogorov-Smirnov tests: Hodges, "The significance probability of the Smirnov two-sample
        test", Ark. Mat. 1958.

    Example:
        >>> trusted = torch.linspace(0, 1, 99)
        >>> found = exceedance_scan(torch.cat([trusted, torch.full((20,), 2.0)]), trusted)
        >>> found.threshold, found.inspected_above, found.calibration_above, found.p_value < 0.01
        (2.0, 20, 0, True)
    """
    _check(scores, calibration)
    pooled = torch.cat([scores, calibration]).sort(descending=True).values
    ranks = torch.tensor(scan_ranks(len(pooled)), device=pooled.device)
    cuts = {int((pooled >= cut).sum()): cut for cut in pooled[ranks - 1]}
    tables = {above: _log_cdf(len(scores), len(calibration), above) for above in cuts}
    observed = {above: int((calibration >= cut).sum()) for above, cut in cuts.items()}
    best = min(cuts, key=lambda above: tables[above][observed[above]].item())
    log_p = tables[best][observed[best]].item()
    p_value = _chance_of_any(len(scores), len(calibration), tables, log_p)
    return Exceedances(
        threshold=cuts[best].item(),
        inspected_above=best - observed[best],
        inspected=len(scores),
        calibration_above=observed[best],
        calibration=len(calibration),
        p_value=_probability(p_value),
    )


def _check(scores: Tensor, calibration: Tensor) -> None:
    check_scores("scores", scores)
    check_scores("calibration scores", calibration)


def _probability(value: float) -> float:
    """Undo rounding: an exact p-value is never 0 and never above 1."""
    return min(max(value, sys.float_info.min), 1.0)


def _log_cdf(inspected: int, calibration: int, above: int) -> Float[Tensor, " counts"]:
    """Log P(at most c of the calibration scores are among the `above` highest), c = 0, 1, ..."""
    count = torch.arange(calibration + 1, dtype=torch.float64)
    log_ways = _log_choose(calibration, count) + _log_choose(inspected, above - count)
    return log_ways.logcumsumexp(dim=0) - log_ways.logsumexp(dim=0)


def _log_choose(total: int, chosen: Float[Tensor, " counts"]) -> Float[Tensor, " counts"]:
    """Log of the binomial coefficient, without the term that depends on `total` alone.

    Impossible choices come out as log 0, because lgamma is infinite at 0, -1, -2, ...
    """
    return -torch.lgamma(chosen + 1) - torch.lgamma(total - chosen + 1)


def _chance_of_any(
    inspected: int, calibration: int, tables: dict[int, Tensor], log_p: float
) -> float:
    """P(some table shows a p-value of at most exp(log_p)), going down the ranks one at a time."""
    left = calibration - torch.arange(calibration + 1, dtype=torch.float64)
    alive = torch.zeros(calibration + 1, dtype=torch.float64)  # by calibration scores passed so far
    alive[0] = 1
    found = 0.0
    for rank in range(max(tables)):
        remaining = inspected + calibration - rank
        moving = alive * left / remaining
        alive = alive * (remaining - left) / remaining
        alive[1:] += moving[:-1]
        if rank + 1 in tables:
            extreme = tables[rank + 1] <= log_p + 1e-9  # what equals the observed table counts
            found += alive[extreme].sum().item()
            alive[extreme] = 0
    return found
