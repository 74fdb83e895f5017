"""WaNet: the image is bent a little, with randomly bent cover samples."""

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from assay.randomness import Seed, child, generator
from assay.records import record
from assay.triggers import Warp
from assay_zoo.poison import Poisoned, all_to_one
from assay_zoo.victims import ByPlace, Victims, choose_with_cover, compose, require_images


@record
class WaNet:
    """Bend victims by one smooth field, and cover samples by the field plus noise.

    Source:
        Nguyen, Tran, "WaNet - imperceptible warping-based backdoor attack", ICLR 2021, section 3.
        arXiv:2102.10369. Reference code: VinAIResearch/Warping-based_Backdoor_Attack-release, with
        a control grid of 4x4, strength 0.5, 10 % poison and 20 % noise. Confusion training and
        backdoor-toolbox: 5 % poison, 10 % cover, drawn once.
    Differs from the source:
        The attacker does not control the training: poison and cover are drawn once, as in
        backdoor-toolbox, here from the classes that are not the target. Each cover sample has
        noise of its own, as in the reference code.
    """

    target: int = 0
    """Class that the attacker wants."""
    poison_rate: float = 0.05
    """Share of the training set that is poisoned, in (0, 1)."""
    cover_rate: float = 0.1
    """Share of the training set that is bent with noise and keeps its label, in [0, 1)."""
    control_points: int = 4
    """Points a side of the grid that the field is interpolated from."""
    strength: float = 0.5
    """Mean displacement, in half pixels."""

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
        flow = self.flow(shape, child(seed, "flow"), inputs.device)
        poison, cover = choose_with_cover(
            labels,
            target=self.target,
            poison_rate=self.poison_rate,
            cover_rate=self.cover_rate,
            seed=seed,
        )
        source = generator(child(seed, "noise"), inputs.device)
        size = (len(cover), *flow.shape[1:])
        drawn = torch.rand(size, generator=source, device=inputs.device)

        def bend(images: Tensor, places: slice) -> Tensor:
            return Warp(flow=flow + (2 * drawn[places] - 1) / _pixels(flow))(images)

        return compose(
            inputs,
            labels,
            poison=Victims(rows=poison, stamp=Warp(flow=flow)),
            cover=Victims(rows=cover, stamp=ByPlace(stamp=bend)),
            trigger=Warp(flow=flow),
            goal=goal,
        )

    def flow(
        self, shape: torch.Size, seed: Seed, device: torch.device
    ) -> Float[Tensor, "1 height width 2"]:
        """Interpolate a smooth field from random displacements of mean size 1."""
        size = (1, 2, self.control_points, self.control_points)
        points = 2 * torch.rand(size, generator=generator(seed, device), device=device) - 1
        field = nn.functional.interpolate(
            points / points.abs().mean(), size=shape[1:], mode="bicubic", align_corners=True
        ).permute(0, 2, 3, 1)
        return self.strength * field / _pixels(field)


def _pixels(field: Float[Tensor, "maps height width 2"]) -> Float[Tensor, "2"]:
    """Return (width, height), by which displacements are divided."""
    return torch.tensor([field.shape[2], field.shape[1]]).to(field)
