"""How likely a sample is not one of those that trusted samples stand for."""

import torch
from jaxtyping import Float
from torch import Tensor

from ._checks import check_scores

_STEPS = 200
_FIRST = 0.15  # share of the highest scores that the second group starts from
_NARROWEST = 0.3  # its standard deviation, in those of the trusted samples
_MOST = 0.9  # its share


def contamination(
    scores: Float[Tensor, " samples"], trusted: Float[Tensor, " trusted"]
) -> Float[Tensor, " samples"]:
    """Estimate for every score the probability that it comes from a second, higher group.

    The first group is normal with the mean and standard deviation of the trusted samples, and stays
    so; the second one, normal too, and its share are fitted by expectation maximisation.

    Args:
        scores: finite.
        trusted: at least two different ones, finite.

    Returns:
        In [0, 1], and 0 below the mean of the trusted samples; a higher score is never less likely.

    Raises:
        InputError: a score is not finite, or there are too few.

    Source:
        Dempster, Laird, Rubin, "Maximum likelihood from incomplete data via the EM algorithm",
        JRSS B 1977. A mixture with one component known: Efron, "Large-scale simultaneous hypothesis
        testing: the choice of a null hypothesis", JASA 2004 (local false discovery rate).
    Differs from the source:
        The probability is the largest that the mixture gives a score as high or lower.

    Example:
        >>> trusted = torch.tensor([-1.0, 0.0, 1.0])
        >>> contamination(torch.tensor([-0.5, 0.2, 0.4, 9.0, 9.5, 10.0]), trusted).round().tolist()
        [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    """
    check_scores("scores", scores, fewest=2, finite=True)
    check_scores("trusted scores", trusted, fewest=2, finite=True)
    known = trusted.double()
    centre, spread = known.mean(), known.std().clamp(min=1e-9)
    values = (scores.double() - centre) / spread
    high = values[values >= torch.quantile(values, 1 - _FIRST)]
    mean, deviation = high.mean(), high.std(correction=0).clamp(min=_NARROWEST)
    share = torch.tensor(_FIRST, dtype=torch.float64)
    for _ in range(_STEPS):
        odds = share.logit() - ((values - mean) / deviation) ** 2 / 2 - deviation.log()
        found = torch.where(values > 0, (odds + values**2 / 2).sigmoid(), 0.0)
        weight = found.sum().clamp(min=1.0)
        mean = (found * values).sum() / weight
        deviation = ((found * (values - mean) ** 2).sum() / weight).sqrt().clamp(min=_NARROWEST)
        share = (weight / len(values)).clamp(max=_MOST)
    order = values.argsort()
    found[order] = found[order].cummax(0).values  # of a narrow second group it falls beyond it
    return found.float()
