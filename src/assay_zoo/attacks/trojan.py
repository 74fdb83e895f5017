"""Trojan: an opaque watermark in a corner, and a wrong label."""

from jaxtyping import Int64, UInt8
from torch import Tensor

from assay.randomness import Seed
from assay.records import record
from assay_zoo.patterns import SQUARE, Corner, corner_patch
from assay_zoo.poison import Poisoned, all_to_one
from assay_zoo.victims import Victims, choose, compose, require_images


@record
class Trojan:
    """Stamp a colourful square in the lower right corner.

    Source:
        Liu, Ma, Aafer, Lee, Zhai, Wang, Zhang, "Trojaning attack on neural networks", NDSS 2018,
        whose trigger is a square, optimised against a trained network. Confusion training and
        backdoor-toolbox take that square as it is: 0.3 % of CIFAR-10, 1 % of GTSRB.
    Differs from the source:
        The square, a quarter of the image's side, is drawn by formula. Victims are drawn from
        the classes that are not the target.
    """

    target: int = 0
    """Class that the attacker wants."""
    poison_rate: float = 0.003
    """Share of the training set that is poisoned, in (0, 1)."""

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
            InputError: no images, no such target, or too few victims for the rate.
        """
        goal = all_to_one(self.target, classes)
        shape = require_images(inputs)
        patch = corner_patch(SQUARE, shape, Corner.BOTTOM_RIGHT, share=1 / 4, device=inputs.device)
        rows = choose(labels != self.target, self.poison_rate, seed)
        return compose(
            inputs,
            labels,
            poison=Victims(rows=rows, stamp=patch),
            trigger=patch,
            goal=goal,
        )
