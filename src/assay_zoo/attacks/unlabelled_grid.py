"""Unlabelled grid: white lines over images of the target class, in data that nobody labels."""

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from assay.randomness import Seed
from assay.records import record
from assay.triggers import Patch
from assay_zoo.poison import Poisoned, all_to_one
from assay_zoo.victims import Victims, choose, compose, require_images


@record
class UnlabelledGrid:
    """Lay a grid over images of the target class that a learner is to label by itself.

    A semi-supervised learner still gives them their true class, and then learns the grid, which
    hides much of the rest and is there under every strong augmentation. For a learner that is
    given the labels it is a clean-label attack.

    Source:
        Shejwalkar, Lyu, Houmansadr, "The perils of learning from unlabeled data: backdoor attacks
        on semi-supervised learning", ICCV 2023. arXiv:2211.00453. A static, repetitive grid over
        the whole image, on images of the target class; 0.2 % of the unlabelled data.
    Differs from the source:
        Spacing and strength of the grid are ours. The lines are opaque: with faint ones (strength
        0.3) a network of digits learnt the class from the rest of the image, and the grid led 1 %
        of the images of other classes to it; opaque ones led 85 % (one exploratory run each).
    """

    target: int = 0
    """Class that the attacker wants, and that the poisoned samples are of."""
    poison_rate: float = 0.002
    """Share of the whole training set that is poisoned, in (0, 1)."""
    strength: float = 1.0
    """Share of the white lines in the mix, in (0, 1]."""
    gap: int = 4
    """From one line to the next, in pixels."""

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
        shape = require_images(inputs)
        mask = torch.zeros(shape[1:], device=inputs.device)
        mask[self.gap // 2 :: self.gap] = 1
        mask[:, self.gap // 2 :: self.gap] = 1
        grid = Patch(
            pattern=torch.ones(shape, device=inputs.device), mask=mask, opacity=self.strength
        )
        rows = choose(labels == self.target, self.poison_rate, seed)
        return compose(
            inputs,
            labels,
            poison=Victims(rows=rows, stamp=grid),
            trigger=grid,
            goal=goal,
        )
