"""The models audit: which of some deliveries hides a backdoor?"""

import dataclasses
import time
from collections.abc import Iterator, Sequence

import torch

from assay.errors import InputError
from assay.randomness import Seed, child, isolated
from assay.records import record
from assay.results import Forgetful, Progress, Store, Subject, Verdict, silent
from assay.samples import Samples
from assay.triggers import ANY, Pool

from .conclusion import adjusted, findings, with_verdicts
from .decision import Decision, Standing, Together
from .found import Delivery, ModelResult, ModelsAudit, Question, Recovered
from .halves import halves
from .preflight import Preflight, accuracies
from .recovery import Recovery
from .respond import Examined, examined
from .survey import KINDS, Elimination, Kind, Survey, reference, survey

ASSUMPTIONS = (
    "More than half of the other models do not hold the same backdoor.",
    "Honest models of this task differ from each other about as much as those that the audit was "
    "tuned on.",
    "The clean samples are clean and of the task that the models were trained for.",
    "No model was made unusually hard to lead: beside it an honest one looks easy to lead.",
    "No model was made to differ from the others in every class: what stands out is measured by "
    "how far the other classes differ.",
)

NOT_EXAMINED = (
    "Backdoors that all deliveries share, as far as they do not stand out within a model: the same "
    "poisoned public data at every provider gives the same backdoor.",
    "Triggers that none of the searched kinds comes near to, or that need a larger change.",
    "Models that notice the search, such as by the noise in its images, and behave differently.",
    "Harm other than backdoors with a target class.",
)


TOGETHER = "all kinds together"
"""In place of a family, where a question takes the kinds together."""


@record
class ModelsSettings:
    """How models are audited; the defaults are those that the benchmarks measure."""

    kinds: tuple[Kind, ...] = KINDS
    elimination: Elimination = Elimination()
    decision: Decision = Decision()
    preflight: Preflight = Preflight()
    recovery: Recovery = Recovery()
    most_samples: int = 1000
    """At most so many clean samples are used, half to search on and half to measure on."""


@record
class _Judged:
    """What the questions of one model came to."""

    p_value: float
    """The smallest, corrected for all that was asked of the model."""
    alone: float
    """The same of the evidence that needs no other model."""
    questions: tuple[Question, ...]
    top: tuple[int, int]
    """Kind and candidate of the smallest p-value."""


def audit_models(
    deliveries: Sequence[Delivery],
    clean: Samples,
    *,
    settings: ModelsSettings = ModelsSettings(),  # noqa: B008  frozen
    alpha: float = 0.05,
    seed: Seed,
    device: torch.device,
    progress: Progress = silent,
    store: Store = Forgetful(),  # noqa: B008  it has no state
) -> ModelsAudit:
    """Find the model that answers to a trigger which the others do not know.

    Every candidate (a target class, for images of all classes or of one, in several families of
    triggers) is searched on every model with the same effort. A model is flagged where one of its
    candidates gets much further than the same candidate on the others, or than its own other ones.

    Args:
        deliveries: two or more models of the same task.
        clean: samples of the task, labelled; a few hundred or more.
        settings: of the method.
        alpha: family-wise false alarm rate over models and all candidates, in (0, 1).
        seed: decides everything random.
        device: where to compute; the models are moved there.
        progress: called with the stages `search` and `recover`.
        store: what to resume from.

    Returns:
        A verdict for each model, with the trigger recovered from it.

    Raises:
        InputError: fewer than two models, clean samples that are no images, or alpha.
    """
    started = time.monotonic()
    _check(deliveries, clean, alpha)
    with isolated(child(seed, "models"), device):  # dropout that a model leaves on
        searched, held = halves(clean, most=settings.most_samples, seed=seed, device=device)
        labels = torch.cat([searched.labels, held.labels]).cpu()
        images = torch.cat([searched.images, held.images])
        everyone = [examined(delivery, images) for delivery in deliveries]
        right = accuracies([model.said for model in everyone], labels)
        unfit = [settings.preflight.unfit(m, labels, max(right), clean.classes) for m in everyone]
        unfit = [
            reason or settings.preflight.copied(m, everyone)
            for m, reason in zip(everyone, unfit, strict=True)
        ]
        fit = [model for model, reason in zip(everyone, unfit, strict=True) if not reason]
        surveys = _surveys(fit, searched, held, clean.classes, settings, seed, progress, store)
        fit, surveys, unfit = _answering(fit, surveys, everyone, unfit)
        results: list[ModelResult] = []
        for model, reason, accuracy in zip(everyone, unfit, right, strict=True):
            judged, recovered = None, None
            if surveys and not reason:
                judged = _judge(fit, fit.index(model), surveys, settings.decision, alpha, everyone)
                recovered = _recover(
                    judged, surveys, fit, model, everyone, searched, held, settings, seed
                )
            results.append(_result(model.delivery.name, accuracy, reason, judged, recovered))
            progress("recover", len(results), len(everyone))
    sure = _working(results, alpha, settings.decision.least_asr)
    return _concluded(sure, deliveries, clean, alpha=alpha, started=started, device=device)


