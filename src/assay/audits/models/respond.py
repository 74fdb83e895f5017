"""A delivered model as a function of images in [0, 1]."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assay.errors import InputError
from assay.fitting import Preprocess, logits_of
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


def behind(model: nn.Module, preprocess: Preprocess, device: torch.device) -> Respond:
    """Standardise and resize images as the model wants them, and ask it."""
    mean, std = (
        torch.tensor(values, device=device).view(1, -1, 1, 1)
        for values in (preprocess.mean, preprocess.std)
    )
    size = preprocess.size

    def respond(
        images: Float[Tensor, "batch channels height width"],
    ) -> Float[Tensor, "batch classes"]:
        ready = (images - mean) / std
        if size is not None and tuple(ready.shape[-2:]) != (size, size):
            ready = nn.functional.interpolate(
                ready, size=(size, size), mode="bilinear", antialias=True
            )
        return logits_of(model(ready.contiguous(memory_format=torch.channels_last)))

    return respond


def answers(
    respond: Respond, images: Tensor, *, batch: int = 256
) -> Float[Tensor, "images classes"]:
    """Logits of many images, on the CPU, without gradients."""
    with torch.inference_mode():
        return torch.cat([respond(some).float().cpu() for some in images.split(batch)])
