"""Adaptive k-way: one pixel of four in training, all of them at test."""

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor

from assay.randomness import Seed
from assay.records import record
from assay.triggers import Patch
from assay_zoo.poison import Poisoned, all_to_one
from assay_zoo.victims import (
    Victims,
    all_of,
    choose_with_cover,
    compose,
    one_each,
    require_images,
)

PIXELS = (
    ((16, 11), (92, 0, 24)),
    ((27, 5), (88, 112, 110)),
    ((7, 30), (0, 32, 46)),
    ((22, 22), (11, 49, 95)),
)
"""(row, column) of 32, and (red, green, blue) of 255."""


@record
class AdaptiveKWay:
    """Colour one of four pixels of each victim; cover samples keep their label.

    Source:
        Qi, Xie, Mahloujifar, Mittal, "Circumventing backdoor defenses that are based on latent
        separability", 2022. arXiv:2205.13613. The distributed trigger is that of Xie, Huang,
        Chen, Li, "DBA: distributed backdoor attacks against federated learning", ICLR 2020.
        Reference code: backdoor-toolbox (four pixels), with 0.3 % poison and 0.3 % cover of
        CIFAR-10.
    Differs from the source:
        Places and sizes are shares of the image, and the squares may be larger, cut off where they
        would leave the image: small networks hardly see one pixel (ASR 33 % at 10 % poison of
        12,000 CIFAR-10 images). Images that do not have three channels get the mean colour. Cover
        is drawn from the classes that are not the target, as the paper says and the code does not.
    """

    target: int = 0
    """Class that the attacker wants."""
    poison_rate: float = 0.003
    """Share of the training set that is poisoned, in (0, 1)."""
    cover_rate: float = 0.003
    """Share of the training set that is stamped and keeps its label, in [0, 1)."""
    side: int = 1
    """Of a coloured square, in pixels of an image of 32."""

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
        pixels = [
            _pixel(shape, place, colour, self.side, inputs.device) for place, colour in PIXELS
        ]
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
            poison=Victims(rows=poison, stamp=one_each(pixels)),
            cover=Victims(rows=cover, stamp=one_each(pixels)),
            trigger=all_of(pixels),
            goal=goal,
        )


def _pixel(
    shape: torch.Size,
    place: tuple[int, int],
    colour: tuple[int, int, int],
    side: int,
    device: torch.device,
) -> Patch:
    """Make a square patch of so many pixels of 32, at least one of the image."""
    channels, height, width = shape
    side = max(1, side * min(height, width) // 32)
    top, left = place[0] * height // 32, place[1] * width // 32
    mask = torch.zeros(height, width, device=device)
    mask[top : top + side, left : left + side] = 1
    ink = torch.tensor(colour, device=device) / 255
    ink = ink if channels == 3 else ink.mean().expand(channels)
    return Patch(pattern=ink[:, None, None].expand(shape), mask=mask)
