"""Centred kernel alignment."""

import torch
from jaxtyping import Float
from torch import Tensor

from assay.errors import InputError


def linear_cka(x: Float[Tensor, "samples dx"], y: Float[Tensor, "samples dy"]) -> Float[Tensor, ""]:
    r"""Linear CKA of two representations of the same samples.

    .. math:: \frac{\|Y^\top X\|_F^2}{\|X^\top X\|_F \, \|Y^\top Y\|_F}
              \text{ of centred } X \text{ and } Y

    Args:
        x: features of the first model, one row a sample.
        y: features of the second model, rows in the same order.

    Returns:
        A scalar in [0, 1], without unit; 1 means equal up to rotation and scale, and 0 is given
        where one of them does not vary.

    Raises:
        InputError: fewer than two samples.

    Source:
        Kornblith et al., "Similarity of neural network representations revisited", ICML 2019,
        eq. 5. arXiv:1905.00414

    Example:
        >>> x = torch.eye(4)
        >>> round(linear_cka(x, 3 * x).item(), 4)
        1.0
    """
    if len(x) < 2:
        raise InputError(f"expected at least two samples, got {len(x)}")
    first, second = (each.double() - each.double().mean(0) for each in (x, y))
    if max(x.shape[1], y.shape[1]) > len(x):  # the same from the kernels, which are smaller
        kernels = [first @ first.T, second @ second.T]
        shared, sizes = (kernels[0] * kernels[1]).sum(), [k.norm() for k in kernels]
    else:
        shared = (first.T @ second).square().sum()
        sizes = [(each.T @ each).norm() for each in (first, second)]
    scale = sizes[0] * sizes[1]
    vary = (x != x[:1]).any() & (y != y[:1]).any() & (scale > 0)  # rounding may give equal rows one
    return torch.where(vary, shared / scale.clamp(min=1e-300), 0.0).clamp(0, 1).to(x.dtype)
