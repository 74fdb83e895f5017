"""From findings to a verdict: one rule for every audit."""

from collections.abc import Sequence

import torch

from assay.errors import InputError
from assay.results import Finding, Verdict
from assay.stats.multiple import holm


def judge(findings: Sequence[Finding], *, level: float) -> Verdict:
    """Combine findings at a family-wise error rate of `level`.

    A question without an answer counts as a p-value of 1. So the family stays as large as it was
    planned, and the error rate holds whatever decided which questions could be answered.

    Args:
        findings: every question that was asked, those without an answer included.
        level: probability of flagging anything where every null hypothesis is true, in (0, 1).

    Returns:
        `FLAGGED` where Holm's procedure rejects at least one null hypothesis; else `INCONCLUSIVE`
        where a question has no answer, or none was asked; else `NO_INDICATOR`.

    Raises:
        InputError: the level is not in (0, 1), or a p-value is NaN or not in [0, 1].

    Example:
        >>> asked = Finding(question="too many exceedances?", samples=90, effect=0.1, p_value=0.03)
        >>> judge([asked], level=0.05)
        <Verdict.FLAGGED: 'flagged'>
        >>> judge([asked, asked], level=0.05)
        <Verdict.NO_INDICATOR: 'no_indicator'>
    """
    if not 0 < level < 1:
        raise InputError(f"expected level in (0, 1), got {level}")
    p_values = [1.0 if finding.p_value is None else finding.p_value for finding in findings]
    if (holm(torch.tensor(p_values, dtype=torch.float64)) <= level).any():
        return Verdict.FLAGGED
    if not findings or any(finding.p_value is None for finding in findings):
        return Verdict.INCONCLUSIVE
    return Verdict.NO_INDICATOR
