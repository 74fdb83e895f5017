"""A prompt that depends on the image, made as cheap to search as one that does not."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assay.errors import InputError

from .cocoop import CoCoOp
from .prompted import Prompted

_LEAST = 0.1  # of the largest spread of a hidden unit, that a step of any unit has at least


class Linearised(nn.Module):
    r"""Approximate CoCoOp's logits without a text encoder in the loop; differentiable in images.

    What an image adds to the context is :math:`W_2 h + b_2`, with few hidden units h (a sixteenth
    of the features). So the features of class k's text are a function of h alone, which is
    replaced by its secant around the mean :math:`\bar h` of some images:

    .. math:: t_k(h) \approx t_k(\bar h) + \sum_i \frac{h_i - \bar h_i}{s_i}
              \big(t_k(\bar h + s_i e_i) - t_k(\bar h)\big)

    with s the standard deviation of h, at least a tenth of the largest one: a unit that is still on
    these images may wake under a trigger. One more encoding of all texts a hidden unit is all that
    the text encoder is asked for, however many images and steps follow.
    """

    @torch.no_grad()
    def __init__(self, prompted: Prompted, images: Float[Tensor, "images 3 height width"]) -> None:
        """Encode the texts around what some images add to the context.

        Args:
            prompted: with a `CoCoOp` as its learner; it stays as it is.
            images: two or more, on its device.

        Raises:
            InputError: it is another learner, or there are too few images.
        """
        super().__init__()
        learner = prompted.learner
        if not isinstance(learner, CoCoOp):
            raise InputError(f"expected CoCoOp, got {type(learner).__name__}")
        if len(images) < 2:
            raise InputError(f"expected two images or more, got {len(images)}")
        self.prompted = prompted
        self.hidden, last = learner.meta_net[:2], learner.meta_net[2:]
        usual = torch.cat([self.hidden(prompted.image_features(some)) for some in images.split(64)])
        middle, spread = usual.mean(0), usual.std(0)
        reach = spread.clamp(min=max(1e-6, _LEAST * spread.max().item()))
        steps = torch.cat([torch.zeros_like(reach)[None], reach.diag()])
        texts = torch.stack(
            [prompted.texts_of(learner.ctx + last(middle + step)) for step in steps]
        )
        self.middle, self.texts = middle, texts[0]
        self.slopes = (texts[1:] - texts[0]) / reach[:, None, None]

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch classes"]:
        """Compute logits, approximately."""
        return self.logits(self.image_features(images))

    def image_features(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch dims"]:
        """Encode images; of length one."""
        return self.prompted.image_features(images)

    def logits(self, features: Float[Tensor, "batch dims"]) -> Float[Tensor, "batch classes"]:
        """Compare features of images with those of the texts that they make, approximately."""
        away = self.hidden(features) - self.middle
        texts = self.texts + torch.einsum("bm,mkd->bkd", away, self.slopes)
        alike = torch.einsum("bd,bkd->bk", features, nn.functional.normalize(texts, dim=-1))
        return self.prompted.backbone.scale * alike
