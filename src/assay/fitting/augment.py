"""Random shifts and mirrorings of a whole batch in one gather."""

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from assay.records import record


@record
class Augment:
    """How training images vary: the usual random crop after padding, and mirroring.

    The shift is reflected at the border. Rows of a table are never changed.
    """

    shift: float = 0.125
    """Largest shift, as a share of the height and the width, in [0, 1)."""
    share: float = 1.0
    """Share of the images that are shifted at all, in [0, 1]."""
    mirror: bool = False
    """Whether left and right are swapped in half of the images."""

    def __call__(
        self,
        images: UInt8[Tensor, "samples height width channels"],
        rows: Int64[Tensor, " batch"],
        *,
        generator: torch.Generator,
    ) -> UInt8[Tensor, "batch height width channels"]:
        """Pick `rows` of `images` and vary them; channels come last, as they lie in memory."""
        height, width = images.shape[1:3]
        moved = torch.rand((len(rows), 1), generator=generator, device=images.device) < self.share
        down = _offsets(len(rows), int(self.shift * height), generator) * moved
        right = _offsets(len(rows), int(self.shift * width), generator) * moved
        y = _reflected(down, height)
        x = _reflected(right, width)
        if self.mirror:
            flip = torch.rand((len(rows), 1), generator=generator, device=images.device) < 0.5
            x = torch.where(flip, width - 1 - x, x)
        flat = (rows[:, None, None] * height + y[:, :, None]) * width + x[:, None, :]
        picked = images.reshape(-1, images.shape[3]).index_select(0, flat.reshape(-1))
        return picked.reshape(len(rows), height, width, -1)


def _offsets(count: int, largest: int, generator: torch.Generator) -> Int64[Tensor, "batch 1"]:
    return torch.randint(
        -largest, largest + 1, (count, 1), generator=generator, device=generator.device
    )


def _reflected(offset: Int64[Tensor, "batch 1"], size: int) -> Int64[Tensor, "batch size"]:
    place = (offset + torch.arange(size, device=offset.device)).abs()
    return torch.where(place >= size, 2 * (size - 1) - place, place)
