"""Blend: a picture that shines through the whole image, and a wrong label."""

from jaxtyping import Int64, UInt8
from torch import Tensor

from assay.randomness import Seed
from assay.records import record
from assay.triggers import Blend
from assay_zoo.patterns import picture
from assay_zoo.poison import Poisoned, all_to_one
from assay_zoo.victims import Victims, choose, compose, require_images


@record
class Blended:
    """Mix a picture into the whole image.

    Source:
        Chen, Liu, Li, Lu, Song, "Targeted backdoor attacks on deep learning systems using data
        poisoning", 2017, section 4.2.1. arXiv:1712.05526. They blend a cartoon or noise with
        alpha = 0.2. Confusion training and backdoor-toolbox: alpha = 0.2, 0.3 % of CIFAR-10, 1 % of
        GTSRB.
    Differs from the source:
        The cartoon is protected; a picture drawn by formula, soft background and hard shapes,
        takes its place. Victims are drawn from the classes that are not the target.
    """

    target: int = 0
    """Class that the attacker wants."""
    poison_rate: float = 0.003
    """Share of the training set that is poisoned, in (0, 1)."""
    alpha: float = 0.2
    """Share of the picture in the mix, in (0, 1]."""

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
        pattern = picture(require_images(inputs), device=inputs.device)
        blend = Blend(pattern=pattern, alpha=self.alpha)
        rows = choose(labels != self.target, self.poison_rate, seed)
        return compose(
            inputs,
            labels,
            poison=Victims(rows=rows, stamp=blend),
            trigger=blend,
            goal=goal,
        )
