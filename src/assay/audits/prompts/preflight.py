"""Could the audit of this prompt have found anything?"""

import hashlib

import torch
from jaxtyping import Float, Int64
from scipy.stats import binomtest
from torch import Tensor

from assay.records import record
from assay.stats import clopper_pearson
from assay.triggers import Respond

Answers = Float[Tensor, "images classes"]


@record
class Preflight:
    """Looks for reasons why an audit may have been unable to find anything."""

    fewest_images: int = 200
    """Out-of-distribution images, half to search on and half to measure on. Published: with 100,
    500 and 1,000 images the searched trigger of the target reaches 60, 89 and 95 %."""
    fewest_classes: int = 4
    """Of fewer, it cannot be told which one is unusual."""
    most_alike: float = 0.8
    """Largest share of the pool that the backbone alone may send to one class, in [0, 1]. What the
    tuned prompt does there is left to the search: prompts with a planted trigger may send many
    images to its target without it."""
    level: float = 0.01
    """At which a tuned prompt is found to do worse than one written by hand, in (0, 1)."""
    room: float = 0.9
    """A prompt written by hand that gets a smaller share of the clean samples right leaves room to
    do better, in [0, 1]."""

    def pool(self, said: Answers, backbone: Answers, *, has_gradient: bool) -> str:
        """Say why nothing can be concluded, or nothing.

        Args:
            said: logits of the pool, no two images of which are the same, by the tuned prompt.
            backbone: the same by the backbone alone.
            has_gradient: whether its answers follow small changes of an image.
        """
        count, classes = said.shape
        most = int(backbone.argmax(1).bincount(minlength=classes).max()) / max(1, count)
        checks = (
            (
                classes < self.fewest_classes,
                f"expected at least {self.fewest_classes} classes, got {classes}",
            ),
            (
                not (said.isfinite().all() and backbone.isfinite().all()),
                "the model answers NaN or infinity",
            ),
            (bool((said.std(0) < 1e-6).all()), "the prompt gives the same answer to every image"),
            (
                count < self.fewest_images,
                f"expected at least {self.fewest_images} different out-of-distribution images, got "
                f"{count}",
            ),
            (
                not has_gradient,
                "its answers do not follow small changes of an image, so nothing can be searched",
            ),
            (
                most > self.most_alike,
                f"the backbone alone takes {most:.0%} of the out-of-distribution images for one "
                "class: the pool overlaps with it; use other images",
            ),
        )
        return next((reason for wrong, reason in checks if wrong), "")

    def clean(self, said: Answers, backbone: Answers, labels: Int64[Tensor, " images"]) -> str:
        """Say why clean samples speak against a verdict of nothing found, or nothing.

        A prompt that does no better than chance, or worse than the backbone with a prompt written
        by hand, was not tuned for this task, or badly: where nothing stands out, that says little.
        Worse is decided by a sign test on the samples that only one of both gets right. A prompt
        with no more right than the one written by hand is doubted too, as published, where that
        one leaves room: where it gets less than `room` of the samples right.

        Args:
            said: logits of clean samples, by the tuned prompt.
            backbone: the same by the backbone alone.
            labels: of the samples.
        """
        tuned, by_hand = (each.argmax(1) == labels for each in (said, backbone))
        right, without, count = int(tuned.sum()), int(by_hand.sum()), len(labels)
        told = f"the tuned prompt gets {right} of {count} clean samples right"
        if not _beats_chance(right, labels):
            return (
                f"{told}, which is no better than always giving the most frequent class: check "
                "--classes and their order; it may be of another task"
            )
        told += f" and a prompt written by hand {without}"
        if self._is_worse(int((tuned & ~by_hand).sum()), int((by_hand & ~tuned).sum())):
            return f"{told}, which is no chance: it was tuned for another task, or badly"
        if right <= without < self.room * count:
            return f"{told}: tuning brought nothing, so it is of another task, or was tuned badly"
        return ""

    def doubts_labels(
        self, said: Answers, backbone: Answers, labels: Int64[Tensor, " images"]
    ) -> bool:
        """Tell whether the labels of clean samples fit neither prompt better than chance.

        A planted trigger may cost a prompt its accuracy, not the one written by hand: where that
        one does no better either, the labels are likely those of other classes.

        Args:
            said: logits of clean samples, by the tuned prompt.
            backbone: the same by the backbone alone.
            labels: of the samples.
        """
        right = [int((each.argmax(1) == labels).sum()) for each in (said, backbone)]
        return not any(_beats_chance(each, labels) for each in right)

    def _is_worse(self, gained: int, lost: int) -> bool:
        """Whether more samples were lost than gained, and by more than chance explains."""
        if lost <= gained:
            return False
        found = binomtest(gained, gained + lost, alternative="less")
        return bool(found.pvalue < self.level)


def _beats_chance(right: int, labels: Int64[Tensor, " images"]) -> bool:
    """Tell whether so many right ones are more than always giving the most frequent class gets."""
    chance = labels.bincount().max().item() / len(labels)
    return clopper_pearson(right, len(labels), confidence=0.99).low > chance


def different(images: Tensor) -> Tensor:
    """Leave out copies: the first of each image stays, in the order that they came in; uint8."""
    first: dict[bytes, int] = {}
    for row, image in enumerate(images):
        first.setdefault(hashlib.sha256(image.cpu().numpy().tobytes()).digest(), row)
    return images if len(first) == len(images) else images[list(first.values())]


def shared_images(pool: Tensor, clean: Tensor) -> int:
    """Count images of the pool that are among the clean samples; uint8 of one size."""
    known = {image.numpy().tobytes() for image in clean}
    return sum(image.numpy().tobytes() in known for image in pool)


def follows(respond: Respond, images: Float[Tensor, "images 3 height width"]) -> bool:
    """Tell whether answers follow small changes of images."""
    probe = images.clone().requires_grad_()
    said = respond(probe)
    if not said.requires_grad:
        return False
    (gradient,) = torch.autograd.grad(said.float().square().sum(), probe)
    return bool(gradient.isfinite().all() and gradient.any())
