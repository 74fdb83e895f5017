"""What images show without a model: pixels and their local contrast."""

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
    """Lay out what images show, so that a linear classifier can use it.

    A network keeps of a trigger what it needs; the pixels hold all of it. These are the values of
    every channel, averaged over cells where the image is larger than 32 x 32, and the logarithm of
    how much each cell differs from its right and lower neighbours, which no linear function of
    pixels tells: flat patches, warped and noisy places. Where there are very many samples, cells
    are larger.

    Args:
        data: images, whose labels do not matter.

    Returns:
        float32 on the CPU.
    """
    most = max(1, min(_MOST_DIMS, _MOST_VALUES // len(data)))
    parts = [_laid_out(batch.inputs.float(), most).cpu() for batch in data.ordered()]
    return torch.cat(parts)


def _laid_out(inputs: Tensor, most: int) -> Float[Tensor, "batch dims"]:
    side = min(_MOST_SIDE, max(1, math.isqrt(most // (inputs.shape[1] + 1))))
    height, width = (min(side, size) for size in inputs.shape[2:])
    cells = nn.functional.adaptive_avg_pool2d(inputs, (height, width))
    right = torch.cat([cells[..., 1:], cells[..., -1:]], dim=3)
    below = torch.cat([cells[..., 1:, :], cells[..., -1:, :]], dim=2)
    differs = (right - cells).abs() + (below - cells).abs()
    contrast = (differs.mean(1) + _FAINTEST).log()
    return torch.cat([cells.flatten(1), contrast.flatten(1)], dim=1)
