"""The dataset audit: which samples of a training set are poisoned?"""

import dataclasses
import math
import resource
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from assay.audits.verdict import judge
from assay.errors import InputError
from assay.features import appearance, check_answers, extract, logits
from assay.fitting import EVERYTHING, Feed, Focus, Precision, Preprocess, Recipe, feed, train
from assay.networks import fresh_network
from assay.randomness import Seed, child, generator
from assay.records import record
from assay.results import (
    Cost,
    Findings,
    Forgetful,
    Progress,
    Store,
    Subject,
    Verdict,
    silent,
)
from assay.samples import Rows, Samples
from assay.stats import PooledRidge, conformal_p_values, holm

from .confusion import ROWS, Confused, Confusion, log_odds
from .contaminated import Kind, kinds_apart
from .decision import Decision, Scored, Tested
from .outvoting import leading, outvoted
from .preflight import Preflight, nearest
from .refinement import Refinement

Votes = tuple[Float[Tensor, " mixed"], ...]

_PENALTY = 0.1  # of the regression on features
_SOME = 2000  # confusing samples that others are compared with

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
    "noticed.",
    "Wrong labels without a trigger, and harm other than backdoors.",
    "Poison that entered a model by another way than this data set.",
)


@record
class DatasetSettings:
    """How a data set is audited; the defaults are those that the benchmarks measure."""

    recipe: Recipe = Recipe(epochs=15)
    """How the network is first trained, on the suspects as they came: what is not fitted cannot
    survive the confusion."""
    focus: Focus = Focus()
    """Which images its later epochs show. Of 13,000 images of CIFAR-10 and of Adaptive-Patch's
    poison among them (seed 1) the network fits 96 % and 83 % at the price of 10 epochs, 92 % and
    65 % after 12 whole ones. On 14 hard tuning cases of CIFAR-10 (one H200) an audit that costs
    1.44 ordinary trainings does as well (TPR .955, FPR .66 %, AUROC .986) as one of 2.07 with 15
    whole epochs (.945, .55 %, .988); 12 whole epochs, at 1.44, give .881, .62 %, .983 (exploratory;
    design note 0015)."""
    confusion: Confusion = Confusion()
    """Of images."""
    confusion_of_rows: Confusion = ROWS
    decision: Decision = Decision()
    refinement: Refinement = Refinement()
    preflight: Preflight = Preflight()
    most_calibration: int = 1000
    """About so many trusted samples at most, and at most half, serve as calibration; of each class
    that has two, at least one."""
    other_from: float = 1.0
    """How sure of another label the confused model must be before that counts (`standardised`). At
    1 against 0, the mean AUROC of the 15 attacks on digits (seeds 0 and 1) is .930 against .892,
    and 16 against 14 of 30 are found; on CIFAR-10 the TPR of k-way (seed 0) is .67 against .50, of
    Adaptive-Patch (seed 1) .65 against .58. Without other labels the AUROC of all-to-all falls
    from .96 to .82 on digits (seed 0), its TPR from 1.00 to .60 on CIFAR-10 (exploratory; design
    note 0006)."""
    doubt: float = 0.25
    """How much it counts that the model was hardly sure of the label before it was confused
    (`standardised`). At 0.25 against 0, the mean AUROC of the attacks on digits is .943 against
    .930 (seeds 0 and 1; 18 against 16 of 30 found), on CIFAR-10 the TPR of k-way (seed 0) .75
    against .67 and of Adaptive-Patch (seed 1) .71 against .65; at 0.5 Blend on digits is lost
    (seed 1; exploratory; design note 0006)."""

    def confusion_for(self, samples: Samples) -> Confusion:
        """Choose the confusion by what the samples are: images, or rows of numbers."""
        return self.confusion if samples.is_image else self.confusion_of_rows

    def focus_for(self, samples: Samples) -> Focus:
        """Choose by what the samples are; of rows every epoch shows all."""
        return self.focus if samples.is_image else EVERYTHING


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


