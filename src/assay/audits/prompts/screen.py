"""A first guess at all classes at once, at a price that hardly grows with their number."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from assay.triggers import margin_of


@runtime_checkable
class Classifier(Protocol):
    """A CLIP as a classifier of images in [0, 1], in two parts; differentiable."""

    def __call__(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch classes"]:
        """Give logits."""
        ...

    def image_features(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch dims"]:
        """Encode images."""
        ...

    def logits(self, features: Float[Tensor, "batch dims"]) -> Float[Tensor, "batch classes"]:
        """Compare features of images with the classes."""
        ...


def first_order_margins(
    model: Classifier,
    images: Float[Tensor, "images 3 height width"],
    *,
    classes: int,
    bound: float,
    rank: int = 64,
) -> Float[Tensor, " classes"]:
    r"""Estimate what universal noise within a bound does for every class, without searching it.

    With :math:`g_c` the gradient of the mean margin of class c in the pixels, noise of the size
    :math:`\epsilon` gains :math:`\epsilon \|g_c\|_1` to first order. All these gradients pass
    through the image encoder along few directions of its features: they are taken along the first
    principal ones, and put together for each class. So the encoder runs backward `rank` times,
    whatever the number of classes.

    Args:
        model: the classifier.
        images: a few, on its device.
        classes: how many.
        bound: of the noise, in values of an image in [0, 1].
        rank: at most so many directions.

    Returns:
        The mean margin of each class's logit over the highest other one, on the CPU.
    """
    pixels = images.clone().requires_grad_()
    features = model.image_features(pixels)
    known = features.detach().requires_grad_()
    said = model.logits(known)
    margins, pulls = [], []
    for target in range(classes):
        margin = margin_of(said, target)
        margins.append(margin.detach().mean())
        pulls.append(torch.autograd.grad(margin.sum(), known, retain_graph=True)[0])
    pull = torch.stack(pulls, dim=1)
    directions = torch.linalg.svd(pull.flatten(0, 1).float(), full_matrices=False).Vh[:rank]
    shares = pull.float() @ directions.T
    gradients = torch.stack(
        [
            torch.autograd.grad(
                (features @ direction.to(features.dtype)).sum(), pixels, retain_graph=True
            )[0].flatten(1)
            for direction in directions
        ],
        dim=1,
    )
    gain = torch.zeros(classes, device=images.device)
    for some in gradients.float().split(2**14, dim=2):
        gain += torch.einsum("icr,irp->cp", shares, some).abs().sum(1)
    return (torch.stack(margins) + bound * gain / len(images)).cpu()
