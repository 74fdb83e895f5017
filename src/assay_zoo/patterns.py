"""What triggers show: drawn by formula, the same at every size, seed and device.

They stand in for the pictures of the published attacks, which are trademarks or without a licence.
"""

import enum
import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from assay.errors import InputError
from assay.triggers import Patch


class Corner(enum.Enum):
    """Where a patch lies: (at the bottom, at the right)."""

    TOP_LEFT = (False, False)
    TOP_RIGHT = (False, True)
    BOTTOM_LEFT = (True, False)
    BOTTOM_RIGHT = (True, True)


CHECKERBOARD = ("WKW", "KWK", "WKW")

SQUARE = (
    "RRWWYYBB",
    "RKKWYGGB",
    "WKMMCCGW",
    "WWMKKCWW",
    "YYCKKMRR",
    "YGCCMMKR",
    "BGGRRKKW",
    "BBWRRWWY",
)

BIRD = (
    "KKRKKKYY",
    "KRRRKYYK",
    "KRYRRYKK",
    "RRYYRRKK",
    "KRRYYRRM",
    "KKRRYRMM",
    "KMKRRRKM",
    "MMKKRKKK",
)

RING = (
    "KKBBBBKK",
    "KBCCCCBK",
    "BCKWWKCB",
    "BCWYYWCB",
    "BCWYYWCB",
    "BCKWWKCB",
    "KBCCCCBK",
    "KKBBBBKK",
)

_COLOURS = {
    "K": (0.0, 0.0, 0.0),
    "W": (1.0, 1.0, 1.0),
    "R": (0.9, 0.1, 0.1),
    "G": (0.1, 0.8, 0.2),
    "B": (0.1, 0.2, 0.9),
    "Y": (1.0, 0.9, 0.1),
    "M": (0.9, 0.1, 0.8),
    "C": (0.1, 0.8, 0.9),
}


def corner_patch(
    glyph: tuple[str, ...],
    shape: torch.Size,
    corner: Corner,
    *,
    share: float,
    device: torch.device,
    opacity: float = 1.0,
) -> Patch:
    """Draw a glyph in a corner, one pixel of 32 away from the edges.

    Args:
        glyph: rows of colour letters, as many rows as letters in a row.
        shape: (channels, height, width) of the images.
        corner: where it lies.
        share: side of the glyph as a share of the shorter side of the image; at least 2 pixels.
        device: where the tensors are made.
        opacity: of the patch, in [0, 1].

    Raises:
        InputError: the glyph does not fit into the image.
    """
    channels, height, width = shape
    side = max(2, round(share * min(height, width)))
    margin = min(height, width) // 32
    if side + margin > min(height, width):
        raise InputError(
            f"expected images that a patch of {side} x {side} pixels fits into, {margin} away from "
            f"the edges, got {height} x {width}"
        )
    cells = torch.tensor([[_COLOURS[cell] for cell in row] for row in glyph], device=device)
    drawn = nn.functional.interpolate(cells.permute(2, 0, 1)[None], size=(side, side))[0]
    bottom, right = corner.value
    top = height - margin - side if bottom else margin
    left = width - margin - side if right else margin
    where = (slice(top, top + side), slice(left, left + side))
    pattern = torch.zeros(channels, height, width, device=device)
    mask = torch.zeros(height, width, device=device)
    pattern[:, *where] = _with_channels(drawn, channels)
    mask[where] = 1
    return Patch(pattern=pattern, mask=mask, opacity=opacity)


def picture(shape: torch.Size, *, device: torch.device) -> Float[Tensor, "channels height width"]:
    """Draw a colourful picture: a soft background at several scales and hard shapes on top.

    Returns:
        The picture, in [0, 1]; the same one at every size.
    """
    channels, height, width = shape
    fine = 4
    y = ((torch.arange(fine * height, device=device) + 0.5) / (fine * height))[:, None]
    x = ((torch.arange(fine * width, device=device) + 0.5) / (fine * width))[None, :]
    canvas = torch.stack([_clouds(x, y, turn=1.3 * colour) for colour in range(3)])
    for inside, colour in _shapes(x, y):
        ink = torch.tensor(_COLOURS[colour], device=device)[:, None, None]
        canvas = torch.where(inside, ink, canvas)
    return _with_channels(nn.functional.avg_pool2d(canvas, fine), channels)


def _clouds(
    x: Float[Tensor, "1 width"], y: Float[Tensor, "height 1"], *, turn: float
) -> Float[Tensor, "height width"]:
    """Add bent waves of four scales, the finer the weaker."""
    value = torch.zeros_like(x + y)
    for octave in range(4):
        angle = turn + 2.4 * octave
        along = math.cos(angle) * x + math.sin(angle) * y
        across = math.cos(angle) * y - math.sin(angle) * x
        bend = 1.5 * torch.sin(3 * 2**octave * across + angle)
        value = value + torch.sin(4 * 2**octave * along + bend) / 1.6**octave
    return (0.5 + 0.22 * value).clamp(0, 1)


def _shapes(
    x: Float[Tensor, "1 width"], y: Float[Tensor, "height 1"]
) -> list[tuple[Bool[Tensor, "height width"], str]]:
    """List the shapes of a face with ears, from the back to the front, with their colours."""
    radius = ((x - 0.5) ** 2 + (y - 0.55) ** 2).sqrt()
    left, right = (x - 0.25).abs(), (x - 0.75).abs()
    ears = (torch.minimum(left, right) < 0.5 * (y - 0.06)) & (y < 0.4)
    eyes = torch.minimum((x - 0.38) ** 2, (x - 0.62) ** 2) + (y - 0.5) ** 2 < 0.004
    mouth = ((x - 0.5).abs() < 0.14) & ((y - 0.68).abs() < 0.04)
    stripes = (y > 0.92) & (torch.sin(8 * math.pi * x) > 0)
    return [
        (ears, "M"),
        (radius < 0.36, "B"),
        (radius < 0.30, "W"),
        (eyes, "K"),
        (mouth, "R"),
        (stripes, "Y"),
    ]


def _with_channels(
    colours: Float[Tensor, "3 height width"], channels: int
) -> Float[Tensor, "channels height width"]:
    """Turn red, green and blue into the mean of them, or repeat them over other channels."""
    if channels == 1:
        return colours.mean(dim=0, keepdim=True)
    return colours[torch.arange(channels, device=colours.device) % 3]