def audit_dataset(
    samples: Samples,
    trusted: Samples,
    *,
    settings: DatasetSettings = DatasetSettings(),  # noqa: B008  frozen
    network: Callable[[], nn.Module] | None = None,
    preprocess: Preprocess | None = None,
    alpha: float = 0.05,
    digest: Mapping[str, str] | None = None,
    seed: Seed,
    device: torch.device,
    memory_mb: float = 4096.0,
    progress: Progress = silent,
    store: Store = Forgetful(),  # noqa: B008  it has no state
) -> DatasetAudit:
    """Find the samples that plant a backdoor into what is trained on a data set.

    A network is trained on the suspects together with half of the trusted samples (the
    calibration), confused with the other half, and asked which samples it still fits.

    Args:
        samples: the data set to audit.
        trusted: clean samples of the same task, classes in the same order.
        settings: of the method.
        network: builds an untrained classifier; None for `default_network`.
        preprocess: what the network wants; None to measure it on the trusted samples.
        alpha: family-wise false alarm rate over the classes, in (0, 1).
        digest: of the data set, by algorithm, to be repeated in the findings.
        seed: decides everything random.
        device: where to compute.
        memory_mb: how much of the data may lie on the device at once.
        progress: called with the stages `train` and `confuse`.
        store: what to resume from.

    Returns:
        Scores, p-values and flags of all samples, results of all classes, and the verdict.

    Raises:
        InputError: the two sets do not fit each other, or are too small to split.
    """
    started = time.monotonic()
    _check(samples, trusted, alpha)
    confusion, focus = settings.confusion_for(samples), settings.focus_for(samples)
    is_calibration = _split(trusted, settings.most_calibration, child(seed, "split"))
    if not is_calibration.any():
        raise InputError(
            "expected at least two trusted samples of a class, got one of each at most"
        )
    held = trusted.subset((~is_calibration).nonzero().squeeze(1))
    mixed_in = trusted.subset(is_calibration.nonzero().squeeze(1))
    ready = preprocess or Preprocess.of(trusted.inputs)

    def fed(inputs: Rows, labels: Int64[Tensor, " samples"]) -> Feed:
        return feed(inputs, labels, preprocess=ready, device=device, memory_mb=memory_mb)

    inputs, labels = _mixed(samples, mixed_in)
    suspects, confusing = fed(inputs, labels), fed(held.inputs, held.labels)
    model = fresh_network(samples, network, child(seed, "network"))
    check_answers(model, next(confusing.ordered()).inputs[:2].cpu(), classes=samples.classes)
    train(
        model,
        suspects,
        settings.recipe,
        seed=child(seed, "train"),
        focus=focus,
        progress=progress,
        store=store,
    )
    predicted = logits(model, confusing).argmax(1).cpu()
    before = extract(model, suspects, precision=Precision.FP32, maps=True)
    if not all(block.isfinite().all() for block in (*before.maps, before.features)):
        raise InputError(
            "expected a network that can be trained, got NaN or infinity in its features after the "
            "training, which diverged; use another one, such as one with normalisation"
        )
    along = leading(torch.cat([*before.maps, before.features], dim=1), suspects.labels)
    known = log_odds(before.logits).gather(1, suspects.labels[:, None]).squeeze(1).float()
    cut = len(samples)

    def has_taken(said: Confused) -> bool:
        """Tell so of images. Rows are confused such that a few keep their label."""
        doubts = settings.preflight.confusion(
            _part(said, slice(cut, None)), classes=samples.classes
        )
        return not doubts or not samples.is_image

    looks = list(
        confusion(
            model,
            suspects,
            confusing,
            seed=child(seed, "confuse"),
            progress=progress,
            store=store,
            has_taken=has_taken,
        )
    )
    steps = looks[-1].steps
    looks = looks[-1:] if looks[-1].is_further else looks
    score = partial(_scored, known=known, samples=samples, mixed_in=mixed_in, settings=settings)
    finer = before.maps[:-1] or before.maps  # penultimate features average the coarsest
    seen_alone = (appearance(suspects),) if samples.is_image else ()
    unconfused = (*finer, before.features, *seen_alone)
    said, votes, tested = _best_look(
        looks,
        partial(_votes, unconfused=unconfused, along=along, labels=suspects.labels, score=score),
        score,
        partial(settings.decision.test, classes=samples.classes),
    )
    kinds = kinds_apart(
        votes,
        suspects.labels,
        trusted=trusted,
        rows=is_calibration.nonzero().squeeze(1),
        decision=settings.decision,
        alpha=alpha,
    )
    some = _some(held, child(seed, "held"))
    near, neighbours = nearest(mixed_in.inputs[:], some.inputs[:])
    same = (some.labels[neighbours] == mixed_in.labels).double().mean().item()
    invalid = (
        *settings.preflight.learnt(predicted, held.labels, same),
        *settings.preflight.exchanged(predicted, held.labels, trusted.class_names),
        *_alike(
            near,
            some,
            samples,
            mixed_in,
            scored=score(said),
            preflight=settings.preflight,
            seed=child(seed, "matched"),
        ),
    )
    # a look after the larger weight (`Confusion.recall`) leaves more labels by itself
    usual = looks[: confusion.looks]
    judged = said if any(said is look for look in usual) else usual[-1]
    doubts = (
        *settings.preflight.confusion(_part(judged, slice(cut, None)), classes=samples.classes),
        *settings.preflight.further(judged),
        *settings.preflight.apart(samples, trusted),
    )
    return _decide(
        samples,
        *score(said),
        tests=tested,
        predicted=said.predicted[:cut],
        kinds=kinds,
        invalid=invalid,
        doubts=doubts,
        settings=settings,
        alpha=alpha,
        digest=digest or {},
        cost=_cost(started, device),
        sample_passes=sum(focus.sizes(len(labels), settings.recipe.epochs))
        + steps * sum(min(confusion.batch_size, each.pool_size) for each in (suspects, confusing)),
        looks=len(looks),
    )


