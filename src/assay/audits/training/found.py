"""What the training audit finds."""

import enum
from collections.abc import Mapping

from jaxtyping import Float64
from torch import Tensor

from assay.records import record
from assay.results import Findings, Verdict

from .evidence import Comparison, Delivery


class Tier(enum.Enum):
    """What a verdict rests on, the cheapest first."""

    DELIVERY = "delivery"
    """What came is not what was asked for, before anything is compared."""
    DIGEST = "digest"
    """Equal weights, bit for bit."""
    PROFILE = "profile"
    """Distances beside those of honest twins in the same environments."""
    STATISTICS = "statistics"
    """Distances beside those of the other providers."""


@record
class Question:
    """How far one provider lies from those that agree, in one sub-run and by one distance."""

    provider: str
    sub_run: int | None
    """None for all replicated sub-runs together."""
    distance: str
    tier: Tier
    measured: float
    """Geometric mean of the distances to the agreeing providers, itself left out."""
    expected: float
    """What honest noise is taken to be; with an allowance for other environments where those of the
    pair were not calibrated."""
    excess: float
    """Logarithm of measured over expected, in standard errors; higher is more suspicious."""
    p_value: float
    """Of the excess, before any correction."""
    p_without_allowance: float
    """The same without the allowance: where it is small and `p_value` is not, another environment
    may explain the distance."""


@record
class Agreement:
    """Which providers agree in a replicated sub-run."""

    sub_run: int | None
    """None for all replicated sub-runs together."""
    providers: tuple[str, ...]
    """None where no group can be believed."""
    reason: str
    """Why there is none."""


@record
class FaultyDelivery:
    """A delivery that is not what was asked for."""

    sub_run: int
    fault: str
    detail: str
    accuses: bool


@record
class ProviderResult:
    """What was found of one provider."""

    name: str
    verdict: Verdict
    p_value: float | None
    """The smallest over its questions, corrected for all that was asked (Holm over providers,
    Bonferroni over a provider's questions); None where nothing was compared."""
    tier: Tier | None
    """What the verdict rests on; None where there is nothing."""
    convicted: tuple[int, ...]
    """The sub-runs that convict it."""
    faults: tuple[FaultyDelivery, ...]
    reason: str
    """Why this verdict, in a sentence."""
    trusted: bool
    """Whether it is the client's own replica, which is not judged."""
    questions: tuple[Question, ...]


@record
class TrainingAudit:
    """What the audit of a replicated training found."""

    findings: Findings
    providers: tuple[ProviderResult, ...]
    agreements: tuple[Agreement, ...]
    deliveries: tuple[Delivery, ...]
    comparisons: tuple[Comparison, ...]
    last_trusted: int | None
    """The last replicated sub-run in which providers agree: whoever agreed holds weights to go on
    from; None where nobody agreed."""

    @property
    def verdict(self) -> Verdict:
        """The verdict on the training."""
        return self.findings.verdict

    @property
    def matrices(self) -> Mapping[tuple[int, str], Float64[Tensor, "providers providers"]]:
        """Distances by sub-run and name."""
        return {(c.sub_run, name): d for c in self.comparisons for name, d in c.distances.items()}
