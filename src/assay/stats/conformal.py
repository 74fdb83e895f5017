"""Conformal p-values: how unusual a score is among scores of trusted samples."""

import torch
from jaxtyping import Float
from torch import Tensor

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