def foresee(
    samples: Samples,
    trusted: Samples,
    *,
    settings: DatasetSettings = DatasetSettings(),  # noqa: B008  frozen
) -> tuple[str, ...]:
    """Say, without training anything, why an audit is bound to leave questions open.

    Args:
        samples: as for `audit_dataset`.
        trusted: likewise.
        settings: likewise.

    Returns:
        Reasons for which the verdict will be `inconclusive` unless something is flagged.
    """
    decision = settings.decision
    is_calibration = _split(trusted, settings.most_calibration, Seed(0))  # any seed: as many
    can_judge = int(is_calibration.sum()) >= decision.fewest_calibration
    counts = zip(
        samples.class_names,
        samples.labels.bincount(minlength=samples.classes).tolist(),
        trusted.labels[is_calibration].bincount(minlength=samples.classes).tolist(),
        strict=True,
    )
    missing = [
        (name, reason)
        for name, own, reference in counts
        if (reason := decision.unanswerable(own, reference, can_judge=can_judge))
    ]
    return (*_unjudged(missing, samples.classes), *settings.preflight.apart(samples, trusted))


def _unjudged(missing: Sequence[tuple[str, str]], classes: int) -> tuple[str, ...]:
    """Say how many classes cannot be judged, of their names and reasons."""
    if not missing:
        return ()
    name, reason = missing[0]
    if len(missing) == classes and len({reason for _, reason in missing}) == 1:
        return (f"Nothing can be judged: {reason}",)
    return (f"{len(missing)} of {classes} classes cannot be judged, such as {name!r}: {reason}.",)


def _best_look(
    looks: Sequence[Confused],
    vote: Callable[[Confused], Votes],
    score: Callable[[Confused], tuple[Scored, Scored]],
    test: Callable[..., tuple[Tested, ...]],
) -> tuple[Confused, Votes, tuple[Tested, ...]]:
    """Choose the look with the smallest p-value of a class, and count it once for every look.

    So the family-wise false alarm rate is kept over the looks (Bonferroni) and classes (Holm).
    """
    found = []
    for said in looks:
        votes = vote(said)
        found.append((said, votes, test(*score(said), votes=votes)))
    said, votes, tests = min(found, key=lambda each: min(map(_p_value, each[2])))
    return said, votes, tuple(_counted(test, len(found)) for test in tests)


def _votes(
    said: Confused,
    *,
    unconfused: Sequence[Float[Tensor, "mixed _"]],
    along: Float[Tensor, " mixed"],
    labels: Int64[Tensor, " mixed"],
    score: Callable[[Confused], tuple[Scored, Scored]],
) -> Votes:
    """Let the classes vote on features of before and after the confusion."""
    ridge = PooledRidge([*unconfused, said.features], labels, penalty=_PENALTY)
    scores = torch.cat([part.scores for part in score(said)])
    return tuple(outvoted(ridge, start) for start in (scores, along, -along))


