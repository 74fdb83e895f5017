"""What every prompt learner is."""

import abc
from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assay.errors import InputError
from assay.randomness import Seed, generator

from .backbone import Backbone
from .wording import Wording

STD = 0.02
"""Of fresh context vectors, as in the reference code of all learners."""


class Learner(nn.Module, abc.ABC):
    """Parameters that make a classifier of a frozen CLIP; they are what a provider tunes."""

    static_text = True
    """Whether the features of texts do not depend on the image."""

    @property
    @abc.abstractmethod
    def wording(self) -> Wording:
        """What the prompts of classes are made of."""

    @abc.abstractmethod
    def check(self, backbone: Backbone, classes: int) -> None:
        """Check that the parameters fit a backbone and a number of classes.

        Raises:
            InputError: they do not.
        """

    def context(
        self,
        features: Float[Tensor, "batch dims"] | None,  # noqa: ARG002
    ) -> Float[Tensor, "any context width"] | None:
        """Give the context vectors of prompts: one set for all, one a class, or one an image.

        Args:
            features: of the images, of length one; None where texts are static.
        """
        return None

    def deeper_texts(self) -> tuple[Float[Tensor, "context width"], ...]:
        """Give what replaces the context before the second layer of the text encoder, and on."""
        return ()

    def visual(self) -> tuple[Float[Tensor, "context width"], ...]:
        """Give the prompts of the image encoder, layer by layer."""
        return ()

    def of_texts(self) -> Iterable[nn.Parameter]:
        """List the parameters that the features of texts depend on."""
        return self.parameters()


def drawn(*shape: int, seed: Seed) -> Float[Tensor, "..."]:
    """Draw fresh context vectors."""
    return STD * torch.randn(shape, generator=generator(seed, torch.device("cpu")))


def embedded_words(backbone: Backbone, words: str) -> Float[Tensor, "context width"]:
    """Look up the tokens of some words, for context that starts as they do."""
    tokens = torch.tensor(list(backbone.encode(words)), device=backbone.device)
    return backbone.embed(tokens).detach().clone()


def check_shape(name: str, tensor: Tensor, wanted: tuple[int | None, ...]) -> None:
    """Check a tensor's shape, where None stands for any size above zero.

    Raises:
        InputError: it has another one.
    """
    fits = len(tensor.shape) == len(wanted) and all(
        got > 0 if want is None else got == want
        for got, want in zip(tensor.shape, wanted, strict=True)
    )
    if not fits:
        shown = ", ".join("any" if want is None else str(want) for want in wanted)
        raise InputError(
            f"expected {name!r} of shape ({shown}) for this backbone and these classes, got "
            f"{tuple(tensor.shape)}; was the prompt tuned for another backbone or other classes?"
        )
