"""How well scores rank positives above negatives."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from assay.errors import InputError

from ._checks import check_scores


def auroc(scores: Float[Tensor, " samples"], positive: Bool[Tensor, " samples"]) -> float:
    """Area under the ROC curve: how often a positive outscores a negative, ties counted half.

    Args:
        scores: higher should mean positive.
        positive: the truth; at least one positive and one negative.

    Returns:
        In [0, 1]; 1 ranks perfectly, 0.5 tells nothing.

    Raises:
        InputError: a score is NaN, or there are no positives or no negatives.

    Source:
        Hanley, McNeil, "The meaning and use of the area under a receiver operating characteristic
        (ROC) curve", Radiology 1982.

    Example:
        >>> auroc(torch.tensor([0.1, 0.4, 0.4, 0.9]), torch.tensor([False, False, True, True]))
        0.875
    """
    positives, negatives = _split(scores, positive)
    beaten = torch.searchsorted(negatives, positives).sum()
    beaten_or_tied = torch.searchsorted(negatives, positives, right=True).sum()
    return int(beaten + beaten_or_tied) / (2 * len(positives) * len(negatives))


def tpr_at_fpr(
    scores: Float[Tensor, " samples"], positive: Bool[Tensor, " samples"], *, max_fpr: float
) -> float:
    """The largest true positive rate of a threshold whose false positive rate is allowed.

    Args:
        scores: higher should mean positive.
        positive: the truth; at least one positive and one negative.
        max_fpr: in [0, 1].

    Returns:
        In [0, 1].

    Raises:
        InputError: a score is NaN, there are no positives or no negatives, or `max_fpr` is out of
            range.

    Example:
        >>> scores, truth = torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.tensor([0, 1, 0, 1]).bool()
        >>> tpr_at_fpr(scores, truth, max_fpr=0.0), tpr_at_fpr(scores, truth, max_fpr=0.5)
        (0.5, 1.0)
    """
    if not 0 <= max_fpr <= 1:
        raise InputError(f"expected max_fpr in [0, 1], got {max_fpr}")
    positives, negatives = _split(scores, positive)
    rates = torch.arange(len(negatives) + 1, dtype=torch.float64) / len(negatives)
    allowed = int((rates <= max_fpr).sum()) - 1
    if allowed == len(negatives):
        return 1.0
    first_refused = negatives[len(negatives) - 1 - allowed]
    return int((positives > first_refused).sum()) / len(positives)


def _split(scores: Tensor, positive: Tensor) -> tuple[Tensor, Tensor]:
    """Scores of positives and of negatives, each in ascending order."""
    check_scores("scores", scores)
    positives, negatives = scores[positive].sort().values, scores[~positive].sort().values
    if not (len(positives) and len(negatives)):
        raise InputError(
            "expected at least one positive and one negative, "
            f"got {len(positives)} and {len(negatives)}"
        )
    return positives, negatives
