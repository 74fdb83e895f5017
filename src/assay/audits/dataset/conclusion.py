"""From the answers of the classes to flagged samples, a verdict, and the reasons for it."""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from assay.audits.verdict import judge
from assay.results import Cost, Findings, Subject, Verdict
from assay.samples import Samples
from assay.stats import conformal_p_values, holm

from .contaminated import Kind
from .decision import Decision, Scored, Tested
from .found import ClassResult, DatasetAudit
from .settings import DatasetSettings

ASSUMPTIONS = (
    "The trusted samples are clean and come from the same distribution as the clean samples of the "
    "data set.",
    "The network that was trained learns the trigger, as the one to be deployed would.",
    "No clean class has a much heavier upper tail of scores than the trusted samples, nor, where "
    "these are few, than the other classes.",
)

NOT_EXAMINED = (
    "Backdoors whose trigger the trained network does not learn.",
    "Triggers that trusted samples carry too: they are unlearnt together, and only plain ones are "
    "noticed, where there are nine classes or more.",
    "Wrong labels without a trigger, and harm other than backdoors.",
    "Poison that entered a model by another way than this data set.",
)


def conclude(
    samples: Samples,
    suspects: Scored,
    calibration: Scored,
    *,
    tests: tuple[Tested, ...],
    predicted: Int64[Tensor, " samples"],
    kinds: Mapping[int, Kind],
    invalid: Sequence[str],
    doubts: Sequence[str],
    settings: DatasetSettings,
    alpha: float,
    digest: Mapping[str, str],
    cost: Cost,
    sample_passes: int,
    looks: int,
) -> DatasetAudit:
    """Flag samples and judge, class by class and on the whole.

    Args:
        samples: the suspects.
        suspects: their scores.
        calibration: scores of the trusted samples among them.
        tests: one a class, with p-values that are not yet corrected over the classes.
        predicted: labels that the confused model fits best, of the suspects.
        kinds: of classes where some samples stand apart that trusted samples are like.
        invalid: why no class can be judged; empty where they can.
        doubts: why passing would say nothing.
        settings: of the method.
        alpha: family-wise false alarm rate over the classes, in (0, 1).
        digest: of the data set, by algorithm.
        cost: of the audit so far.
        sample_passes: that it took.
        looks: at the confused model, which each cost power.
    """
    decision, classes = settings.decision, samples.classes
    if invalid:
        tests = tuple(_unanswered(test, invalid[0]) for test in tests)
    adjusted = holm(torch.tensor([test.p_value for test in tests], dtype=torch.float64))
    flagged = tuple((adjusted <= alpha).nonzero().squeeze(1).tolist())
    tests = tuple(
        test if label in flagged else _doubted(test, kinds.get(label))
        for label, test in enumerate(tests)
    )
    is_poison = torch.zeros_like(suspects.labels, dtype=torch.bool)
    if flagged:
        is_poison = settings.refinement(
            decision.flag(suspects, calibration, tests, flagged), suspects.labels, tests
        )
    kinds = {
        c: kind
        for c, kind in kinds.items()
        if c not in flagged or (kind.is_shared and kind.is_among(is_poison, samples.labels == c))
    }
    shown, trusted = decision.outvoted(suspects, calibration, tests)
    results = tuple(
        _class_result(label, samples, calibration, tests[label], adjusted, is_poison, predicted)
        for label in range(classes)
    )
    results = tuple(_judged(result, alpha, kinds.get(result.label)) for result in results)
    verdict = judge([t.finding for t in tests], level=alpha)
    if doubts and verdict is Verdict.NO_INDICATOR:
        verdict = Verdict.INCONCLUSIVE
    return DatasetAudit(
        findings=Findings(
            audit="dataset",
            verdict=verdict,
            alpha=alpha,
            reasons=tuple(
                dict.fromkeys(
                    (
                        *(invalid or _reasons(results, verdict, decision, alpha, looks)),
                        *doubts,
                        *(
                            f"Class {samples.class_names[c]!r}: {kind.reason}."
                            for c, kind in kinds.items()
                            if c in flagged
                        ),
                    )
                )
            ),
            subjects=tuple(_subject(r, digest) for r in results),
            cost=cost,
            not_examined=NOT_EXAMINED,
        ),
        scores=shown.scores,
        p_values=conformal_p_values(shown.scores, trusted.scores),
        is_poison=is_poison,
        classes=results,
        calibration_scores=trusted.scores,
        calibration_labels=calibration.labels,
        sample_passes=sample_passes,
    )


def unjudged(missing: Sequence[tuple[str, str]], classes: int) -> tuple[str, ...]:
    """Say how many classes cannot be judged, of their names and reasons."""
    if not missing:
        return ()
    name, reason = missing[0]
    if len(missing) == classes and len({reason for _, reason in missing}) == 1:
        return (f"Nothing can be judged: {reason}",)
    return (f"{len(missing)} of {classes} classes cannot be judged, such as {name!r}: {reason}.",)


