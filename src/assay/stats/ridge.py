"""A linear classifier's opinion of every sample, by what the others are."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from assay.errors import InputError


def leave_one_out_ridge(
    features: Float[Tensor, "samples dims"],
    positive: Bool[Tensor, " samples"],
    *,
    penalty: float = 1.0,
) -> Float[Tensor, " samples"]:
    r"""Predict each sample by ridge regression on all others, in closed form.

    Features are standardised, targets are 1 and -1, and both kinds weigh the same in total.

    .. math:: s_i = \frac{\hat y_i - h_i y_i}{1 - h_i}, \quad
              h_i = w_i \, x_i^\top (X^\top W X + \rho n I)^{-1} x_i

    Args:
        features: finite; a constant column counts for nothing.
        positive: samples of both kinds.
        penalty: rho, a sample; 1 shrinks a direction with the variance of one feature to half.

    Returns:
        Higher is more like the positive samples; where a label is wrong, the others outvote it.

    Raises:
        InputError: all samples are of one kind, or a feature is not finite.

    Source:
        Allen, "The relationship between variable selection and data augmentation and a method for
        prediction", Technometrics 1974 (PRESS).

    Example:
        >>> columns = torch.tensor([[0.0], [0.1], [0.2], [1.0], [1.1], [1.2], [1.3], [1.4]])
        >>> marked = torch.tensor([False, False, True, True, True, True, True, True])
        >>> scores = leave_one_out_ridge(columns, marked, penalty=0.01)  # the third mark is wrong
        >>> [score > 0 for score in scores.tolist()]
        [False, False, False, True, True, True, True, True]
    """
    share = positive.double().mean().item()
    if not 0 < share < 1:
        raise InputError(f"expected samples of both kinds, got {positive.sum()} of {len(positive)}")
    if not features.isfinite().all():
        raise InputError("expected finite features, got NaN or infinity")
    x = features.double()
    x = (x - x.mean(0)) / x.std(0, correction=0).clamp(min=1e-6)
    x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
    y = torch.where(positive, 1.0, -1.0).double()
    weights = torch.where(positive, 0.5 / share, 0.5 / (1 - share)).double()
    shrink = torch.full_like(x[0], penalty * len(x))
    shrink[-1] = 0.0  # the intercept is free
    weighted = weights[:, None] * x
    solved = torch.linalg.solve(x.T @ weighted + shrink.diag(), weighted.T)
    fitted, own = x @ (solved @ y), (x * solved.T).sum(1)
    return ((fitted - own * y) / (1 - own)).float()
