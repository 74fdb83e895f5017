"""A reflection: a second picture, as a window pane would mirror it."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assay.errors import InputError
from assay.records import record

GAMMA = 2.2
"""Light is the value of a pixel to this power."""


@record
class Reflection:
    r"""Add the light of a reflection to a dimmed image.

    :math:`x' = \mathrm{clip}(\tau x^\gamma + r, 0, 1)^{1/\gamma}` with transmission :math:`\tau`
    and layer r; `ghost` and `out_of_focus` make layers.

    Source:
        Liu, Ma, Bailey, Lu, "Reflection backdoor: a natural backdoor attack on deep neural
        networks", ECCV 2020 (Refool), section 3.1. arXiv:2007.02343. Reference code:
        DreamtaleCore/Refool.
    """

    layer: Float[Tensor, "layers layer_channels height width"]
    """Light of the reflection, in [0, 1]; one for all images, or one an image."""
    transmission: float = 0.6
    """Share of the image's own light that is left, in (0, 1]."""

    def __call__(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Stamp images in [0, 1]; the result is in [0, 1].

        Raises:
            InputError: the layers do not fit the images.
        """
        layers, channels, *size = self.layer.shape
        fits = layers in (1, len(images)) and channels in (1, images.shape[1])
        if not fits or tuple(size) != tuple(images.shape[2:]):
            raise InputError(
                f"expected layers of shape (1 or {len(images)}, 1 or {images.shape[1]}, "
                f"{images.shape[2]}, {images.shape[3]}), as the images, "
                f"got {tuple(self.layer.shape)}"
            )
        light = self.transmission * images.clamp(min=0) ** GAMMA + self.layer.to(images)
        return light.clamp(0, 1) ** (1 / GAMMA)


def ghost(
    pictures: Float[Tensor, "layers channels height width"],
    *,
    offset: int,
    transmission: float,
    second: float = 0.35,
) -> Float[Tensor, "layers channels height width"]:
    """Mirror pictures in both faces of a thick pane: twice, the second one displaced.

    Args:
        pictures: in [0, 1].
        offset: of the second image, down and to the right, in pixels, at least 0.
        transmission: of the pane; the rest of the light is mirrored.
        second: share of the mirrored light that the displaced image gets, in [0, 1].

    Source:
        Refool, section 3.1, type III.
    Differs from the source:
        The edge is repeated where its code crops and enlarges.
    """
    light = pictures**GAMMA
    rows = (torch.arange(light.shape[2], device=light.device) - offset).clamp(min=0)
    columns = (torch.arange(light.shape[3], device=light.device) - offset).clamp(min=0)
    displaced = light[:, :, rows][:, :, :, columns]
    return (1 - transmission) * torch.lerp(light, displaced, second)


def out_of_focus(
    pictures: Float[Tensor, "layers channels height width"], *, sigma: float, transmission: float
) -> Float[Tensor, "layers channels height width"]:
    """Mirror pictures that are too near or too far to be sharp, and fade towards the edges.

    Args:
        pictures: in [0, 1].
        sigma: of the Gaussian blur, in pixels, above 0.
        transmission: of the pane.

    Source:
        Refool, section 3.1, type II; the weights are those of its code.
    Differs from the source:
        Its code lowers the reflection where the sum is too bright; here the sum is clipped.
    """
    light = _blur(_blur(pictures**GAMMA, sigma).mT, sigma).mT
    fade = [
        torch.exp(-(torch.linspace(-3, 3, size).to(light) ** 2) / 4) for size in light.shape[2:]
    ]
    return (1 - transmission / 2) * light * torch.outer(*fade)


def _blur(
    images: Float[Tensor, "layers channels height width"], sigma: float
) -> Float[Tensor, "layers channels height width"]:
    """Blur along the width, with repeated edges."""
    radius = math.ceil(2 * sigma)
    kernel = torch.exp(-(torch.arange(-radius, radius + 1).to(images) ** 2) / (2 * sigma**2))
    lines = images.reshape(-1, 1, images.shape[3])
    padded = nn.functional.pad(lines, (radius, radius), mode="replicate")
    return nn.functional.conv1d(padded, (kernel / kernel.sum())[None, None]).reshape(images.shape)