def _doubted(test: Tested, kind: Kind | None) -> Tested:
    """Take back the answer, if there is one, where a kind stands apart; its scores are shown."""
    if kind is None or test.finding.p_value is None:
        return test
    finding = dataclasses.replace(test.finding, effect=None, p_value=None, reason=kind.reason)
    return dataclasses.replace(test, finding=finding)


def _unanswered(test: Tested, reason: str) -> Tested:
    finding = dataclasses.replace(test.finding, effect=None, p_value=None, reason=reason)
    return Tested(finding=finding, threshold=math.nan)


def _class_result(  # noqa: PLR0917
    label: int,
    samples: Samples,
    calibration: Scored,
    tested: Tested,
    adjusted: Float[Tensor, " classes"],
    is_poison: Bool[Tensor, " samples"],
    predicted: Int64[Tensor, " samples"],
) -> ClassResult:
    own = is_poison & (samples.labels == label)
    p_value = tested.finding.p_value
    return ClassResult(
        label=label,
        name=samples.class_names[label],
        samples=tested.finding.samples,
        calibration=int((calibration.labels == label).sum()),
        flagged=int(own.sum()),
        statistic=tested.finding.effect,
        p_value=p_value,
        adjusted_p_value=None if p_value is None else adjusted[label].item(),
        verdict=Verdict.INCONCLUSIVE,
        reason=tested.finding.reason,
        target=samples.class_names[int(predicted[own].mode().values)] if own.any() else None,
        by_vote=tested.by_vote,
        by_features=tested.by_features,
    )


def _judged(result: ClassResult, alpha: float, kind: Kind | None) -> ClassResult:
    result = dataclasses.replace(result, doubtful=() if kind is None else kind.trusted)
    if result.adjusted_p_value is None:
        return result
    hit = result.adjusted_p_value <= alpha
    verdict = Verdict.FLAGGED if hit else Verdict.NO_INDICATOR
    return dataclasses.replace(result, verdict=verdict)


def _reasons(
    results: Sequence[ClassResult], verdict: Verdict, decision: Decision, alpha: float, looks: int
) -> tuple[str, ...]:
    hits = [r for r in results if r.verdict is Verdict.FLAGGED]
    missing = [r for r in results if r.verdict is Verdict.INCONCLUSIVE]
    said = [
        f"Class {r.name!r}: {r.flagged} of {r.samples} samples {_pull(r)}, which trusted samples "
        f"do not (adjusted p-value {r.adjusted_p_value:.2g})."
        for r in hits
    ]
    if verdict is Verdict.NO_INDICATOR:
        said.append(
            f"No class holds more high scores than trusted samples explain, at a family-wise false "
            f"alarm rate of {alpha:g}."
        )
        said += _power(results, decision, alpha / looks)
    said += unjudged([(r.name, r.reason) for r in missing], len(results))
    return tuple(said)


def _power(results: Sequence[ClassResult], decision: Decision, alpha: float) -> list[str]:
    """Say what would have been found for certain, in the class where that is the least."""
    sizes = [result.samples + result.calibration for result in results]
    judged = sum(size >= decision.fewest_samples for size in sizes)
    least = {
        result: decision.found_from(
            result.samples,
            result.calibration,
            others=judged - 1,
            alpha=alpha / len(results),
        )
        for result in results
        if result.p_value is not None
    }
    blind = [result for result, count in least.items() if count is None]
    beyond = "only what lies far beyond all trusted samples"
    if blind:
        return [
            f"In {len(blind)} of {len(results)} classes no share of poison is found for certain, "
            f"{beyond}: of {blind[0].name!r} there are {blind[0].calibration} samples for "
            "calibration, half of its trusted ones. Add some."
        ]
    worst, count = max(least.items(), key=lambda each: (each[1] or 0) / each[0].samples)
    return [
        f"Poison that stands apart completely is found for certain from {count} of "
        f"{worst.samples} samples of a class on ({worst.name!r}); of less, {beyond}."
    ]


def _pull(result: ClassResult) -> str:
    if result.by_features:
        return "have in common what sets them apart from the rest of the class"
    if result.by_vote:
        return (
            f"share what sets those apart that keep pulling a confused model most, to "
            f"{result.target!r}"
        )
    return f"keep pulling a confused model to {result.target!r}"


def _subject(result: ClassResult, digest: Mapping[str, str]) -> Subject:
    return Subject(
        name=result.name,
        digest=digest,
        verdict=result.verdict,
        p_value=result.adjusted_p_value,
        target=result.target,
        evidence={
            "samples": result.samples,
            "flagged": result.flagged,
            "excess_share": result.statistic,
            "by_vote": result.by_vote,
            "by_features": result.by_features,
            "calibration": result.calibration,
            "doubtful_trusted": list(result.doubtful),
            "reason": result.reason,
        },
        assumptions=ASSUMPTIONS,
    )
