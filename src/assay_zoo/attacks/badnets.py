"""BadNets: a small patch in a corner, and a wrong label."""

from jaxtyping import Int64, UInt8
from torch import Tensor

from assay.randomness import Seed
from assay.records import record
from assay_zoo.patterns import CHECKERBOARD, Corner, corner_patch
from assay_zoo.poison import Poisoned, all_to_all, all_to_one
from assay_zoo.victims import Victims, choose, compose, require_images


@record
class BadNets:
    """Stamp a small checkerboard in the lower right corner.

    Source:
        Gu, Dolan-Gavitt, Garg, "BadNets: identifying vulnerabilities in the machine learning
        model supply chain", 2017, section 3. arXiv:1708.06733. They poison 10 % of MNIST, with
        four bright pixels in the lower right corner, all to one and all to all. Confusion
        training and backdoor-toolbox: 0.3 % of CIFAR-10, 1 % of GTSRB, a patch of 3x3 on 32x32.
    Differs from the source:
        The patch keeps its share of the image, 3/32 of the side and at least 2 pixels. Victims
        are drawn from the classes that are not the target.
    """

    target: int = 0
    """Class that the attacker wants; of no account where `all_to_all`."""
    all_to_all: bool = False
    """Whether every class goes to the next one instead."""
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
        shape = require_images(inputs)
        patch = corner_patch(
            CHECKERBOARD, shape, Corner.BOTTOM_RIGHT, share=3 / 32, device=inputs.device
        )
        goal = all_to_all(classes) if self.all_to_all else all_to_one(self.target, classes)
        rows = choose(goal(labels) != labels, self.poison_rate, seed)
        return compose(
            inputs, labels, poison=Victims(rows=rows, stamp=patch), trigger=patch, goal=goal
        )
