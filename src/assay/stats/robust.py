"""Location and spread that a minority of wild values cannot move."""

import torch
from jaxtyping import Float
from torch import Tensor

from ._checks import check_scores

MAD_TO_SIGMA = 1.4826
"""1 / Phi^-1(3/4): median absolute deviation to standard deviation of a normal distribution."""

MEAN_AD_TO_SIGMA = 1.2533
"""sqrt(pi / 2): the same for the mean absolute deviation."""


def median(values: Float[Tensor, " samples"]) -> Float[Tensor, ""]:
    """The median; of an even number of values, the middle between the two central ones.

    Args:
        values: at least one, all finite.

    Raises:
        InputError: there are no values, or one is not finite.

    Example:
        >>> median(torch.tensor([4.0, 1.0, 3.0, 100.0])).item()
        3.5
    """
    check_scores("values", values, finite=True)
    ordered = values.sort().values
    return torch.lerp(ordered[(len(values) - 1) // 2], ordered[len(values) // 2], 0.5)


def median_absolute_deviation(values: Float[Tensor, " samples"]) -> Float[Tensor, ""]:
    """The median distance from the median (MAD), in the unit of the values, not scaled.

    Args:
        values: at least one, all finite.

    Returns:
        At least 0, and 0 where half of the values or more are equal.

    Raises:
        InputError: there are no values, or one is not finite.

    Source:
        Hampel, "The influence curve and its role in robust estimation", JASA 1974.

    Example:
        >>> median_absolute_deviation(torch.tensor([1.0, 2.0, 3.0, 4.0, 100.0])).item()
        1.0
    """
    return median((values - median(values)).abs())


def robust_z_scores(values: Float[Tensor, " samples"]) -> Float[Tensor, " samples"]:
    """How many robust standard deviations each value lies from the median.

    Where the MAD is 0, the mean absolute deviation from the median takes its place: outliers then
    still get a finite score that grows with their distance, but several of them hide each other.
    Where that is 0 too, all values are equal and score 0.

    Args:
        values: at least one, all finite.

    Returns:
        Signed scores without unit, 0 at the median; standard normal for the bulk of normal data.

    Raises:
        InputError: there are no values, or one is not finite.

    Source:
        Iglewicz, Hoaglin, "How to detect and handle outliers", ASQC 1993, section 3.
    Differs from the source:
        What happens where the MAD is 0.

    Example:
        >>> scores = robust_z_scores(torch.tensor([1.0, 2.0, 3.0, 4.0, 100.0]))
        >>> [round(score, 1) for score in scores.tolist()]
        [-1.3, -0.7, 0.0, 0.7, 65.4]
    """
    deviations = values - median(values)
    spread = MAD_TO_SIGMA * median(deviations.abs())
    if spread == 0:
        spread = MEAN_AD_TO_SIGMA * deviations.abs().mean()
    return deviations / spread if spread > 0 else torch.zeros_like(values)
