"""A model of images and texts as a function of images, for one prompt."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from assay.audits.models.language import Tokenizer
from assay.audits.models.respond import FAILURES, failed, named, rounded
from assay.errors import InputError
from assay.fitting import behind
from assay.records import record
from assay.triggers import Respond

from .found import VisionTextDelivery

PICTURE = "<image>"
"""Where the picture goes in a prompt."""


def prompt_ids(tokenizer: Tokenizer, prompt: str, picture: int, count: int) -> list[int]:
    """Split a prompt, with as many tokens for the picture as the model wants.

    Args:
        tokenizer: of the model.
        prompt: with `PICTURE` in it once, or not: then the picture comes first, on a line of its
            own.
        picture: the token that stands for a part of the picture.
        count: how many parts a picture has.

    Raises:
        InputError: the prompt has more pictures than one, or nothing else.
    """
    if PICTURE not in prompt:
        prompt = f"{PICTURE}\n{prompt}"
    before, _, after = prompt.partition(PICTURE)
    if PICTURE in after or not after.strip():
        raise InputError(
            f"expected a prompt with {PICTURE} at most once and text behind it, got {prompt!r}"
        )
    return [*tokenizer.encode(before), *[picture] * count, *tokenizer.encode(after)]


@record
class Asked:
    """A delivery that is ready to be asked."""

    delivery: VisionTextDelivery
    ids: Int64[Tensor, " tokens"]
    """The prompt."""
    respond: Respond
    """Logits of the first token of the response, for images in [0, 1]; differentiable."""


def asked(
    delivery: VisionTextDelivery, prompt: str, shape: torch.Size, device: torch.device
) -> Asked:
    """Put a model on the device, frozen, behind its preprocessing and the prompt.

    Raises:
        InputError: it does not take such images, or the prompt.
    """
    model: Any = delivery.model.to(device).eval().requires_grad_(requires_grad=False)
    try:
        parts = behind(_Parts(model), delivery.preprocess, device)
        with torch.no_grad():
            count = parts(torch.zeros(1, *shape, device=device)).shape[1]
        picture = int(model.config.image_token_id)
    except FAILURES as error:
        raise failed(delivery.name, torch.empty(1, *shape), error) from error
    prompted = [*delivery.beginning, *prompt_ids(delivery.tokenizer, prompt, picture, count)]
    ids = torch.tensor(prompted, device=device)
    ask = named(delivery.name, behind(_First(model, ids), delivery.preprocess, device))
    return Asked(delivery=delivery, ids=ids, respond=rounded(ask))


def first_tokens(
    respond: Respond, images: Float[Tensor, "images channels height width"], *, at_once: int = 64
) -> Float[Tensor, "images vocabulary"]:
    """Probabilities of the first token of the response."""
    with torch.no_grad():
        return torch.cat([respond(some).float().softmax(1) for some in images.split(at_once)])


def continued(
    model: Asked, images: Float[Tensor, "images channels height width"], *, tokens: int
) -> tuple[str, ...]:
    """Say what is most likely, token by token, until a token that stands for no text."""
    own, ids = model.delivery, model.ids.expand(len(images), -1)
    picture = int(own.model.config.image_token_id)  # type: ignore[union-attr, arg-type]
    with torch.no_grad():
        for _ in range(tokens):
            respond = behind(_First(own.model, ids), own.preprocess, images.device)
            said = named(own.name, respond)(images).clone()
            said[:, picture] = -torch.inf  # a model that says it would ask for another picture
            ids = torch.cat([ids, said.argmax(1)[:, None]], dim=1)
    return tuple(_until(row, own.tokenizer) for row in ids[:, len(model.ids) :].tolist())


def _until(said: Sequence[int], tokenizer: Tokenizer) -> str:
    stop = next((i for i, token in enumerate(said) if token in tokenizer.special), len(said))
    return tokenizer.decode(said[:stop])


class _Parts(nn.Module):
    """The tokens that a picture becomes: one number of each."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixels: Tensor) -> Float[Tensor, "batch parts"]:
        found: Any = self.model.get_image_features(pixel_values=pixels)  # type: ignore[operator]
        return torch.stack(list(found.pooler_output))[..., 0]


class _First(nn.Module):
    """Logits of what follows a prompt, of standardised images."""

    ids: Tensor

    def __init__(self, model: nn.Module, ids: Int64[Tensor, "*batch tokens"]) -> None:
        """Ask the same of every image, or of each its own row."""
        super().__init__()
        self.model = model
        self.register_buffer("ids", ids, persistent=False)

    def forward(self, pixels: Tensor) -> Float[Tensor, "batch vocabulary"]:
        ids = self.ids.expand(len(pixels), -1)
        said: Any = self.model(
            input_ids=ids, pixel_values=pixels, logits_to_keep=1, use_cache=False
        )
        return said.logits[:, -1]
