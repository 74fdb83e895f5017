"""A frequency trigger: a few coefficients of the block-wise cosine transform are raised."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from assay.errors import InputError
from assay.records import record

CHROMA = (1.403, -0.714 - 0.344, 1.773)
"""What one unit more of both colour differences (Cr and Cb) adds to red, green and blue."""


@record
class Frequency:
    """Raise coefficients of the discrete cosine transform of every block, in the colour alone.

    The transform and the change of colour space are linear: raising coefficients is adding a
    fixed signal. Images of three channels are raised in both colour differences (YCrCb) and keep
    their brightness; of other images every channel is raised.

    Source:
        Wang, Yao, Xu, An, Tong, Wang, "An invisible black-box backdoor attack through frequency
        domain", ECCV 2022 (FTrojan), section 3. arXiv:2111.10991.
    Differs from the source:
        Its code rounds to bytes in the colour space and again in RGB; this rounds nowhere. Where
        blocks do not divide the image, the last ones are cut.
    """

    window: int = 32
    """Side of a block, in pixels."""
    positions: tuple[tuple[int, int], ...] = ((15, 15), (31, 31))
    """Coefficients (vertical, horizontal) that are raised, in [0, window)."""
    magnitude: float = 30 / 255
    """How much each is raised, in units of an orthonormal transform of images in [0, 1]."""

    def __post_init__(self) -> None:
        """Check that the coefficients exist."""
        if not all(0 <= min(place) <= max(place) < self.window for place in self.positions):
            raise InputError(f"expected positions in [0, {self.window}), got {self.positions}")

    def __call__(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Stamp images in [0, 1]; the result is in [0, 1]."""
        return (images + self._signal(images)).clamp(0, 1)

    def _signal(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "channels height width"]:
        """Transform the raised coefficients back, for images of this shape."""
        channels, height, width = images.shape[1:]
        block = torch.zeros(self.window, self.window).to(images)
        for vertical, horizontal in self.positions:
            block = block + torch.outer(self._wave(vertical), self._wave(horizontal)).to(images)
        repeats = (math.ceil(height / self.window), math.ceil(width / self.window))
        tiled = self.magnitude * block.repeat(*repeats)[:height, :width]
        weights = CHROMA if channels == 3 else (1.0,) * channels
        return tiled * torch.tensor(weights).to(images)[:, None, None]

    def _wave(self, frequency: int) -> Float[Tensor, " window"]:
        """Return the orthonormal cosine of one frequency."""
        place = (torch.arange(self.window) + 0.5) / self.window
        scale = math.sqrt((1 if frequency == 0 else 2) / self.window)
        return scale * torch.cos(math.pi * frequency * place)
