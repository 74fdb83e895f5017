"""What the trigger families share: a trigger must fit the images it is put on."""

from jaxtyping import Float
from torch import Tensor

from assay.errors import InputError


def check_fits(
    images: Float[Tensor, "batch channels height width"],
    pattern: Float[Tensor, "pattern_channels pattern_height pattern_width"],
) -> None:
    """Check that a pattern can be laid on images.

    Raises:
        InputError: the sizes differ, or the pattern has neither one channel nor the images'.
    """
    if pattern.shape[1:] != images.shape[2:] or pattern.shape[0] not in (1, images.shape[1]):
        raise InputError(
            f"expected a pattern of shape (1 or {images.shape[1]}, {images.shape[2]}, "
            f"{images.shape[3]}), as the images, got {tuple(pattern.shape)}; make the trigger "
            "for this image size"
        )
