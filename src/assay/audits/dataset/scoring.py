"""From what a confused model says of every sample to its score."""

import torch
from jaxtyping import Float
from torch import Tensor

from assay.samples import Samples

from .confusion import Confused
from .decision import Scored
from .settings import DatasetSettings


def scored(
    said: Confused,
    *,
    known: Float[Tensor, " mixed"],
    samples: Samples,
    mixed_in: Samples,
    settings: DatasetSettings,
) -> tuple[Scored, Scored]:
    """Score the suspects and the calibration."""
    cut = len(samples)
    scores = standardised(
        said, known, slice(cut, None), other_from=settings.other_from, doubt=settings.doubt
    )
    return (
        Scored(scores=scores[:cut], labels=samples.labels),
        Scored(scores=scores[cut:], labels=mixed_in.labels),
    )


def standardised(
    said: Confused,
    known: Float[Tensor, " samples"],
    calibration: slice,
    *,
    other_from: float,
    doubt: float,
) -> Float[Tensor, " samples"]:
    """Join what the model says, confused and before, into one score: what stands out counts.

    Each is shifted and scaled so that the median of the calibration is 0 and its 99th percentile
    is 1 (of `known`, the 1st percentile is -1).

    Args:
        said: odds of the confused model. A trigger that contradicts the label (all-to-all attacks,
            cover samples) makes it sure of another label than the given one.
        known: log-odds of the given label before the confusion. Where cover samples teach that the
            trigger alone decides nothing, the poison is learnt late, and the model hardly sure of
            it; of clean samples this says nothing about how much the confusion leaves of them.
        calibration: where trusted samples lie.
        other_from: is taken from the odds of other labels, so that they add nothing to the scores
            of ordinary samples, in which faint triggers would be lost.
        doubt: the weight of `known`.
    """
    own = _scaled(said.own, calibration, to=0.99)
    other = _scaled(said.other, calibration, to=0.99)
    sure = _scaled(known, calibration, to=0.01).clamp(-1, 1)
    return torch.maximum(own - doubt * sure, other - other_from)


def _scaled(
    odds: Float[Tensor, " samples"], calibration: slice, *, to: float
) -> Float[Tensor, " samples"]:
    """Count from the median of the calibration, in its distance from a quantile."""
    middle = odds[calibration].median()
    far = torch.quantile(odds[calibration].double(), to).float()
    return (odds - middle) / (far - middle).abs().clamp(min=1e-6)
