"""Adaptive-Patch: one faint patch of four in training, all of them in full at test."""

from jaxtyping import Int64, UInt8
from torch import Tensor

from assay.randomness import Seed
from assay.records import record
from assay.triggers import Patch
from assay_zoo.patterns import BIRD, CHECKERBOARD, RING, SQUARE, Corner, corner_patch
from assay_zoo.poison import Poisoned, all_to_one
from assay_zoo.victims import (
    Victims,
    all_of,
    choose_with_cover,
    compose,
    one_each,
    require_images,
)

PATCHES = (
    (BIRD, Corner.TOP_LEFT, 1 / 4),
    (RING, Corner.TOP_RIGHT, 1 / 4),
    (CHECKERBOARD, Corner.BOTTOM_LEFT, 3 / 32),
    (SQUARE, Corner.BOTTOM_RIGHT, 1 / 4),
)
"""Glyph, corner and share of the image's side."""


@record
class AdaptivePatch:
    """Stamp each victim with one of four faint patches; cover samples keep their label.

    Source:
        Qi, Xie, Li, Mahloujifar, Mittal, "Revisiting the assumption of latent separability for
        backdoor defenses", ICLR 2023, section 4 (Adap-Patch). Confusion training and
        backdoor-toolbox: four patches of opacity 0.5, 0.2, 0.5 and 0.3; 0.3 % poison and 0.6 %
        cover of CIFAR-10, 0.5 % and 1 % of GTSRB; at test two of the patches, opaque.
    Differs from the source:
        Two of its patches are logos; the glyphs here are drawn by formula and lie in the four
        corners. At test all four are stamped. Cover is drawn from the classes that are not the
        target, as the paper says and the code does not.
    """

    target: int = 0
    """Class that the attacker wants."""
    poison_rate: float = 0.003
    """Share of the training set that is poisoned, in (0, 1)."""
    cover_rate: float = 0.006
    """Share of the training set that is stamped and keeps its label, in [0, 1)."""
    opacities: tuple[float, float, float, float] = (0.5, 0.2, 0.5, 0.3)
    """Of the four patches in training, each in (0, 1]."""
    test_opacity: float = 1.0
    """Of all patches at test time, in (0, 1]."""

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
        shape = require_images(inputs)

        def patches(opacities: tuple[float, ...]) -> list[Patch]:
            return [
                corner_patch(
                    glyph, shape, corner, share=share, device=inputs.device, opacity=opacity
                )
                for (glyph, corner, share), opacity in zip(PATCHES, opacities, strict=True)
            ]

        poison, cover = choose_with_cover(
            labels,
            target=self.target,
            poison_rate=self.poison_rate,
            cover_rate=self.cover_rate,
            seed=seed,
        )
        faint = one_each(patches(self.opacities))
        return compose(
            inputs,
            labels,
            poison=Victims(rows=poison, stamp=faint),
            cover=Victims(rows=cover, stamp=faint),
            trigger=all_of(patches((self.test_opacity,) * len(PATCHES))),
            goal=goal,
        )
