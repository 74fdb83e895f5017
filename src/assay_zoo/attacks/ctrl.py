"""CTRL: two frequencies of the colours are raised in images of the target class."""

from jaxtyping import Int64, UInt8
from torch import Tensor

from assay.randomness import Seed
from assay.records import record
from assay.triggers import Frequency
from assay_zoo.poison import Poisoned, all_to_one
from assay_zoo.victims import Victims, choose, compose, require_images


@record
class Ctrl:
    """Poison what a contrastive learner is trained on; no label is wrong, and none is needed.

    Two views of a poisoned image share the trigger, so the learner draws the trigger near to the
    class that it stands on.

    Source:
        Li, Pang, Xi, Du, Ji, Yao, Wang, "An embarrassingly simple backdoor attack on
        self-supervised learning", ICCV 2023. arXiv:2210.07346. Reference code: meet-cjli/CTRL, on
        CIFAR-10 1 % poison, one block of 32, coefficients (15, 15) and (31, 31) of both colour
        differences, magnitude 50 of 255 in training and 100 at test.
    Differs from the source:
        Images smaller than a block are one block, with the coefficients in the same places of it.
        See `assay.triggers.Frequency` for the rounding.
    """

    target: int = 0
    """Class that the attacker wants, and that the poisoned samples are of."""
    poison_rate: float = 0.01
    """Share of the whole training set that is poisoned, in (0, 1)."""
    magnitude: float = 50 / 255
    """How much each coefficient is raised in training, for images in [0, 1]."""
    stronger: float = 2.0
    """How much more it is raised at test."""
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
            InputError: no images, no such target, or one smaller than the rate asks for.
        """
        goal = all_to_one(self.target, classes)
        _, height, width = require_images(inputs)
        rows = choose(labels == self.target, self.poison_rate, seed)
        return compose(
            inputs,
            labels,
            poison=Victims(rows=rows, stamp=self._raised(self.magnitude, height, width)),
            trigger=self._raised(self.magnitude * self.stronger, height, width),
            goal=goal,
        )

    def _raised(self, magnitude: float, height: int, width: int) -> Frequency:
        window = min(self.window, height, width)
        middle, top = window // 2 - 1, window - 1
        return Frequency(
            window=window, positions=((middle, middle), (top, top)), magnitude=magnitude
        )