def effort(
    settings: ModelsSettings, candidates: Sequence[int], samples: int, *, models: int
) -> int:
    """Count the images that go through one model and back, at most.

    Args:
        settings: of the audit.
        candidates: how many there are of each kind.
        samples: clean ones.
        models: how many there are.

    Returns:
        Images; one that goes through without gradients counts a third.
    """
    rule, held = settings.elimination, min(samples, settings.most_samples) // 2
    total = 0.0
    for kind, count in zip(settings.kinds, candidates, strict=True):
        kept = count
        if count > rule.most and not kind.by_source:
            short = rule.short(kind.search)
            total += count * (short.steps * short.batch + min(held, rule.most_images) / 3)
            kept = min(count, models * (rule.kept + rule.kept // 2) + rule.controls)
        total += kept * (kind.search.steps * kind.search.batch + min(held, 256) / 3)
    again = settings.recovery
    total += 3 * again.search.steps * again.search.batch  # the suspect, and the reference twice
    return round(total + again.tuning.steps * again.tuning.batch_size)


def _surveys(  # noqa: PLR0917
    fit: Sequence[Examined],
    searched: Pool,
    held: Pool,
    classes: int,
    settings: ModelsSettings,
    seed: Seed,
    progress: Progress,
    store: Store,
) -> list[Survey]:
    if len(fit) < 2:
        return []
    steps = _steps(len(settings.kinds) * len(fit), progress)
    found = [
        survey(
            kind,
            fit,
            searched,
            held,
            classes,
            elimination=settings.elimination,
            seed=child(seed, "survey"),
            store=store,
            done=lambda: next(steps),
        )
        for kind in settings.kinds
    ]
    return [each for each in found if each is not None]


def _answering(
    fit: Sequence[Examined],
    surveys: Sequence[Survey],
    everyone: Sequence[Examined],
    unfit: Sequence[str],
) -> tuple[list[Examined], list[Survey], list[str]]:
    """Leave out models that answer NaN or infinity to what was searched, and say so."""
    sound = [all(s.margins[i].isfinite().all() for s in surveys) for i in range(len(fit))]
    rows = [i for i, is_sound in enumerate(sound) if is_sound]
    odd = [model for model, is_sound in zip(fit, sound, strict=True) if not is_sound]
    reasons = [
        "it answers NaN or infinity on triggered samples" if model in odd else reason
        for model, reason in zip(everyone, unfit, strict=True)
    ]
    if len(rows) < 2:
        return [fit[i] for i in rows], [], reasons
    kept = [
        dataclasses.replace(each, margins=each.margins[rows], asr=each.asr[rows])
        for each in surveys
    ]
    return [fit[i] for i in rows], kept, reasons


def _check(deliveries: Sequence[Delivery], clean: Samples, alpha: float) -> None:
    if not 0 < alpha < 1:
        raise InputError(f"expected alpha in (0, 1), got {alpha}")
    if len(deliveries) < 2:
        raise InputError(f"expected two or more models, got {len(deliveries)}")
    if not clean.is_image:
        raise InputError(f"expected clean images, got rows of shape {tuple(clean.inputs.shape)}")
    if clean.classes < 2:
        raise InputError(f"expected at least two classes, got {clean.class_names}")
    if len(clean) < 4:
        raise InputError(f"expected at least four clean samples, got {len(clean)}")
    names = [delivery.name for delivery in deliveries]
    if len(set(names)) < len(names):
        raise InputError(f"expected a name of its own for every model, got {names}")


def _steps(total: int, progress: Progress) -> Iterator[None]:
    for done in range(1, total + 1):
        progress("search", done, total)
        yield


def _judge(  # noqa: PLR0917
    fit: Sequence[Examined],
    model: int,
    surveys: Sequence[Survey],
    decision: Decision,
    alpha: float,
    everyone: Sequence[Examined],
) -> _Judged:
    asked: dict[tuple[int, int], Question] = {}
    smallest: dict[bool, tuple[float, tuple[int, int]]] = {}
    width = decision.width(surveys, model)
    for number, found in enumerate(surveys):
        standings = {
            False: decision.against_others(found, model, width),
            True: decision.alone(found, model, width),
        }
        for alone, standing in standings.items():
            p_value = decision.corrected(standing, found, alone=alone)
            top = (p_value, (number, int(standing.p_values.argmin())))
            smallest[alone] = min(smallest.get(alone, top), top)
        threshold = decision.threshold(alpha, found, models=len(everyone))
        name = fit[model].delivery.name
        of_kind = _questions(name, found, model, standings[False], standings[True], threshold)
        asked |= {(number, row): question for row, question in enumerate(of_kind)}
    questions = list(asked.values())
    joint = decision.together(surveys, model, width)
    if joint is not None:
        p_value = decision.corrected_together(joint)
        top = (p_value, joint.best[int(joint.standing.p_values.argmin())])
        smallest[False] = min(smallest[False], top)
        threshold = decision.threshold_together(alpha, joint, models=len(everyone))
        questions += _together([asked[place] for place in joint.best], joint, threshold)
    p_value, top_question = min(smallest.values())
    return _Judged(
        p_value=p_value, alone=smallest[True][0], questions=tuple(questions), top=top_question
    )


def _questions(  # noqa: PLR0917
    name: str, found: Survey, model: int, others: Standing, alone: Standing, threshold: float
) -> list[Question]:
    compared = reference(found.margins, model)
    return [
        Question(
            model=name,
            family=found.kind.family.name,
            source=None if source == ANY else source,
            target=target,
            margin=found.margins[model, row].item(),
            asr=found.asr[model, row].item(),
            reference_margin=compared[row].item(),
            excess=others.excess[row].item(),
            threshold=threshold,
            p_value=others.p_values[row].item(),
            alone=alone.excess[row].item(),
            alone_p_value=alone.p_values[row].item(),
        )
        for row, (source, target) in enumerate(
            zip(found.candidates.sources.tolist(), found.candidates.targets.tolist(), strict=True)
        )
    ]


def _together(best: Sequence[Question], joint: Together, threshold: float) -> list[Question]:
    """Show what all kinds say of a target on the trigger that works on most samples."""
    excess, p_values = joint.standing.excess.tolist(), joint.standing.p_values.tolist()
    return [
        dataclasses.replace(
            question,
            family=TOGETHER,
            excess=excess[place],
            threshold=threshold,
            p_value=p_values[place],
            alone=None,
            alone_p_value=None,
        )
        for place, question in enumerate(best)
    ]


def _recover(  # noqa: PLR0917
    judged: _Judged,
    surveys: Sequence[Survey],
    fit: Sequence[Examined],
    suspect: Examined,
    everyone: Sequence[Examined],
    searched: Pool,
    held: Pool,
    settings: ModelsSettings,
    seed: Seed,
) -> Recovered:
    """Search the top candidate again, against the model that answers to it least.

    Where its kind is not put on images, those that are are tried: the one that worked best on its
    target, or all of them where none has searched it to the end. What leads most samples is kept.
    """
    own = fit.index(suspect)
    number, row = _shown(judged.top, surveys, own)
    found = surveys[number]
    others = [place for place, model in enumerate(fit) if model is not suspect]
    least = min(others, key=lambda place: found.margins[place, row].item())
    kinds = [found.kind] if found.kind.shown else [kind for kind in settings.kinds if kind.is_seen]
    recovered = [
        settings.recovery(
            suspect,
            fit[least],
            everyone,
            searched=searched,
            held=held,
            family=kind.family,
            one=found.candidates.subset(torch.tensor([row])),
            seed=child(seed, "recover", suspect.delivery.name),
        )
        for kind in kinds or [found.kind]
    ]
    return max(recovered, key=lambda each: each.asr[everyone.index(suspect)])


def _shown(top: tuple[int, int], surveys: Sequence[Survey], model: int) -> tuple[int, int]:
    if surveys[top[0]].kind.shown:
        return top
    target = surveys[top[0]].candidates.targets[top[1]]
    choices = [
        (found.asr[model, row].item(), (number, row))
        for number, found in enumerate(surveys)
        if found.kind.is_seen
        for row in (found.candidates.targets == target).nonzero().squeeze(1).tolist()
    ]
    return max(choices)[1] if choices else top


def _result(
    name: str, accuracy: float, unfit: str, judged: _Judged | None, recovered: Recovered | None
) -> ModelResult:
    """Note what was found; p-values are not yet corrected over the models."""
    return ModelResult(
        name=name,
        accuracy=accuracy,
        verdict=Verdict.INCONCLUSIVE,
        p_value=None if judged is None else judged.p_value,
        alone_p_value=None if judged is None else judged.alone,
        reason=unfit or ("" if judged else "there is no other model to compare it with"),
        recovered=recovered,
        questions=() if judged is None else judged.questions,
    )


def _working(results: Sequence[ModelResult], alpha: float, least_asr: float) -> list[ModelResult]:
    """Judge no model by a trigger that stands out but does not work: it may be a decoy."""
    sure = []
    for place, (result, p_value) in enumerate(zip(results, adjusted(results), strict=True)):
        found = result.recovered
        if found is None or p_value > alpha or found.asr[place] >= least_asr:
            sure.append(result)
            continue
        reason = (
            f"a trigger stands out (adjusted p-value {p_value:.2g}), but recovered it leads only "
            f"{found.asr[place]:.0%} of the samples to its target"
        )
        sure.append(dataclasses.replace(result, p_value=None, reason=reason))
    return sure


def _concluded(
    results: Sequence[ModelResult],
    deliveries: Sequence[Delivery],
    clean: Samples,
    *,
    alpha: float,
    started: float,
    device: torch.device,
) -> ModelsAudit:
    models = with_verdicts(results, alpha)
    return ModelsAudit(
        findings=findings(
            results,
            samples=len(clean),
            subjects=[
                _subject(*pair, clean.class_names) for pair in zip(deliveries, models, strict=True)
            ],
            reasons=_reasons(models, clean.class_names, alpha),
            not_examined=NOT_EXAMINED,
            alpha=alpha,
            started=started,
            device=device,
        ),
        models=models,
        class_names=clean.class_names,
    )


def _reasons(
    models: Sequence[ModelResult], names: tuple[str, ...], alpha: float
) -> tuple[str, ...]:
    said = []
    for model in models:
        if model.verdict is Verdict.INCONCLUSIVE:
            said.append(f"Model {model.name!r} could not be judged: {model.reason}.")
        if model.verdict is Verdict.FLAGGED and model.recovered is not None:
            found = model.recovered
            place = [m.name for m in models].index(model.name)
            others = [a for i, a in enumerate(found.asr) if i != place]
            images = "samples" if found.source is None else f"samples of {names[found.source]!r}"
            said.append(
                f"Model {model.name!r}: a recovered trigger ({found.family}) leads "
                f"{found.asr[place]:.0%} of {images} to {names[found.target]!r}, and of the other "
                f"models at most {max(others):.0%} (adjusted p-value {model.p_value:.2g})."
            )
    if not said:
        said.append(
            "No model answers to a trigger of the searched kinds much better than the others do, "
            f"or than to other triggers, at a family-wise false alarm rate of {alpha:g}."
        )
    return tuple(said)


def _subject(delivery: Delivery, model: ModelResult, names: tuple[str, ...]) -> Subject:
    found = model.recovered if model.verdict is Verdict.FLAGGED else None
    evidence: dict[str, object] = {
        "accuracy": model.accuracy,
        "alone_p_value": model.alone_p_value,
        "reason": model.reason,
    }
    if found is not None:
        evidence |= {"family": found.family, "asr": list(found.asr), "asr_tuned": found.asr_tuned}
    return Subject(
        name=delivery.name,
        digest=delivery.digest,
        verdict=model.verdict,
        p_value=model.p_value,
        target=None if found is None else names[found.target],
        evidence=evidence,
        assumptions=ASSUMPTIONS,
    )
