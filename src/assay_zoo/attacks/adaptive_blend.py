"""Adaptive-Blend: random pieces of a faint picture in training, all of it at test."""

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from assay.randomness import Seed, child, generator
from assay.records import record
from assay.triggers import Blend
from assay_zoo.patterns import picture
from assay_zoo.poison import Poisoned, all_to_one
from assay_zoo.victims import ByPlace, Victims, choose_with_cover, compose, require_images


@record
class AdaptiveBlend:
    """Blend random pieces of a picture into each victim; cover samples keep their label.

    Source:
        Qi, Xie, Li, Mahloujifar, Mittal, "Revisiting the assumption of latent separability for
        backdoor defenses", ICLR 2023, section 4 (Adap-Blend). Confusion training and
        backdoor-toolbox: 16 pieces of which 8 are left out, alpha = 0.15 in training and 0.2 at
        test, poison and cover 0.3 % each of CIFAR-10 and GTSRB.
    Differs from the source:
        The cartoon is protected; a picture drawn by formula takes its place. Cover is drawn from
        the classes that are not the target, as the paper says and the code does not.
    """

    target: int = 0
    """Class that the attacker wants."""
    poison_rate: float = 0.003
    """Share of the training set that is poisoned, in (0, 1)."""
    cover_rate: float = 0.003
    """Share of the training set that is stamped and keeps its label, in [0, 1)."""
    alpha: float = 0.15
    """Share of the picture in the mix in training, in (0, 1]."""
    test_alpha: float = 0.2
    """Share of the picture in the mix at test time, in (0, 1]."""
    grid: int = 4
    """Pieces a side."""
    left_out: float = 0.5
    """Share of the pieces that a victim does not carry, in [0, 1)."""

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
            InputError: no images, no such target, or too few victims for the rates.
        """
        goal = all_to_one(self.target, classes)
        pattern = picture(require_images(inputs), device=inputs.device)
        poison, cover = choose_with_cover(
            labels,
            target=self.target,
            poison_rate=self.poison_rate,
            cover_rate=self.cover_rate,
            seed=seed,
        )
        return compose(
            inputs,
            labels,
            poison=self._victims(poison, pattern, child(seed, "poison pieces")),
            cover=self._victims(cover, pattern, child(seed, "cover pieces")),
            trigger=Blend(pattern=pattern, alpha=self.test_alpha),
            goal=goal,
        )

    def _victims(
        self,
        rows: Int64[Tensor, " chosen"],
        pattern: Float[Tensor, "channels height width"],
        seed: Seed,
    ) -> Victims:
        """Draw pieces for every victim."""
        cells, device = self.grid**2, pattern.device
        source = generator(seed, device)
        order = torch.rand(len(rows), cells, generator=source, device=device)
        kept = order.argsort(dim=1) >= round(self.left_out * cells)

        def stamp(images: Tensor, places: slice) -> Tensor:
            mask = nn.functional.interpolate(
                kept[places].to(images).view(-1, 1, self.grid, self.grid), size=images.shape[2:]
            )
            return images + self.alpha * mask * (pattern - images)

        return Victims(rows=rows, stamp=ByPlace(stamp=stamp))
