"""What inputs are by themselves: pixels and their local contrast, or the values of rows."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assay.fitting import Feed

_MOST_SIDE = 32  # cells
_MOST_DIMS = 4096
_MOST_VALUES = 2**28  # of all samples, 1 GiB
_FAINTEST = 0.04  # contrast that counts, in standard deviations of the pixels


def appearance(data: Feed) -> Float[Tensor, "samples dims"]:
    """Lay out what a model is given, so that a linear classifier can use it.

    What a network learns of a trigger is what it needs; the pixels hold all of it. Of an image that
    is every channel, averaged over cells where it is larger than 32 x 32, and the logarithm of how
    much each cell differs from its right and lower neighbours, which no linear function of pixels
    tells: flat patches, warped and noisy places. Of rows it is their values. Where there are
    very many samples, cells are larger; of rows with more than 4,096 values, or fewer then, random
    mixtures are taken, always the same.

    Args:
        data: whose labels do not matter.

    Returns:
        float32 on the CPU.
    """
    most = max(1, min(_MOST_DIMS, _MOST_VALUES // len(data)))
    parts = [_laid_out(batch.inputs.float(), most).cpu() for batch in data.ordered()]
    return torch.cat(parts)


def _laid_out(inputs: Tensor, most: int) -> Float[Tensor, "batch dims"]:
    if inputs.ndim != 4:
        return _mixed(inputs.flatten(1), most)
    side = min(_MOST_SIDE, max(1, math.isqrt(most // (inputs.shape[1] + 1))))
    height, width = (min(side, size) for size in inputs.shape[2:])
    cells = nn.functional.adaptive_avg_pool2d(inputs, (height, width))
    right = torch.cat([cells[..., 1:], cells[..., -1:]], dim=3)
    below = torch.cat([cells[..., 1:, :], cells[..., -1:, :]], dim=2)
    differs = (right - cells).abs() + (below - cells).abs()
    contrast = (differs.mean(1) + _FAINTEST).log()
    return torch.cat([cells.flatten(1), contrast.flatten(1)], dim=1)


def _mixed(rows: Float[Tensor, "batch dims"], most: int) -> Float[Tensor, "batch some"]:
    if rows.shape[1] <= most:
        return rows
    random = torch.Generator().manual_seed(0)
    mixture = torch.randn(rows.shape[1], most, generator=random) / math.sqrt(most)
    return rows @ mixture.to(rows.device)
