"""A blend: a pattern that shines through the whole image."""

import torch
from jaxtyping import Float
from torch import Tensor

from assay.records import record

from .shapes import check_fits


@record
class Blend:
    r"""Mix a pattern into the whole image.

    :math:`x' = (1 - \alpha)\,x + \alpha\,p`.

    Source:
        Chen, Liu, Li, Lu, Song, "Targeted backdoor attacks on deep learning systems using data
        poisoning", 2017, section 4.2.1. arXiv:1712.05526.
    """

    pattern: Float[Tensor, "#channels height width"]
    """What is mixed in, in [0, 1]."""
    alpha: float = 0.2
    """Share of the pattern, in [0, 1]."""

    def __call__(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Stamp images in [0, 1]; the result is in [0, 1].

        Raises:
            InputError: the trigger was made for another image size.
        """
        check_fits(images, self.pattern)
        return torch.lerp(images, self.pattern.to(images), self.alpha)
