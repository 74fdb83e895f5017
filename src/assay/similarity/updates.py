"""How far apart did training from the same start go?"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float64
from torch import Tensor

from assay.errors import InputError
from assay.records import record


@record
class Updates:
    """How far apart updates lie; symmetric, zero on the diagonal."""

    whole: Float64[Tensor, "models models"]
    """Of all floating point tensors as one vector; 2 where another tensor differs."""
    layers: Float64[Tensor, "models models"]
    """Root mean square over the tensors of two and more dimensions, each relative to its own
    update: what happens in a small layer counts as much as in a large one. 2 where a tensor that
    does not hold floating point numbers differs."""


_FARTHEST = 2.0
"""Of two updates of equal length that point in opposite directions."""

_ELEMENTS = 1 << 15
"""Of a tensor, taken at once: what all models hold of them stays in a processor's cache."""


def update_distances(start: Mapping[str, Tensor], ends: Sequence[Mapping[str, Tensor]]) -> Updates:
    r"""Distance of updates relative to their length, for every pair.

    .. math:: d_{ij} = \frac{\|u_i - u_j\|}{\sqrt{(\|u_i\|^2 + \|u_j\|^2) / 2}}
              \text{ with } u_i = w_i - w_0

    Args:
        start: weights that all began with. Tensors that do not hold floating point numbers (tables
            of indices, counters) have no distance: they are equal, or as far apart as can be.
        ends: weights that they ended with, of the same names and shapes, all finite.

    Returns:
        Distances without unit, in [0, 2]: about 1.4 where two updates have nothing in common, and 0
        where nothing moved.

    Raises:
        InputError: a tensor is missing, has another shape, or is not finite.

    Example:
        >>> start = {"w": torch.zeros(2)}
        >>> ends = [{"w": torch.tensor([1.0, 0.0])}, {"w": torch.tensor([0.0, 1.0])}]
        >>> round(update_distances(start, ends).whole[0, 1].item(), 4)
        1.4142
    """
    count = len(ends)
    apart, scale = (torch.zeros(count, count, dtype=torch.float64) for _ in range(2))
    differs = torch.zeros(count, count, dtype=torch.bool)
    tensors: list[Float64[Tensor, "models models"]] = []
    for name, begun in start.items():
        _check(name, begun, ends)
        if not begun.is_floating_point():
            differs |= _differ([end[name] for end in ends])
        else:
            gaps, sizes = _squares(begun, [end[name] for end in ends])
            apart += gaps
            scale += sizes
            if begun.ndim > 1:
                tensors.append(_relative(gaps, sizes))
    each = torch.stack(tensors) if tensors else torch.zeros(1, count, count, dtype=torch.float64)
    return Updates(
        whole=_relative(apart, scale).sqrt().masked_fill(differs, _FARTHEST),
        layers=each.mean(0).sqrt().masked_fill(differs, _FARTHEST),
    )


def _differ(ended: Sequence[Tensor]) -> Bool[Tensor, "models models"]:
    return torch.tensor([[not torch.equal(one, other) for other in ended] for one in ended])


def _squares(
    begun: Tensor, ended: Sequence[Tensor]
) -> tuple[Float64[Tensor, "models models"], Float64[Tensor, "models models"]]:
    """Squared distances of the updates of one tensor, and the means of their squared lengths."""
    origin, flat = begun.flatten(), [end.flatten() for end in ended]
    apart = torch.zeros(len(ended), len(ended), dtype=torch.float64)
    lengths = torch.zeros(len(ended), dtype=torch.float64)
    for first in range(0, origin.numel(), _ELEMENTS):
        part = slice(first, first + _ELEMENTS)
        moved = torch.stack([end[part] for end in flat]).double() - origin[part].double()
        lengths += moved.square().sum(1).cpu()
        # by differences: products of long vectors would leave a distance between equal ones
        gaps = torch.cdist(moved, moved, compute_mode="donot_use_mm_for_euclid_dist")
        apart += gaps.square().cpu()
    apart = apart.triu(1)
    return apart + apart.T, (lengths[:, None] + lengths) / 2


def _relative(
    gaps: Float64[Tensor, "models models"], sizes: Float64[Tensor, "models models"]
) -> Float64[Tensor, "models models"]:
    """Divide; what overflows lies as far apart as can be."""
    squares = torch.where(sizes > 0, gaps / sizes.clamp(min=1e-300), 0.0)
    return squares.nan_to_num(nan=_FARTHEST**2).clamp(max=_FARTHEST**2)


def _check(name: str, begun: Tensor, ends: Sequence[Mapping[str, Tensor]]) -> None:
    for end in ends:
        if name not in end or end[name].shape != begun.shape:
            came = tuple(end[name].shape) if name in end else "no such tensor"
            raise InputError(f"expected {name!r} of shape {tuple(begun.shape)}, got {came}")
        if not end[name].isfinite().all():
            raise InputError(f"expected finite weights, got NaN or infinity in {name!r}")
