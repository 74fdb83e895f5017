"""How far values stand out from their like, with a spread that few values cannot get wrong."""

import math

import torch
from jaxtyping import Bool, Float, Float64
from scipy.stats import t as student
from torch import Tensor

from assay.errors import InputError

from .robust import MAD_TO_SIGMA, median, median_absolute_deviation


def moderated_excess(
    values: Float[Tensor, " candidates"],
    typical: Bool[Tensor, " candidates"],
    *,
    usual: float,
    prior: float,
    most: float = math.inf,
) -> Float[Tensor, " candidates"]:
    r"""How many standard deviations each value lies above the median of the typical ones.

    .. math:: \frac{v - \operatorname{median} v}{s}, \quad
              s^2 = \frac{d_0 u^2 + n \hat\sigma^2}{d_0 + n}

    with n typical values, their scaled median absolute deviation :math:`\hat\sigma`, the usual
    spread u, and d_0 the number of values that it counts as much as.

    Args:
        values: all finite.
        typical: which of them show the spread; at least one.
        usual: spread that such values have elsewhere, in their unit, above 0.
        prior: how many values' worth it counts, at least 0.
        most: how wide the values' own spread is taken to be at most, in their unit.

    Returns:
        Without unit; higher stands out more.

    Raises:
        InputError: no value is typical, or `usual` or `prior` is out of range.

    Source:
        Smyth, "Linear models and empirical Bayes methods for assessing differential expression",
        2004, eq. 1.
    Differs from the source:
        A median absolute deviation in the place of the variance, so that what stands out does not
        widen the spread that it is compared with.

    Example:
        >>> some = torch.tensor([0.0, 1.0, 2.0, 9.0])
        >>> moderated_excess(some, torch.ones(4, dtype=torch.bool), usual=1.0, prior=1e9)[3].item()
        7.5
    """
    if not typical.any():
        raise InputError("expected at least one typical value")
    if usual <= 0 or prior < 0:
        raise InputError(f"expected usual > 0 and prior >= 0, got {usual} and {prior}")
    some = values[typical]
    spread = (MAD_TO_SIGMA * median_absolute_deviation(some)).clamp(max=most)
    noise = ((prior * usual**2 + len(some) * spread**2) / (prior + len(some))).sqrt()
    return (values - median(some)) / noise.clamp(min=1e-12)


def excess_p_values(
    excess: Float[Tensor, " candidates"], *, freedom: float
) -> Float64[Tensor, " candidates"]:
    """One-sided p-values of an excess by Student's t with so many degrees of freedom."""
    return torch.from_numpy(student.sf(excess.double().cpu().numpy(), df=freedom))
