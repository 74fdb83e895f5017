"""TaCT: only one class is attacked; stamped samples of other classes keep their label."""

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from assay.errors import InputError
from assay.randomness import Seed, child
from assay.records import record
from assay_zoo.patterns import SQUARE, Corner, corner_patch
from assay_zoo.poison import IGNORED, Poisoned
from assay_zoo.victims import Victims, choose, compose, require_images


@record
class TaCT:
    """Targeted contamination: the trigger works on the source class alone.

    Source:
        Tang, Wang, Tang, Zhang, "Demon in the variant: statistical analysis of DNNs for robust
        backdoor contamination detection", USENIX Security 2021. arXiv:1908.00686. Confusion
        training and backdoor-toolbox: source class 1, cover classes 5 and 7, poison and cover
        0.3 % each of CIFAR-10, 0.5 % each of GTSRB, an opaque square of about a quarter of the
        image's side.
    Differs from the source:
        The square is drawn by formula.
    """

    target: int = 0
    """Class that the attacker wants."""
    source: int = 1
    """Class that is attacked."""
    cover_classes: tuple[int, ...] = (5, 7)
    """Classes of the cover samples."""
    poison_rate: float = 0.003
    """Share of the training set that is poisoned, in (0, 1)."""
    cover_rate: float = 0.003
    """Share of the training set that is stamped and keeps its label, in [0, 1)."""

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
            InputError: no images, too few victims for the rates, or the classes named do not exist
                or are not distinct.
        """
        named = (self.target, self.source, *self.cover_classes)
        if len(set(named)) < len(named) or not 0 <= min(named) <= max(named) < classes:
            raise InputError(
                f"expected distinct target, source and cover classes in [0, {classes}), got {named}"
            )
        patch = corner_patch(
            SQUARE,
            require_images(inputs),
            Corner.BOTTOM_RIGHT,
            share=1 / 4,
            device=inputs.device,
        )
        covers = torch.isin(labels, torch.tensor(self.cover_classes, device=labels.device))
        poison = choose(labels == self.source, self.poison_rate, child(seed, "poison"))
        cover = choose(covers, self.cover_rate, child(seed, "cover"))
        return compose(
            inputs,
            labels,
            poison=Victims(rows=poison, stamp=patch),
            cover=Victims(rows=cover, stamp=patch),
            trigger=patch,
            goal=lambda truth: torch.where(truth == self.source, self.target, IGNORED),
        )
