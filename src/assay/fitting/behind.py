"""A model behind its preprocessing: a function of images in [0, 1]."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .feed import Preprocess
from .loop import logits_of

_PIXELS = 256 * 224**2  # that go through a model at once


class Behind(nn.Module):
    """A model with its preprocessing in front, for the training loop."""

    def __init__(self, model: nn.Module, preprocess: Preprocess, device: torch.device) -> None:
        super().__init__()
        self.model = model
        self.respond = behind(model, preprocess, device)

    def forward(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        """Give the logits of images in [0, 1]."""
        return self.respond(images)


def behind(
    model: nn.Module, preprocess: Preprocess, device: torch.device
) -> Callable[[Tensor], Tensor]:
    """Standardise and resize images as the model wants them, and ask it; differentiable.

    Args:
        model: on the device; its outputs are logits, or an object with `logits`.
        preprocess: what the model wants.
        device: where the images are.

    Returns:
        A function from images in [0, 1] to logits.
    """
    mean, std = (
        torch.tensor(values, device=device).view(1, -1, 1, 1)
        for values in (preprocess.mean, preprocess.std)
    )
    size = preprocess.size

    def respond(
        images: Float[Tensor, "batch channels height width"],
    ) -> Float[Tensor, "batch classes"]:
        pixels = images.shape[-2] * images.shape[-1] if size is None else size**2
        most = max(1, _PIXELS // pixels)
        if len(images) > most and not torch.is_grad_enabled():
            return torch.cat([respond(some) for some in images.split(most)])
        ready = (images - mean) / std
        if size is not None and tuple(ready.shape[-2:]) != (size, size):
            ready = nn.functional.interpolate(
                ready, size=(size, size), mode="bilinear", antialias=True
            )
        return logits_of(model(ready.contiguous(memory_format=torch.channels_last)))

    return respond


def answers(
    respond: Callable[[Tensor], Tensor], images: Tensor, *, batch: int = 256
) -> Float[Tensor, "images classes"]:
    """Compute logits of many images, on the CPU, without gradients."""
    with torch.no_grad():
        return torch.cat([respond(some).float().cpu() for some in images.split(batch)])
