"""FTrojan: two frequencies of the colours are raised, and a wrong label."""

from jaxtyping import Int64, UInt8
from torch import Tensor

from assay.randomness import Seed
from assay.records import record
from assay.triggers import Frequency
from assay_zoo.poison import Poisoned, all_to_one
from assay_zoo.victims import Victims, choose, compose, require_images


@record
class FTrojan:
    """Raise a middle and the highest frequency of every block, in the colour differences.

    Source:
        Wang, Yao, Xu, An, Tong, Wang, "An invisible black-box backdoor attack through frequency
        domain", ECCV 2022. arXiv:2111.10991. Reference code: FTrojanAttack/FTrojan, on CIFAR-10
        blocks of 32, coefficients (15, 15) and (31, 31), magnitude 30 of 255, 5 % poison.
        BackdoorBench: the same with 10 %.
    Differs from the source:
        Images smaller than a block are one block, with the coefficients in the same places
        of it. Images that do not have three channels are raised in all of them. See
        `assay.triggers.Frequency` for the rounding.
    """

    target: int = 0
    """Class that the attacker wants."""
    poison_rate: float = 0.05
    """Share of the training set that is poisoned, in (0, 1)."""
    magnitude: float = 30 / 255
    """How much each coefficient is raised, for images in [0, 1]."""
    window: int = 32
    """Largest side of a block, in pixels."""

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
        _, height, width = require_images(inputs)
        window = min(self.window, height, width)
        middle, top = window // 2 - 1, window - 1
        trigger = Frequency(
            window=window, positions=((middle, middle), (top, top)), magnitude=self.magnitude
        )
        rows = choose(labels != self.target, self.poison_rate, seed)
        return compose(
            inputs,
            labels,
            poison=Victims(rows=rows, stamp=trigger),
            trigger=trigger,
            goal=goal,
        )
