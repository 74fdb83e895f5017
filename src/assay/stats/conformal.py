"""Conformal p-values: how unusual a score is among scores of trusted samples."""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from assay.errors import InputError

from ._checks import check_scores


def conformal_p_values(
    scores: Float[Tensor, " samples"], calibration: Float[Tensor, " calibration"]
) -> Float[Tensor, " samples"]:
    r"""Marginal conformal p-values; a tie with a calibration score counts against suspicion.

    .. math:: p_i = \frac{1 + \#\{j : c_j \ge s_i\}}{n + 1}

    If the score of sample i is exchangeable with the calibration scores, then
    $P(p_i \le t) \le t$ for every t, whatever the scores are and however few. This is an average
    over calibration sets: one unlucky calibration set shifts the p-values of all samples together.

    The p-values share one calibration set and so depend on each other, but positively (PRDS):
    `benjamini_hochberg` controls the false discovery rate if calibration and clean samples are
    independent draws of one distribution, and if the scoring function does not tell apart which of
    them served as calibration (trusted samples that the model was fitted to harder than the
    inspected ones break this). The proof wants scores without ties.

    Args:
        scores: higher is more suspicious.
        calibration: scores of trusted samples by the same function, same dtype and device.

    Returns:
        One p-value a sample, in [1 / (n + 1), 1]; lower is more suspicious. So n calibration scores
        cannot reject at a level below 1 / (n + 1).

    Raises:
        InputError: there is no calibration score, or a score is NaN.

    Source:
        Bates, Candès, Lei, Romano, Sesia, "Testing for outliers with conformal p-values", Ann.
        Statist. 2023, theorem 2. arXiv:2104.08279

    Example:
        >>> trusted = torch.tensor([1.0, 2.0, 3.0])
        >>> conformal_p_values(torch.tensor([0.0, 2.0, 9.0]), trusted).tolist()
        [1.0, 0.75, 0.25]
    """
    check_scores("scores", scores, fewest=0)
    check_scores("calibration scores", calibration)
    below = torch.searchsorted(calibration.sort().values, scores)
    # at least single precision: half precision would round the p-values of many samples up to a tie
    precision = torch.promote_types(scores.dtype, torch.float32)
    return (1 + len(calibration) - below).to(precision) / (1 + len(calibration))


def class_conditional_p_values(
    scores: Float[Tensor, " samples"],
    labels: Int64[Tensor, " samples"],
    calibration: Float[Tensor, " calibration"],
    calibration_labels: Int64[Tensor, " calibration"],
    *,
    fewest: int,
) -> Float[Tensor, " samples"]:
    """Conformal p-values among trusted samples of the same class.

    They stay valid within each class where classes differ in how high clean samples score. A class
    with fewer than `fewest` calibration scores falls back to the pooled ones of
    `conformal_p_values`; for its samples validity rests on the class scoring no higher than the
    pool, and `calibration_labels.bincount() < fewest` tells the caller which classes these are.

    Args:
        scores: higher is more suspicious.
        labels: class of each sample.
        calibration: scores of trusted samples by the same function, same dtype and device.
        calibration_labels: class of each trusted sample.
        fewest: calibration scores that a class needs for p-values of its own, at least 1; to reject
            at `level`, 1 / level - 1 are needed.

    Returns:
        One p-value a sample, in (0, 1]; lower is more suspicious.

    Raises:
        InputError: there is no calibration score, a score is NaN, or `fewest` is below 1.

    Source:
        Vovk, "Conditional validity of inductive conformal predictors", ACML 2012
        (label-conditional predictors). arXiv:1209.2673

    Example:
        >>> scores, labels = torch.tensor([2.0, 2.0]), torch.tensor([0, 1])
        >>> trusted, trusted_labels = torch.tensor([1.0, 1.0, 3.0]), torch.tensor([0, 0, 1])
        >>> class_conditional_p_values(scores, labels, trusted, trusted_labels, fewest=2).tolist()
        [0.3333333432674408, 0.5]
    """
    if fewest < 1:
        raise InputError(f"expected fewest >= 1, got {fewest}")
    p_values = conformal_p_values(scores, calibration)
    for label in labels.unique():
        own = calibration[calibration_labels == label]
        if len(own) >= fewest:
            rows = labels == label
            p_values[rows] = conformal_p_values(scores[rows], own)
    return p_values
