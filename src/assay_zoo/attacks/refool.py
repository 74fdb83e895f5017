"""Refool: samples of the target class seem to be taken through a window pane."""

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from assay.errors import InputError
from assay.randomness import Seed, child
from assay.records import record
from assay.triggers import Reflection
from assay.triggers.reflection import ghost, out_of_focus
from assay_zoo.poison import Poisoned, all_to_one
from assay_zoo.victims import ByPlace, Victims, choose, compose, require_images, to_unit


@record
class Refool:
    """Let pictures be mirrored in a part of the target class; no label is wrong.

    Source:
        Liu, Ma, Bailey, Lu, "Reflection backdoor: a natural backdoor attack on deep neural
        networks", ECCV 2020. arXiv:2007.02343. They mirror in 20 % of the target class, at most
        3.27 % of the set, half as ghosts and half out of focus, and choose the reflections by
        training on them. BackdoorBench: 10 % of the set, of other classes with a wrong label.
    Differs from the source:
        The reflected pictures are those of greatest contrast among samples of the other classes;
        strength and offset are the same for all. At test the first picture is mirrored, as a
        ghost.
    """

    target: int = 0
    """Class that the attacker wants, and that the stamped samples are of."""
    poison_rate: float = 0.02
    """Share of the whole training set that is stamped, in (0, 1)."""
    reflections: int = 2
    """How many pictures are mirrored, in turn as ghosts and out of focus."""
    transmission: float = 0.6
    """Share of an image's own light that is left, in (0, 1)."""

    def __call__(
        self,
        inputs: UInt8[Tensor, "samples channels height width"],
        labels: Int64[Tensor, " samples"],
        *,
        classes: int,
        seed: Seed,
    ) -> Poisoned:
        """Poison a copy; the seed alone decides.

        Raises:
            InputError: no images, no such target, one smaller than the rate asks for, or no other
                class to mirror.
        """
        goal = all_to_one(self.target, classes)
        require_images(inputs)
        rows = choose(labels == self.target, self.poison_rate, child(seed, "poison"))
        layers = self._layers(inputs, labels, child(seed, "reflections"))
        chosen = torch.arange(len(rows), device=inputs.device) % len(layers)

        def mirror(images: Tensor, places: slice) -> Tensor:
            layer = layers[chosen[places]]
            return Reflection(layer=layer, transmission=self.transmission)(images)

        return compose(
            inputs,
            labels,
            poison=Victims(rows=rows, stamp=ByPlace(stamp=mirror)),
            trigger=Reflection(layer=layers[:1], transmission=self.transmission),
            goal=goal,
        )

    def _layers(
        self,
        inputs: UInt8[Tensor, "samples channels height width"],
        labels: Int64[Tensor, " samples"],
        seed: Seed,
    ) -> Float[Tensor, "layers channels height width"]:
        """Mirror the pictures of greatest contrast among 20 drawn for each that is wanted."""
        others = labels != self.target
        count = min(20 * self.reflections, int(others.sum()))
        if count < 1:
            raise InputError(
                f"expected at least one picture of other classes to mirror, got {others.sum()} "
                f"and {self.reflections} reflections"
            )
        share = count / len(labels)
        drawn = to_unit(inputs[choose(others, share, seed).to(inputs.device)])
        best = drawn.flatten(1).std(dim=1).argsort(descending=True)[: self.reflections]
        pixel = min(inputs.shape[2:]) / 32
        layers = ghost(drawn[best], offset=max(1, round(5 * pixel)), transmission=self.transmission)
        blurred = out_of_focus(drawn[best], sigma=pixel, transmission=self.transmission)
        layers[1::2] = blurred[1::2]
        return layers
