"""Could the audit of these models have found anything?"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from assay.records import record
from assay.stats import clopper_pearson

from .respond import Examined

Answers = Float[Tensor, "images _"]


@record
class Preflight:
    """Refuses a verdict where a model does not do the task that the clean samples ask for.

    The usual cause is not an attack but a wrong mean and standard deviation, another order of
    classes, or clean samples of another task.
    """

    fewest_samples: int = 200
    """Clean samples, half to search on and half to measure on."""
    most_behind: float = 0.15
    """A model whose accuracy lies this far below the best one's answers another question, or under
    another preprocessing."""

    least_apart: float = 1e-3
    """How far the logits of two models must lie apart, of their own size; those of one model that
    is stored in two forms or precisions lie closer."""

    fewest_classes: int = 4
    """Of fewer, it cannot be told which of two models is the unusual one."""

    def unfit(
        self, model: Examined, labels: Int64[Tensor, " images"], best: float, classes: int
    ) -> str:
        """Say why a model cannot be judged, or nothing.

        Args:
            model: and its logits on the clean samples.
            labels: of the samples.
            best: the highest accuracy among the deliveries, in [0, 1].
            classes: that the samples have.
        """
        said = model.said
        checks = (
            (
                classes < self.fewest_classes,
                f"expected at least {self.fewest_classes} classes, got {classes}",
            ),
            (
                said.shape[1] != classes,
                f"expected {classes} logits a sample, one a class, got {said.shape[1]}",
            ),
            (not said.isfinite().all(), "it answers NaN or infinity on clean samples"),
            (bool((said.std(0) < 1e-6).all()), "it gives the same answer to every sample"),
            (
                len(labels) < self.fewest_samples,
                f"expected at least {self.fewest_samples} clean samples, got {len(labels)}",
            ),
            (
                not model.has_gradient,
                "its answers do not follow small changes of an image, so nothing can be searched",
            ),
        )
        failed = [reason for wrong, reason in checks if wrong]
        if failed:
            return failed[0]
        right = int((said.argmax(1) == labels).sum())
        return self._implausible(right, labels, best)

    def copied(self, model: Examined, everyone: Sequence[Examined]) -> str:
        """Say which other delivery is the same model, or nothing."""
        for other in everyone:
            apart = (model.said - other.said).norm() if _alike(model, other) else torch.inf
            if other is not model and apart < self.least_apart * model.said.norm():
                return (
                    f"it answers as {other.delivery.name!r} does: a model shows nothing beside "
                    "itself; compare it with one of another training"
                )
        return ""

    def _implausible(self, right: int, labels: Int64[Tensor, " images"], best: float) -> str:
        chance = labels.bincount().max().item() / len(labels)
        if clopper_pearson(right, len(labels), confidence=0.99).low <= chance:
            return (
                f"it gets {right} of {len(labels)} clean samples right, which is no better than "
                "always giving the most frequent class: check --mean, --std and the class order"
            )
        if right / len(labels) < best - self.most_behind:
            return (
                f"it gets {right / len(labels):.1%} of the clean samples right and another model "
                f"{best:.1%}: check --mean and --std; it may be of another task"
            )
        return ""


def _alike(model: Examined, other: Examined) -> bool:
    return model.said.shape == other.said.shape


def accuracies(said: Sequence[Answers], labels: Int64[Tensor, " images"]) -> tuple[float, ...]:
    """Accuracy of each model, in [0, 1]; 0 where its answers are not of the labels' kind."""
    return tuple((each.argmax(1) == labels).double().mean().item() for each in said)
