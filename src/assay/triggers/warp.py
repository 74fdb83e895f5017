"""A warp: the image is bent a little, without any added pattern."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assay.errors import InputError
from assay.records import record


@record
class Warp:
    """Resample every pixel from a displaced place, bilinearly.

    Source:
        Nguyen, Tran, "WaNet - imperceptible warping-based backdoor attack", ICLR 2021, section
        3.2. arXiv:2102.10369.
    """

    flow: Float[Tensor, "maps height width 2"]
    """Displacement (x, y) of each pixel's source, in units of half the image's width and height;
    one map for all images, or one an image. Sources outside of the image move to its edge."""

    def __call__(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Warp images in [0, 1]; the result is in [0, 1].

        Raises:
            InputError: the trigger was made for another image size or number of images.
        """
        flow = self.flow.to(images)
        if flow.shape[0] not in (1, len(images)) or flow.shape[1:3] != images.shape[2:]:
            raise InputError(
                f"expected a flow of shape (1 or {len(images)}, {images.shape[2]}, "
                f"{images.shape[3]}, 2), as the images, got {tuple(flow.shape)}"
            )
        identity = nn.functional.affine_grid(
            torch.eye(2, 3).to(images)[None], [1, 1, *images.shape[2:]], align_corners=True
        )
        grid = (identity + flow).clamp(-1, 1).expand(len(images), -1, -1, -1)
        return nn.functional.grid_sample(images, grid, align_corners=True).clamp(0, 1)
