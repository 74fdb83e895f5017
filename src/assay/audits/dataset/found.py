"""What the dataset audit finds."""

from jaxtyping import Bool, Float, Int64
from torch import Tensor

from assay.records import record
from assay.results import Findings, Verdict


@record
class ClassResult:
    """What was found of one class."""

    label: int
    name: str
    samples: int
    calibration: int
    """Trusted samples of the class among those that were mixed in."""
    flagged: int
    statistic: float | None
    """Share of the class above the threshold at which it stands out most, less the share that
    trusted samples or their tail, or that of other classes, allow there; at most 1, higher is more
    suspicious."""
    p_value: float | None
    adjusted_p_value: float | None
    """Holm's, over the classes; at most alpha where the class is flagged."""
    verdict: Verdict
    reason: str
    """Why there is no p-value."""
    target: str | None
    """The class that most of its flagged samples pull the confused model to."""
    doubtful: tuple[int, ...] = ()
    """Trusted samples, by index, that share what sets suspects of the class apart from all other
    classes: to be looked at."""
    by_vote: bool = False
    """Whether what its samples share shows the class best, not how sure the model is of each."""
    by_features: bool = False
    """Whether that shows without the confusion."""


@record
class DatasetAudit:
    """What the audit of a data set found; tensors on the CPU."""

    findings: Findings
    scores: Float[Tensor, " samples"]
    """Higher is more suspicious. Outvoted by what the high ones of the class have in common
    (`outvoted`), where it could be tested: 0 at the median of the trusted samples of the class and
    1 at their 95th percentile. Where the class has fewer than 50 of them for calibration, both lean
    on those of the other classes (`Decision.outvoted`)."""
    p_values: Float[Tensor, " samples"]
    """Conformal, in (0, 1], of the scores. A little too small where classes have few trusted
    samples, which scores are measured by: of the clean samples of GTSRB, with 15 a class for
    calibration, 7 % have at most .05 and 1.3 % at most .01."""
    is_poison: Bool[Tensor, " samples"]
    """Flagged samples, see `Refinement`."""
    classes: tuple[ClassResult, ...]
    calibration_scores: Float[Tensor, " calibration"]
    calibration_labels: Int64[Tensor, " calibration"]
    sample_passes: int
    """Forward and backward passes of one sample that the audit took, for its cost."""

    @property
    def verdict(self) -> Verdict:
        """The verdict on the whole data set."""
        return self.findings.verdict

    @property
    def flagged(self) -> Int64[Tensor, " flagged"]:
        """Indices of the flagged samples, ascending."""
        return self.is_poison.nonzero().squeeze(1)
