"""Do scores fall into two groups, and where is the border?"""

import math
from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor

from assay.errors import InputError
from assay.records import record

from ._checks import check_scores

NARROWEST = 0.01
"""Smallest standard deviation of a group, as a share of that of all scores together. Without it
the likelihood has no maximum: a group may shrink onto a single score."""

TOLERANCE = 1e-8
"""The fit ends when a step gains less than this, in nats a score, or after `MOST_STEPS`."""

MOST_STEPS = 500

STARTS = (1 / 256, 1 / 64, 1 / 16, 1 / 4, 1 / 2)
"""Shares of the scores that start as a group of their own, at either end: the likelihood has many
local maxima, and a small group is found from a small start. Each start gets `TRIAL_STEPS`, and the
likeliest goes on."""

TRIAL_STEPS = 20


@record
class TwoGroups:
    """A mixture of two normal distributions, the lower group first."""

    threshold: float
    """Where both groups are equally likely, kept between their means."""
    weights: tuple[float, float]
    """Share of the scores in each group; they add up to 1."""
    means: tuple[float, float]
    deviations: tuple[float, float]
    """Standard deviations."""
    log_likelihood_ratio: float
    """Of two groups against one, in nats over all scores, at least 0. It does not follow a
    chi-squared distribution (one group is a boundary case of two): compare it with that of scores
    known to form one group."""

    @property
    def separation(self) -> float:
        """Distance of the means over the root mean square of the deviations; above 2 is apart.

        Source:
            Ashman, Bird, Zepf, "Detecting bimodality in astronomical datasets", AJ 1994, eq. 3.
        """
        spread = math.hypot(*self.deviations) / math.sqrt(2)
        return abs(self.means[1] - self.means[0]) / spread


def fit_two_groups(scores: Float[Tensor, " samples"]) -> TwoGroups:
    """Fit a mixture of two normal distributions by expectation maximisation.

    It starts from a fixed list of splits, so that the same scores always give the same answer.

    Args:
        scores: at least two of them different, all finite.

    Returns:
        The two groups, and how much better they explain the scores than one group does.

    Raises:
        InputError: a score is not finite, or all are equal.

    Source:
        Dempster, Laird, Rubin, "Maximum likelihood from incomplete data via the EM algorithm",
        JRSS B 1977. Starts: Biernacki, Celeux, Govaert, "Choosing starting values for the EM
        algorithm for getting the highest likelihood in multivariate Gaussian mixture models",
        CSDA 2003 (short runs).
    Differs from the source:
        No group gets a standard deviation below `NARROWEST` times that of all scores.

    Example:
        >>> found = fit_two_groups(torch.tensor([0.0, 0.1, 0.2, 0.1, 5.0, 5.2]))
        >>> [round(share, 3) for share in found.weights], 1 < found.threshold < 4
        ([0.667, 0.333], True)
    """
    check_scores("scores", scores, fewest=2, finite=True)
    values = scores.double()
    centre, scale = values.mean().item(), values.std(correction=0).item()
    if values.min() == values.max() or not scale > 0:  # equal ones may have a scale by rounding
        raise InputError(f"expected at least two different scores, got {len(scores)} equal ones")
    values = ((values - centre) / scale).sort().values
    trials = [_climb(values, start, steps=TRIAL_STEPS) for start in _starts(values)]
    likeliest, _ = max(trials, key=lambda trial: trial[1])
    groups, fit = _climb(values, likeliest, steps=MOST_STEPS)
    groups = groups[:, groups[1].argsort()].cpu()
    weights, means, deviations = groups.tolist()
    one_group = -(math.log(2 * math.pi) + 1) / 2
    return TwoGroups(
        threshold=centre + scale * _border(groups),
        weights=(weights[0], weights[1]),
        means=(centre + scale * means[0], centre + scale * means[1]),
        deviations=(scale * deviations[0], scale * deviations[1]),
        log_likelihood_ratio=max(0.0, len(scores) * (fit - one_group)),
    )


def _climb(
    values: Float[Tensor, " samples"], groups: Float[Tensor, "3 2"], *, steps: int
) -> tuple[Float[Tensor, "3 2"], float]:
    """Expectation maximisation: weights, means, deviations; and their log-likelihood a value."""
    before = -math.inf
    for _ in range(steps):
        log_joint = _log_joint(values, groups)
        fit = log_joint.logsumexp(dim=1).mean().item()
        if fit - before < TOLERANCE:
            break
        groups, before = _maximise(values, log_joint.softmax(dim=1)), fit
    return groups, fit


def _starts(values: Float[Tensor, " samples"]) -> Iterator[Float[Tensor, "3 2"]]:
    samples = len(values)
    ranks = torch.arange(samples, device=values.device)
    sizes = {max(round(share * samples), 1) for share in STARTS}
    for split in sorted(sizes | {samples - size for size in sizes}):
        in_upper = (ranks >= split).to(values)
        yield _maximise(values, torch.stack([1 - in_upper, in_upper], dim=1))


def _maximise(
    values: Float[Tensor, " samples"], members: Float[Tensor, "samples 2"]
) -> Float[Tensor, "3 2"]:
    sizes = members.sum(dim=0)
    means = values @ members / sizes
    variances = ((values[:, None] - means) ** 2 * members).sum(dim=0) / sizes
    return torch.stack([sizes / len(values), means, variances.sqrt().clamp(min=NARROWEST)])


def _log_joint(
    values: Float[Tensor, " samples"], groups: Float[Tensor, "3 2"]
) -> Float[Tensor, "samples 2"]:
    """Log of weight times density, for every value and group."""
    weights, means, deviations = groups
    distances = (values[:, None] - means) / deviations
    return (weights / deviations).log() - distances**2 / 2 - math.log(2 * math.pi) / 2


def _border(groups: Float[Tensor, "3 2"]) -> float:
    """Where the upper group overtakes; between the means its lead only grows, so bisect there."""
    low, high = groups[1]
    for _ in range(60):
        middle = (low + high) / 2
        lower, upper = _log_joint(middle[None], groups)[0]
        low, high = (low, middle) if upper > lower else (middle, high)
    return high.item()
