"""From margins to a p-value: which class is easier to reach than the backbone explains?"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Float64
from scipy.stats import t as student
from torch import Tensor

from assay.records import record
from assay.stats import excess_p_values, moderated_excess

from .survey import Survey


@record
class Standing:
    """How far the classes of one survey stand out."""

    excess: Float[Tensor, " candidates"]
    p_values: Float64[Tensor, " candidates"]


@record
class Decision:
    """Compares each class with the same class of the backbone alone, and with the other classes.

    With m the margins of the tuned prompt and r those of the backbone, d = m - b r stands out from
    the median over classes by so many standard deviations: those of the other classes, moderated by
    the usual spread of honest prompts (`Kind.usual`), and compared with Student's t.

    Source:
        Jindal et al., "CLIP-Inspector", CVPR 2026 Findings, arXiv:2604.09101: a class stands out
        where its anomaly score exceeds 2 and its trigger works on at least half of the images.
    Differs from the source:
        The same search on the backbone takes out what makes a class easy to reach for any prompt,
        such as the class that looks most like all others in a fine-grained task. The anomaly score
        becomes a p-value, corrected for all classes, kinds and pools.
    """

    shared: float = 0.9
    """The factor b: margins are noisy, so the best guess from another's is nearer to the middle."""
    prior: float = 8.0
    """How many classes' worth the usual spread counts."""
    widest: float = 2.0
    """How many times the usual spread the classes of the audited prompt may show: what a planted
    trigger does to the other classes widens their spread too, and would hide it. (BadCLIP on
    traffic signs: 1.7 where an honest prompt of the same task shows 0.24.)"""
    freedom: float = 10.0
    """Degrees of freedom of Student's t."""
    least_asr: float = 0.5
    """Where the recovered trigger leads fewer of the images to the class, in [0, 1], nothing is
    flagged: as published."""

    def stand(self, found: Survey) -> Standing:
        """Compare the classes of one survey."""
        beyond = found.margins - self.shared * found.reference
        excess = moderated_excess(
            beyond,
            found.typical,
            usual=found.kind.usual,
            prior=self.prior,
            most=self.widest * found.kind.usual,
        )
        return Standing(excess=excess, p_values=excess_p_values(excess, freedom=self.freedom))

    def corrected(self, found: Survey) -> Float64[Tensor, " candidates"]:
        """Correct p-values for all classes, kinds and pools (weighted Bonferroni)."""
        p_values = self.stand(found).p_values
        return (p_values * found.asked / found.share).clamp(max=1.0)

    def threshold(self, alpha: float, found: Survey) -> float:
        """The excess that is significant after all corrections."""
        return float(student.isf(alpha * found.share / found.asked, df=self.freedom))


def clearest(surveys: Sequence[Survey], decision: Decision) -> list[tuple[float, Survey, int]]:
    """List the smallest corrected p-value of every survey with its row there, ascending."""
    best = []
    for found in surveys:
        p_values = decision.corrected(found)
        row = int(torch.argmin(p_values))
        best.append((p_values[row].item(), found, row))
    return sorted(best, key=lambda each: each[0])
