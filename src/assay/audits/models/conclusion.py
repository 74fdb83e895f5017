"""What the audits of models share: from p-values of models to verdicts and findings."""

import dataclasses
import resource
import time
from collections.abc import Sequence
from typing import Any, Protocol, TypeVar, runtime_checkable

import torch

from assay.audits.verdict import judge
from assay.results import Cost, Finding, Findings, Subject, Verdict
from assay.stats import holm


@runtime_checkable
class Judged(Protocol):
    """What was found of one model."""

    @property
    def p_value(self) -> float | None:
        """Of all that was asked of it; None where it could not be judged."""
        ...

    @property
    def reason(self) -> str:
        """Why there is no p-value."""
        ...


_J = TypeVar("_J", bound=Judged)


def adjusted(results: Sequence[Judged]) -> list[float]:
    """Correct for the number of models."""
    p_values = [1.0 if result.p_value is None else result.p_value for result in results]
    return holm(torch.tensor(p_values).double()).tolist()


def with_verdicts(results: Sequence[_J], alpha: float) -> tuple[_J, ...]:
    """Give every model that has a p-value the corrected one, and a verdict."""

    def judged(result: Any, p_value: float) -> Any:
        if result.p_value is None:
            return result
        verdict = Verdict.FLAGGED if p_value <= alpha else Verdict.NO_INDICATOR
        return dataclasses.replace(result, p_value=p_value, verdict=verdict)

    return tuple(map(judged, results, adjusted(results)))


def without_numbers(model: int, names: Sequence[str], sound: Sequence[bool]) -> str:
    """Say why a model cannot be judged where one answers NaN or infinity under triggers.

    What was searched beside such a model says nothing of the others.

    Args:
        model: the place of the one in question.
        names: of all models.
        sound: whether each answered with finite numbers.

    Returns:
        A reason, or nothing where all are sound.
    """
    wrong = [name for name, is_sound in zip(names, sound, strict=True) if not is_sound]
    if not wrong:
        return ""
    if not sound[model]:
        return "it answers NaN or infinity under triggers"
    return f"{wrong[0]!r} answers NaN or infinity under triggers: audit the others without it"


def findings(
    results: Sequence[Judged],
    *,
    samples: int,
    subjects: Sequence[Subject],
    reasons: tuple[str, ...],
    not_examined: tuple[str, ...],
    alpha: float,
    started: float,
    device: torch.device,
) -> Findings:
    """Put together what an audit of models ends in.

    Args:
        results: one a model, with p-values that are not yet corrected over the models.
        samples: how many clean ones there were.
        subjects: what is said of each model.
        reasons: why the verdict.
        not_examined: what the audit does not see.
        alpha: family-wise false alarm rate, in (0, 1).
        started: when, by `time.monotonic`.
        device: where it was computed.
    """
    asked = [
        Finding(
            question="does the model answer to a trigger that the others do not know?",
            samples=samples,
            effect=None,
            p_value=result.p_value,
            reason=result.reason,
        )
        for result in results
    ]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Findings(
        audit="models",
        verdict=judge(asked, level=alpha),
        alpha=alpha,
        reasons=reasons,
        subjects=tuple(subjects),
        cost=Cost(wall_s=time.monotonic() - started, device=str(device), peak_memory_mb=peak),
        not_examined=not_examined,
    )
