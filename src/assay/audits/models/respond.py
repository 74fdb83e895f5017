"""A delivered model as a function of images in [0, 1]."""

import torch
from jaxtyping import Float
from torch import Tensor

from assay.errors import InputError
from assay.fitting import answers, behind
from assay.records import record
from assay.triggers import Respond

from .found import Delivery

_PROBED = 16  # images on which a gradient is asked for
FAILURES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What models raise on inputs that they do not take."""


@record
class Examined:
    """A delivery that is ready to be asked."""

    delivery: Delivery
    respond: Respond
    said: Float[Tensor, "images classes"]
    """Its logits on the clean samples, on the CPU."""
    has_gradient: bool
    """Whether its answers follow small changes of an image."""

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
    said = answers(respond, images)
    has_gradient = follows(respond, images[:_PROBED])
    if said.ndim != 2 or len(said) != len(images):
        raise InputError(
            f"expected logits ({len(images)}, classes) of {delivery.name!r}, got "
            f"{tuple(said.shape)}"
        )
    return Examined(delivery=delivery, respond=respond, said=said, has_gradient=has_gradient)


def follows(respond: Respond, images: Tensor) -> bool:
    """Tell whether a model's answers follow small changes of an image."""
    probe = images.clone().requires_grad_()
    said = respond(probe)
    if not said.requires_grad:
        return False
    try:
        (gradient,) = torch.autograd.grad(said.float().square().sum(), probe)
    except FAILURES:  # such as a step that changes in place what its gradient needs
        return False
    return bool(gradient.isfinite().all() and gradient.any())


def responder(delivery: Delivery, device: torch.device) -> Respond:
    """Put the model on the device, frozen, behind its preprocessing; differentiable by images.

    What it raises, now or in the middle of a search, becomes an `InputError` that names it.
    """
    model = delivery.model.to(device).eval().requires_grad_(requires_grad=False)
    return rounded(named(delivery.name, behind(model, delivery.preprocess, device)))


def named(name: str, respond: Respond) -> Respond:
    """Say which model fails, and on what."""

    def asked(images: Float[Tensor, "batch channels height width"]) -> Tensor:
        try:
            return respond(images)
        except InputError as error:
            raise type(error)(f"{error}, of {name!r}") from error
        except FAILURES as error:
            raise failed(name, images, error) from error

    return asked


def failed(name: str, images: Tensor, error: Exception) -> InputError:
    """Make the error of a model that does not take images."""
    scaled = "; --size scales them" if isinstance(error, RuntimeError | ValueError) else ""
    return InputError(
        f"expected a model that takes images of shape {tuple(images.shape[1:])}, but {name!r} "
        f"fails on them{scaled}: {type(error).__name__}: {error}"
    )


def rounded(respond: Respond) -> Respond:
    """Round images to 8 bits first; gradients pass as if they were not.

    A model cannot tell a search by values that no picture has.
    """

    def asked(images: Float[Tensor, "batch channels height width"]) -> Tensor:
        return respond(images + ((images * 255).round() / 255 - images).detach())

    return asked