def _p_value(test: Tested) -> float:
    return 1.0 if test.finding.p_value is None else test.finding.p_value


def _counted(test: Tested, times: int) -> Tested:
    p_value = test.finding.p_value
    p_value = None if p_value is None else min(1.0, times * p_value)
    return dataclasses.replace(test, finding=dataclasses.replace(test.finding, p_value=p_value))


def _scored(
    said: Confused,
    *,
    known: Float[Tensor, " mixed"],
    samples: Samples,
    mixed_in: Samples,
    settings: DatasetSettings,
) -> tuple[Scored, Scored]:
    """Score the suspects and the calibration."""
    cut = len(samples)
    scores = standardised(
        said, known, slice(cut, None), other_from=settings.other_from, doubt=settings.doubt
    )
    return (
        Scored(scores=scores[:cut], labels=samples.labels),
        Scored(scores=scores[cut:], labels=mixed_in.labels),
    )


def standardised(
    said: Confused,
    known: Float[Tensor, " samples"],
    calibration: slice,
    *,
    other_from: float,
    doubt: float,
) -> Float[Tensor, " samples"]:
    """Join what the model says, confused and before, into one score: what stands out counts.

    Each is shifted and scaled so that the median of the calibration is 0 and its 99th percentile
    is 1 (of `known`, the 1st percentile is -1).

    Args:
        said: odds of the confused model. A trigger that contradicts the label (all-to-all attacks,
            cover samples) makes it sure of another label than the given one.
        known: log-odds of the given label before the confusion. Where cover samples teach that the
            trigger alone decides nothing, the poison is learnt late, and the model hardly sure of
            it; of clean samples this says nothing about how much the confusion leaves of them.
        calibration: where trusted samples lie.
        other_from: is taken from the odds of other labels, so that they add nothing to the scores
            of ordinary samples, in which faint triggers would be lost.
        doubt: the weight of `known`.
    """
    own = _scaled(said.own, calibration, to=0.99)
    other = _scaled(said.other, calibration, to=0.99)
    sure = _scaled(known, calibration, to=0.01).clamp(-1, 1)
    return torch.maximum(own - doubt * sure, other - other_from)


def _scaled(
    odds: Float[Tensor, " samples"], calibration: slice, *, to: float
) -> Float[Tensor, " samples"]:
    """Count from the median of the calibration, in its distance from a quantile."""
    middle = odds[calibration].median()
    far = torch.quantile(odds[calibration].double(), to).float()
    return (odds - middle) / (far - middle).abs().clamp(min=1e-6)


