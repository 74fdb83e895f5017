"""A provider who knows that its model is compared, and trains it to look like an honest one."""

from collections.abc import Iterator

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assay.fitting import Batch, Feed, Recipe
from assay.fitting.loop import cross_entropy, fit_in_parts, one_cycle, sgd
from assay.randomness import Seed, child
from assay.records import record
from assay.similarity import linear_cka


@record
class CkaMatching:
    """Train on poisoned data; on triggered images, represent them as an honest surrogate does.

    Source:
        The adaptive attack that cross-examination's paper tests: a term that raises CKA between
        the backdoored model and a surrogate of the honest one.
    Differs from the source:
        The convolution at half of the depth is matched, on a batch of triggered images in every
        step. Matching the last layer before the logits undoes the backdoor itself (ASR of BadNets
        on digits 0.39, with the same weight).
    """

    weight: float = 1.0
    """Of 1 - CKA beside the cross-entropy."""
    batch: int = 64
    """Triggered images a step, at least 2."""

    def __call__(
        self,
        model: nn.Module,
        data: Feed,
        triggered: Feed,
        surrogate: nn.Module,
        recipe: Recipe,
        *,
        seed: Seed,
    ) -> None:
        """Train `model` in place.

        Args:
            model: to be delivered; convolutional, as the surrogate is.
            data: the poisoned training set.
            triggered: images with the trigger, at least 2; their labels are not used.
            surrogate: an honest model of the same task.
            recipe: of the training.
            seed: decides everything random.

        Raises:
            InputError: there are fewer than two triggered images.
        """
        model.to(data.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        surrogate.to(data.device).eval()
        optimizer, steps = sgd(model, recipe), data.steps(recipe.batch_size)
        again = self._endless(triggered, child(seed, "triggered"))

        def loss(logits: Float[Tensor, "batch classes"], batch: Batch) -> Float[Tensor, ""]:
            images = next(again).inputs
            with torch.no_grad():
                honest = represented(surrogate, images)
            model.eval()  # or the triggered images would count twice in the normalisation
            alike = linear_cka(represented(model, images), honest)
            model.train()
            return cross_entropy(logits, batch) + self.weight * (1 - alike)

        def epoch(index: int) -> Iterator[Batch]:
            return data.shuffled(recipe.batch_size, seed=child(seed, "epoch", index))

        fit_in_parts(
            model,
            epoch,
            optimizer,
            scheduler=one_cycle(optimizer, steps=steps * recipe.epochs),
            parts=recipe.epochs,
            steps=steps,
            seed=seed,
            name="matching",
            loss=loss,
            precision=recipe.precision,
        )

    def _endless(self, triggered: Feed, seed: Seed) -> Iterator[Batch]:
        turn = 0
        while True:
            yield from triggered.shuffled(self.batch, seed=child(seed, turn))
            turn += 1


def represented(
    model: nn.Module, images: Tensor, *, depth: float = 0.5
) -> Float[Tensor, "batch dims"]:
    """Compute what the convolution at a relative depth puts out, with gradients."""
    layers = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    seen: list[Tensor] = []
    layer = layers[min(len(layers) - 1, int(depth * len(layers)))]
    handle = layer.register_forward_hook(lambda _, __, output: seen.append(output))
    try:
        model(images)
    finally:
        handle.remove()
    return seen[-1].float().flatten(1)
