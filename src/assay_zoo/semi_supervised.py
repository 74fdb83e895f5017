"""Semi-supervised classifiers: few labels, and many images that the learner labels by itself."""

import math

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor, nn

from assay.errors import InputError
from assay.fitting import Batch, Behind, Preprocess
from assay.randomness import Seed, child, generator
from assay.records import record

from .learned import minimise, some_of

UNKNOWN = -1
"""Label of an image without one."""

Images = Float[Tensor, "batch channels height width"]


@record
class FixMatch:
    """Learn from the labels there are, and from one's own of the other images, where one is sure.

    What the classifier says of an image that is moved a little becomes the image's label where its
    probability is `sure` or more, and is learned for the same image under strong augmentation.

    Source:
        Sohn et al., "FixMatch: simplifying semi-supervised learning with consistency and
        confidence", NeurIPS 2020, eqs. 3 and 4. arXiv:2001.07685.
    Differs from the source:
        The strong augmentation is rotation, shear, contrast and brightness at random and a grey
        square (Cutout), in place of RandAugment's list; twice as many unlabelled images a step as
        labelled ones, not seven times; Adam, and no moving average of the weights. A small network
        is trained for a minute.
    """

    steps: int = 300
    labelled: int = 64
    """Labelled images a step, at least 2; `minimise` gives the others."""
    sure: float = 0.95
    """Least probability of a label of one's own, in (0, 1)."""
    weight: float = 1.0
    """Of what is learned from one's own labels."""
    peak_rate: float = 0.003

    def __call__(
        self,
        model: nn.Module,
        preprocess: Preprocess,
        images: UInt8[Tensor, "samples channels height width"],
        labels: Int64[Tensor, " samples"],
        *,
        seed: Seed,
    ) -> None:
        """Train a classifier in place.

        Args:
            model: on the device of the images.
            preprocess: what it wants.
            images: all of them, with a label or without.
            labels: of those that have one; `UNKNOWN` for the others.
            seed: decides everything random.

        Raises:
            InputError: fewer than two images have a label.
        """
        known = (labels != UNKNOWN).nonzero().squeeze(1)
        if len(known) < 2:
            raise InputError(f"expected at least 2 labels, got {len(known)} of {len(labels)}")
        random = generator(child(seed, "views"), images.device)
        certain = some_of(images[known], labels[known], most=len(known), seed=child(seed, "known"))
        taught = certain.endless(self.labelled, seed=child(seed, "taught"))
        behind = Behind(model, preprocess, images.device)

        def objective(batch: Batch, _: float) -> Float[Tensor, ""]:
            given = next(taught)
            seen = torch.cat([moved(given.inputs, random), strongly(batch.inputs, random)])
            own, is_sure = self._labels(behind, moved(batch.inputs, random))
            said = behind(seen).float()
            right = nn.functional.cross_entropy(said[: len(given.targets)], given.targets)
            each = nn.functional.cross_entropy(said[len(given.targets) :], own, reduction="none")
            return right + self.weight * (each * is_sure).mean()

        everything = some_of(images, labels, most=len(images), seed=child(seed, "data"))
        minimise(
            behind,
            everything,
            objective,
            steps=self.steps,
            seed=child(seed, "train"),
            peak_rate=self.peak_rate,
        )

    @torch.no_grad()
    def _labels(
        self, behind: nn.Module, images: Images
    ) -> tuple[Int64[Tensor, " batch"], Bool[Tensor, " batch"]]:
        best = behind(images).float().softmax(1).max(1)
        return best.indices, best.values >= self.sure


def few_labels(
    labels: Int64[Tensor, " samples"],
    allowed: Bool[Tensor, " samples"],
    *,
    each: int,
    seed: Seed,
) -> Int64[Tensor, " samples"]:
    """Keep so many labels of each class, drawn at random among the allowed ones.

    Returns:
        The labels, `UNKNOWN` where they are not kept.
    """
    kept = torch.full_like(labels, UNKNOWN)
    random = generator(seed, torch.device("cpu"))
    for label in labels.unique().tolist():
        rows = ((labels == label) & allowed).nonzero().squeeze(1)
        chosen = rows[torch.randperm(len(rows), generator=random)[:each].to(rows.device)]
        kept[chosen] = label
    return kept


def moved(images: Images, random: torch.Generator) -> Images:
    """Shift every image by up to an eighth of its sides (weak augmentation)."""
    shift = 0.25 * (2 * _drawn(images, random, 2) - 1)
    unmoved = torch.eye(2, device=images.device).expand(len(images), 2, 2)
    return _mapped(images, unmoved, shift)


def strongly(images: Images, random: torch.Generator) -> Images:
    """Shift, rotate, shear and fade every image at random, and hide a square of it."""
    shift, angle, shear, contrast, light = (2 * _drawn(images, random, 6) - 1).split(
        [2, 1, 1, 1, 1], dim=1
    )
    turn = (angle * math.pi / 6).squeeze(1)
    cos, sin = turn.cos(), turn.sin()
    linear = torch.stack([cos, -sin, sin + 0.3 * shear.squeeze(1), cos], dim=1).view(-1, 2, 2)
    seen = _mapped(images, linear, 0.25 * shift)
    middle = seen.mean((1, 2, 3), keepdim=True)
    seen = middle + (1 + 0.5 * contrast)[:, :, None, None] * (seen - middle)
    return _hidden((seen + 0.2 * light[:, :, None, None]).clamp(0, 1), random)


def _hidden(images: Images, random: torch.Generator) -> Images:
    """Cover a square of half the side around a random place with grey."""
    height, width = images.shape[2:]
    place = _drawn(images, random, 2)
    down = (torch.arange(height, device=images.device) + 0.5) / height - place[:, :1]
    right = (torch.arange(width, device=images.device) + 0.5) / width - place[:, 1:]
    inside = (down.abs() < 0.25)[:, None, :, None] & (right.abs() < 0.25)[:, None, None, :]
    return torch.where(inside, 0.5, images)


def _mapped(
    images: Images, linear: Float[Tensor, "batch 2 2"], shift: Float[Tensor, "batch 2"]
) -> Images:
    affine = torch.cat([linear, shift[:, :, None]], dim=2)
    grid = nn.functional.affine_grid(affine, list(images.shape), align_corners=False)
    return nn.functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)


def _drawn(images: Images, random: torch.Generator, count: int) -> Float[Tensor, "batch _"]:
    return torch.rand(len(images), count, generator=random, device=images.device)
