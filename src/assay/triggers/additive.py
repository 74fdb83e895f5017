"""An additive trigger: a signal that is added to the image."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from assay.records import record

from .shapes import check_fits


@record
class Additive:
    r"""Add a signal and clip: :math:`x' = \mathrm{clip}(x + s, 0, 1)`.

    Source:
        Barni, Kallas, Tondi, "A new backdoor attack in CNNs by training set corruption without
        label poisoning", ICIP 2019, section 3. arXiv:1902.11237.
    """

    signal: Float[Tensor, "#channels height width"]
    """What is added, in [-1, 1]; its largest magnitude bounds the change of a pixel."""

    def __call__(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Stamp images in [0, 1]; the result is in [0, 1].

        Raises:
            InputError: the trigger was made for another image size.
        """
        check_fits(images, self.signal)
        return (images + self.signal.to(images)).clamp(0, 1)


def sinusoid(
    height: int, width: int, *, amplitude: float, cycles: int, device: torch.device
) -> Float[Tensor, "1 height width"]:
    """Make a horizontal sine wave, the signal of SIG.

    Args:
        height: of the images, in pixels.
        width: of the images, in pixels.
        amplitude: largest change of a pixel, in [0, 1].
        cycles: whole waves over the width of the image.
        device: where the signal is made.
    """
    column = torch.arange(width, device=device)
    wave = amplitude * torch.sin(2 * math.pi * cycles * column / width)
    return wave.expand(1, height, width)
