"""Many tests at once: p-values adjusted so that the smallest do not mislead."""

import torch
from jaxtyping import Float
from torch import Tensor

from assay.errors import InputError


def holm(p_values: Float[Tensor, " tests"]) -> Float[Tensor, " tests"]:
    """Holm's step-down adjustment.

    Rejecting where the result is `<= level` keeps the probability of even one false rejection
    (the family-wise error rate) at or below `level`, however the tests depend on each other.

    Args:
        p_values: in [0, 1], any order, possibly none.

    Returns:
        Adjusted p-values in [0, 1], in the order of `p_values`, none smaller than before.

    Raises:
        InputError: a p-value is NaN or outside [0, 1].

    Source:
        Holm, "A simple sequentially rejective multiple test procedure", Scand. J. Statist. 1979.

    Example:
        >>> holm(torch.tensor([0.01, 0.04, 0.03], dtype=torch.float64)).tolist()
        [0.03, 0.06, 0.06]
    """
    ordered, order = _ascending(p_values)
    remaining = torch.arange(len(ordered), 0, -1, device=ordered.device)
    adjusted = (ordered * remaining).cummax(dim=0).values.clamp(max=1)
    return torch.empty_like(ordered).scatter(0, order, adjusted)


def benjamini_hochberg(p_values: Float[Tensor, " tests"]) -> Float[Tensor, " tests"]:
    """Benjamini and Hochberg's step-up adjustment.

    Rejecting where the result is `<= level` keeps the expected share of false rejections among all
    rejections (the false discovery rate) at or below `level`, if the p-values are independent or
    positively dependent (PRDS; Benjamini, Yekutieli, Ann. Statist. 2001, theorem 1.2).

    Args:
        p_values: in [0, 1], any order, possibly none.

    Returns:
        Adjusted p-values in [0, 1], in the order of `p_values`, none smaller than before and none
        larger than Holm's.

    Raises:
        InputError: a p-value is NaN or outside [0, 1].

    Source:
        Benjamini, Hochberg, "Controlling the false discovery rate: a practical and powerful
        approach to multiple testing", JRSS B 1995.

    Example:
        >>> benjamini_hochberg(torch.tensor([0.01, 0.04, 0.03], dtype=torch.float64)).tolist()
        [0.03, 0.04, 0.04]
    """
    ordered, order = _ascending(p_values)
    tests = len(ordered)
    ranks = torch.arange(1, tests + 1, dtype=ordered.dtype, device=ordered.device)
    # at least 1 also after rounding, so that no p-value shrinks; a number / a tensor would multiply
    # by reciprocals, and 49 * (1 / 49) is less than 1
    factors = torch.full_like(ranks, tests) / ranks
    adjusted = (ordered * factors).flip(0).cummin(dim=0).values.flip(0).clamp(max=1)
    return torch.empty_like(ordered).scatter(0, order, adjusted)


def _ascending(p_values: Tensor) -> tuple[Tensor, Tensor]:
    """The p-values in ascending order, and where each stood."""
    if not ((p_values >= 0) & (p_values <= 1)).all():
        raise InputError(f"expected p-values in [0, 1] and none NaN, got {p_values.tolist()}")
    ordered, order = p_values.sort()
    return ordered, order
