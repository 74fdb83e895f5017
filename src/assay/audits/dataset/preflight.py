"""What must hold before the absence of a finding means anything."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from assay.records import record
from assay.samples import Samples, row_digests
from assay.stats import wilson

from .confusion import Confused

_MOST_VALUES = 4096  # of a sample, for its distance to another
_MOST_SHARED = 0.5  # of the trusted rows, that may stand in the data set: some are alike by chance
_MOST_SHARED_IMAGES = 0.1  # of digits with a twentieth drawn from the data, BadNets and Blend with
# three seeds were all flagged; with a tenth or a fifth four of six, and two were inconclusive
_EXCHANGED = 0.75  # of the samples, taken for another class's in a circle, at least
_SURE = 27.0  # times the odds of chance, at which a confused model keeps a label
_NEAR = 0.1  # the share of the suspects that lie nearest to the confusing samples


@record
class Preflight:
    """Looks for reasons why an audit that found nothing may have been unable to find anything.

    In exploratory runs on clean data, hardly any calibration image keeps its label under confusion
    (none of Fashion-MNIST, at most 1 of 100 of digits, seeds 10 to 17); of digits as tables up to
    2.7 %, of news texts up to 4.6 %, and poison stands out from them all the same.
    """

    most_unconfused: float = 0.2
    """Largest share of the calibration samples that keep their label under confusion."""
    most_standing_out: float = 0.05
    """Likewise, before the trusted set is doubted. (It was 1 % first, which made clean sets of
    Fashion-MNIST and of news inconclusive and found no trusted set that was poisoned: a trigger
    that is among the confusing samples too is unlearnt with them.)"""

    most_near: float = 0.12
    """Largest share of the calibration that surely (lower end of a Wilson interval) lies nearer to
    the confusing samples than all but the nearest tenth of the suspects: above it, trusted samples
    are of another kind than the suspects. Of GTSRB, with frames of other signs as trusted samples
    than as suspects, the lower end is 0.123 to 0.146 (8 splits); of CIFAR-10, Fashion-MNIST,
    digits, breast cancer and GTSRB drawn at random, clean and poisoned, at most 0.117 in 48 splits,
    and 0.125 in a later one of digits: of 100 calibration samples, about one clean set in a hundred
    is refused. Looked at once, before suspects were drawn by the calibration's class shares."""

    def alike(
        self, calibration: Float[Tensor, " calibration"], suspects: Float[Tensor, " suspects"]
    ) -> tuple[str, ...]:
        """Check that trusted samples lie no nearer to each other than the suspects lie to them.

        If they do, because they are frames of the same scene, pictures of the same source, or of
        the same day, their scores say little of clean suspects'. Poison moves suspects away, and a
        quarter of all would have to be moved to look like this.

        Args:
            calibration: distance of each calibration sample to the nearest confusing sample.
            suspects: likewise, of some suspects.
        """
        if not len(suspects):  # of no class that calibrates: then none can be judged
            return ()
        near = int((calibration < torch.quantile(suspects, _NEAR)).sum())
        if wilson(near, len(calibration)).low <= self.most_near:
            return ()
        return (
            f"The trusted samples are of another kind than the data set: {near} of "
            f"{len(calibration)} lie nearer to other trusted samples than all but the nearest "
            f"{_NEAR:.0%} of the data set do. Draw the trusted samples at random from the data set "
            "and check them yourself, or have all frames of a scene on one side.",
        )

    def further(self, said: Confused) -> tuple[str, ...]:
        """Doubt what was not found after a longer confusion: no run shows that it would be."""
        if not said.is_further:
            return ()
        return (
            "The confusion took only when it was longer and pulled less at the labels, as large "
            "networks need it; a faint trigger may have gone with the rest. Use a smaller network, "
            "or more trusted samples.",
        )

    def apart(self, samples: Samples, trusted: Samples) -> tuple[str, ...]:
        """Check that the trusted samples are not simply samples of the data set.

        What is poisoned among them would be taken as clean. Some may stand in both, and tables of
        few values repeat rows.
        """
        given = set(zip(row_digests(samples.inputs), samples.labels.tolist(), strict=True))
        own = zip(row_digests(trusted.inputs), trusted.labels.tolist(), strict=True)
        shared = sum(each in given for each in own)
        most = _MOST_SHARED_IMAGES if samples.is_image else _MOST_SHARED
        if shared <= most * len(trusted):
            return ()
        return (
            f"{shared} of {len(trusted)} trusted samples stand in the data set too, with the same "
            "label: what is poisoned among them is taken as clean. Take them out of the data set "
            "once you have checked them, or use others.",
        )

    def learnt(
        self,
        predicted: Int64[Tensor, " trusted"],
        labels: Int64[Tensor, " trusted"],
        by_neighbour: float,
    ) -> tuple[str, ...]:
        """Check that the model, before it was confused, tells trusted samples apart.

        It must be right more often than halfway from chance to `by_neighbour`, the share of trusted
        samples that have the label of the nearest other one: that much it may have learnt from the
        calibration alone, if the labels of the suspects mean nothing.
        """
        correct = int((predicted == labels).sum())
        interval = wilson(correct, len(labels))
        most_common = labels.bincount().max().item() / len(labels)
        least = most_common + max(0.0, by_neighbour - most_common) / 2
        if interval.low > least:
            return ()
        return (
            f"The model does not learn: it names {correct} of {len(labels)} trusted samples, which "
            f"is not surely more than {least:.0%}; always naming the most common class yields "
            f"{most_common:.0%}, the label of the nearest other trusted sample {by_neighbour:.0%}. "
            "Either the network or the settings do not suit the data, or the labels mean nothing, "
            "or the trusted set is of another task or label order.",
        )

    def exchanged(
        self,
        predicted: Int64[Tensor, " trusted"],
        labels: Int64[Tensor, " trusted"],
        names: Sequence[str],
    ) -> tuple[str, ...]:
        """Check that no labels of the trusted set stand for each other's classes.

        They do where samples of a class are surely (Wilson interval) taken for those of another
        one rather than for their own, from there on in a circle, and more than three in four of
        the circle's. (Classes that look alike and have few samples may be taken for each other.)
        """
        taken, counts = {}, {}
        for label in labels.unique().tolist():
            said = predicted[labels == label]
            most = int(said.mode().values)
            counts[label] = (int((said == most).sum()), int((said == label).sum()), len(said))
            if most != label and wilson(counts[label][0], sum(counts[label][:2])).low > 0.5:
                taken[label] = most
        for start in taken:
            circle = [start]
            while taken.get(circle[-1], start) not in circle:
                circle.append(taken[circle[-1]])
            away, own, _ = (
                sum(part) for part in zip(*(counts[label] for label in circle), strict=True)
            )
            if taken.get(circle[-1]) == start and wilson(away, away + own).low > _EXCHANGED:
                told = ", ".join(
                    f"{counts[label][0]} of {counts[label][2]} of {names[label]!r} for "
                    f"{names[taken[label]]!r}"
                    for label in circle[:3]
                )
                return (
                    "Labels of the trusted set stand for other classes than in the data set: the "
                    f"model takes {told}. Put them right, or use another trusted set.",
                )
        return ()

    def confusion(self, calibration: Confused, *, classes: int) -> tuple[str, ...]:
        """Check that the confusion took, and that the trusted set does not look poisoned.

        A label is kept with a probability above 3/4; of fewer than ten classes, with more than 27
        times the odds of chance. (Of two classes, every eighth clean photograph lies above 3/4
        when the confusion has taken, because chance alone gives 1/2.)
        """
        sure = max(math.log(3), math.log(_SURE / (classes - 1)))
        kept = (calibration.own > sure).float().mean().item()
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


def nearest(
    inputs: Tensor, among: Tensor
) -> tuple[Float[Tensor, " inputs"], Int64[Tensor, " inputs"]]:
    """Find the nearest other input by the distance of standardised values, at most 4,096 of each.

    Returns:
        The distance, and the index.
    """
    step = -(-among.flatten(1).shape[1] // _MOST_VALUES)
    some, others = (values.flatten(1)[:, ::step].float() for values in (inputs, among))
    middle, spread = others.mean(0), others.std(0)
    if inputs.ndim == 4:  # pixels share one scale, and some hardly vary
        spread = spread.clamp(min=spread.mean().item() / 10)
    spread = torch.where(spread > 0, spread, 1.0)
    found = torch.cdist((some - middle) / spread, (others - middle) / spread).min(1)
    return found.values, found.indices