def _decide(
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
    decision, classes = settings.decision, samples.classes
    if invalid:
        tests = tuple(_unanswered(test, invalid[0]) for test in tests)
    adjusted = holm(torch.tensor([_p_value(test) for test in tests], dtype=torch.float64))
    flagged = tuple((adjusted <= alpha).nonzero().squeeze(1).tolist())
    kinds = {c: kind for c, kind in kinds.items() if c not in flagged or kind.is_shared}
    tests = tuple(
        test if label in flagged else _doubted(test, kinds.get(label))
        for label, test in enumerate(tests)
    )
    shared = (
        f"Class {samples.class_names[c]!r}: {kind.reason}."
        for c, kind in kinds.items()
        if c in flagged
    )
    is_poison = torch.zeros_like(suspects.labels, dtype=torch.bool)
    if flagged:
        is_poison = settings.refinement(
            decision.flag(suspects, calibration, tests, flagged), suspects.labels, tests
        )
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
                        *shared,
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
    said += _unjudged([(r.name, r.reason) for r in missing], len(results))
    return tuple(said)


def _power(results: Sequence[ClassResult], decision: Decision, alpha: float) -> list[str]:
    """Say what would have been found for certain, in the class where that is the least."""
    everyone = sum(result.samples + result.calibration for result in results)
    least = {
        result: decision.found_from(
            result.samples,
            result.calibration,
            others=everyone - result.samples - result.calibration,
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


def _check(samples: Samples, trusted: Samples, alpha: float) -> None:
    if not 0 < alpha < 1:
        raise InputError(f"expected alpha in (0, 1), got {alpha}")
    if samples.class_names != trusted.class_names:
        raise InputError(
            f"expected trusted samples with the classes {samples.class_names}, got "
            f"{trusted.class_names}"
        )
    if samples.inputs.shape[1:] != trusted.inputs.shape[1:]:
        raise InputError(
            f"expected trusted samples of the shape {tuple(samples.inputs.shape[1:])}, got "
            f"{tuple(trusted.inputs.shape[1:])}"
        )
    if samples.classes < 2:
        raise InputError(f"expected at least two classes, got {samples.class_names}")
    if len(samples.labels.unique()) < 2:
        raise InputError("expected samples of at least two classes, got one label only")
    if len(trusted) < 4:
        raise InputError(f"expected at least four trusted samples, got {len(trusted)}")


def _some(samples: Samples, seed: Seed) -> Samples:
    """Draw at most so many samples as are compared."""
    random = generator(seed, torch.device("cpu"))
    return samples.subset(torch.randperm(len(samples), generator=random)[:_SOME].sort().values)


def _alike(
    near: Float[Tensor, " calibration"],
    some: Samples,
    samples: Samples,
    mixed_in: Samples,
    *,
    scored: tuple[Scored, Scored],
    preflight: Preflight,
    seed: Seed,
) -> tuple[str, ...]:
    """Check that trusted samples are like the suspects, or like those that do not stand out.

    The second holds where much poison moved suspects away, as all-to-all attacks do (Fashion-MNIST
    at 30 %), and not where all suspects come from elsewhere.
    """

    def asked(rows: Int64[Tensor, " some"]) -> tuple[str, ...]:
        matched = _matched(samples, rows, mixed_in, seed)
        return preflight.alike(near, nearest(matched.inputs[:], some.inputs[:])[0])

    found = asked(torch.arange(len(samples)))
    if not found:
        return ()
    suspects, calibration = scored
    usual = suspects.scores <= calibration.scores.max()
    if int(usual.sum()) < len(near):
        return found
    return asked(usual.nonzero().squeeze(1)) and found


def _matched(
    samples: Samples, among: Int64[Tensor, " some"], others: Samples, seed: Seed
) -> Samples:
    """Draw of some samples, of each class twice as many as of the others, or all that there are."""
    random = generator(seed, torch.device("cpu"))
    order = among[torch.randperm(len(among), generator=random)]
    labels = samples.labels[order]
    counts = others.labels.bincount(minlength=samples.classes).tolist()
    rows = [order[labels == label][: 2 * count] for label, count in enumerate(counts)]
    return samples.subset(torch.cat(rows).sort().values)


def _split(trusted: Samples, most: int, seed: Seed) -> Bool[Tensor, " trusted"]:
    """Choose the calibration: half of every class, or as many as `most` allows."""
    share = min(0.5, most / len(trusted))
    random = generator(seed, torch.device("cpu"))
    chosen = torch.zeros(len(trusted), dtype=torch.bool)
    for label in trusted.labels.unique().tolist():
        rows = (trusted.labels == label).nonzero().squeeze(1)
        rows = rows[torch.randperm(len(rows), generator=random)]
        chosen[rows[: max(round(share * len(rows)), min(1, len(rows) // 2))]] = True
    return chosen


@record
class _Joined:
    """Two tables, one after the other, neither copied before it is read."""

    first: Rows
    second: Tensor

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self), *self.first.shape[1:]))

    @property
    def dtype(self) -> torch.dtype:
        return self.first.dtype

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, rows: slice | Tensor, /) -> Tensor:
        index = torch.arange(len(self))[rows]
        behind = index >= len(self.first)
        read = torch.empty((len(index), *self.shape[1:]), dtype=self.dtype)
        if not behind.all():
            read[~behind] = self.first[index[~behind]]
        read[behind] = self.second[index[behind] - len(self.first)]
        return read


def _mixed(samples: Samples, mixed_in: Samples) -> tuple[Rows, Int64[Tensor, " samples"]]:
    labels = torch.cat([samples.labels, mixed_in.labels])
    return _Joined(first=samples.inputs, second=mixed_in.inputs[:]), labels


def _part(said: Confused, rows: slice) -> Confused:
    return Confused(
        own=said.own[rows],
        other=said.other[rows],
        predicted=said.predicted[rows],
        features=said.features[rows],
    )


def _cost(started: float, device: torch.device) -> Cost:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Cost(wall_s=time.monotonic() - started, device=str(device), peak_memory_mb=peak)
