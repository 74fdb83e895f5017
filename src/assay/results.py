"""What an audit says: findings, verdicts, and what they cost."""

import enum
from collections.abc import Callable, Mapping
from typing import Any, Protocol, runtime_checkable

from jaxtyping import Bool, Float
from torch import Tensor

from .records import record


class Verdict(enum.Enum):
    """What the evidence allows us to say. No value says that anything is clean."""

    FLAGGED = "flagged"
    NO_INDICATOR = "no_indicator"
    INCONCLUSIVE = "inconclusive"


@record
class Interval:
    """A confidence interval."""

    low: float
    high: float
    confidence: float
    """In (0, 1)."""


@record
class Finding:
    """One question that an audit asked, and what the data answered."""

    question: str
    samples: int
    """How many samples the answer rests on."""
    effect: float | None
    """The size of what was found, in the unit that the question names."""
    p_value: float | None
    """In [0, 1]; None where the question could not be answered."""
    reason: str = ""
    """Why there is no p-value."""
    interval: Interval | None = None


@record
class Subject:
    """The verdict on one audited thing: a class of a data set, a model, a provider."""

    name: str
    digest: Mapping[str, str]
    """Hash of what was audited, by algorithm: {"sha256": hex}."""
    verdict: Verdict
    p_value: float | None
    target: str | None
    """The class or behaviour that the backdoor serves, where it is known."""
    evidence: Mapping[str, Any]
    """What the verdict rests on: numbers, strings, lists and maps only."""
    assumptions: tuple[str, ...]


@record
class Cost:
    """What an audit cost."""

    wall_s: float
    device: str
    peak_memory_mb: float


@record
class Findings:
    """What every audit ends in; stored as `findings.json`."""

    audit: str
    verdict: Verdict
    alpha: float
    """Family-wise false alarm rate that the verdict was given at, in (0, 1)."""
    reasons: tuple[str, ...]
    """Why this verdict, in sentences for a reader who knows the task and not the method."""
    subjects: tuple[Subject, ...]
    cost: Cost
    not_examined: tuple[str, ...]


@record
class SampleScores:
    """A detector's opinion of every sample, higher is more suspicious."""

    scores: Float[Tensor, " samples"]
    flagged: Bool[Tensor, " samples"]
    method: str
    """`repr` of the detector with its settings."""


@runtime_checkable
class Store(Protocol):
    """Where long work leaves what it would need to go on after being killed."""

    def save(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors under a name, at once or not at all."""
        ...

    def load(self, name: str) -> dict[str, Tensor] | None:
        """Return what was kept under a name, or None."""
        ...


Progress = Callable[[str, int, int], None]
"""Called with the name of a stage, the steps done, and the steps in all."""


def silent(stage: str, done: int, total: int) -> None:
    """Report no progress."""


class Forgetful:
    """A store that keeps nothing: for work that need not be resumed."""

    def save(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep nothing."""

    def load(self, name: str) -> dict[str, Tensor] | None:  # noqa: ARG002
        """Return None."""
        return None
