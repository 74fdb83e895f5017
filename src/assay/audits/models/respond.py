"""A delivered model as a function of images in [0, 1]."""

import torch
from jaxtyping import Float
from torch import Tensor

from assay.errors import InputError
from assay.fitting import answers, behind
from assay.records import record
from assay.triggers import Respond

from .found import Delivery


@record
class Examined:
    """A delivery that is ready to be asked."""

    delivery: Delivery
    respond: Respond
    said: Float[Tensor, "images classes"]
    """Its logits on the clean samples, on the CPU."""

    @property
    def scale(self) -> float:
        """Mean margin between its two highest logits: the unit of its margins."""
        best = self.said.topk(2, dim=1).values
        return max(1e-6, (best[:, 0] - best[:, 1]).mean().item())


def examined(delivery: Delivery, images: Tensor) -> Examined:
    """Put a model where the images are, and ask it about them.

    Raises:
        InputError: it does not take such images, or answers something else than logits.
    """
    respond = responder(delivery, images.device)
    try:
        said = answers(respond, images)
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise InputError(
            f"expected a model that takes images of shape {tuple(images.shape[1:])}, but "
            f"{delivery.name!r} fails on them; --size scales them: {error}"
        ) from error
    if said.ndim != 2:
        raise InputError(
            f"expected logits (samples, classes) of {delivery.name!r}, got {tuple(said.shape)}"
        )
    return Examined(delivery=delivery, respond=respond, said=said)


def responder(delivery: Delivery, device: torch.device) -> Respond:
    """Put the model on the device, frozen, behind its preprocessing; differentiable by images."""
    model = delivery.model.to(device).eval().requires_grad_(requires_grad=False)
    return behind(model, delivery.preprocess, device)
