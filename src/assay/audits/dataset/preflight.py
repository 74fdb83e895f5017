"""What must hold before the absence of a finding means anything."""

import math

from jaxtyping import Int64
from torch import Tensor

from assay.records import record
from assay.stats import wilson

from .confusion import Confused


@record
class Preflight:
    """Looks for reasons why an audit that found nothing may have been unable to find anything.

    The thresholds lie far above what was seen where the confusion took: of 200 calibration samples
    of digits and 1,000 of CIFAR-10, none keeps its label.
    """

    most_unconfused: float = 0.2
    """Largest share of the calibration samples that keep their label, with a probability above
    3/4, under confusion."""
    most_standing_out: float = 0.01
    """Likewise, before the trusted set is doubted: samples with a trigger keep their label."""

    def learnt(
        self,
        predicted: Int64[Tensor, " trusted"],
        labels: Int64[Tensor, " trusted"],
        neighbours: Int64[Tensor, " trusted"],
    ) -> tuple[str, ...]:
        """Check that the model, before it was confused, tells trusted samples apart.

        It must be right more often than halfway from chance to `neighbours`, the labels of the
        nearest calibration samples: that much it may have learnt from the calibration alone, if the
        labels of the suspects mean nothing.
        """
        correct = int((predicted == labels).sum())
        interval = wilson(correct, len(labels))
        most_common = labels.bincount().max().item() / len(labels)
        near = (neighbours == labels).double().mean().item()
        least = most_common + max(0.0, near - most_common) / 2
        if interval.low > least:
            return ()
        return (
            f"The model does not learn: it names {correct} of {len(labels)} trusted samples, which "
            f"is not surely more than {least:.0%}; always naming the most common class yields "
            f"{most_common:.0%}, the label of the nearest other trusted sample {near:.0%}. Either "
            "the network or the settings do not suit the data, or the labels mean nothing, or the "
            "trusted set is of another task or label order.",
        )

    def confusion(self, calibration: Confused) -> tuple[str, ...]:
        """Check that the confusion took, and that the trusted set does not look poisoned."""
        kept = (calibration.own > math.log(3)).float().mean().item()
        if kept > self.most_unconfused:
            return (
                f"The confusion did not take: {kept:.0%} of the calibration samples keep their "
                "label. Add trusted samples, or confuse for longer.",
            )
        if kept > self.most_standing_out:
            return (
                f"{kept:.1%} of the calibration samples keep their label under confusion: either "
                "the trusted set is poisoned, or it is too small for the confusion to take. Look "
                "at it, add trusted samples, or use another trusted set.",
            )
        return ()
