"""A patch: a pattern that covers a part of the image."""

from jaxtyping import Float
from torch import Tensor

from assay.records import record

from .shapes import check_fits


@record
class Patch:
    r"""Cover the masked part of an image with a pattern.

    :math:`x' = x + o\,m\,(p - x)` with opacity o, mask m and pattern p.

    Source:
        Gu, Dolan-Gavitt, Garg, "BadNets: identifying vulnerabilities in the machine learning
        model supply chain", 2017. arXiv:1708.06733. The form with a mask is that of Wang et al.,
        "Neural Cleanse", S&P 2019, eq. 2.
    """

    pattern: Float[Tensor, "#channels height width"]
    """What the patch shows, in [0, 1]."""
    mask: Float[Tensor, "height width"]
    """Where it lies, in [0, 1]: 0 keeps the image, 1 shows the pattern."""
    opacity: float = 1.0
    """In [0, 1]; multiplies the mask."""

    def __call__(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Stamp images in [0, 1]; the result is in [0, 1].

        Raises:
            InputError: the trigger was made for another image size.
        """
        check_fits(images, self.pattern)
        return images + self.opacity * self.mask.to(images) * (self.pattern.to(images) - images)
