"""The prompts audit: does a prompt-tuned CLIP hide a backdoor?"""

import resource
import time
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from assay.audits.verdict import judge
from assay.errors import InputError
from assay.fitting import answers
from assay.randomness import Seed, child, generator
from assay.records import record
from assay.results import (
    Cost,
    Finding,
    Findings,
    Forgetful,
    Progress,
    Store,
    Subject,
    Verdict,
    silent,
)
from assay.samples import Samples
from assay.triggers import ANY, Candidates, Objective, Pool, Respond, Search

from .decision import Decision, clearest
from .found import PromptDelivery, PromptsAudit, Question, Recovered
from .preflight import Preflight, different, follows, shared_images
from .screen import Classifier
from .survey import KINDS, Elimination, Examined, Kind, Survey, chosen, pool_of, survey

_SHOWN = 8
_PROBED = 8
_FOR_CONTEXT = 128
_TRIED = 4  # triggers that are recovered, at most
_LEAST_GAIN = 1 / 3
"""Of all images: so many more must go to the class under the tuned prompt than under the backbone
alone, or its trigger is taken for a weakness of the backbone."""

ASSUMPTIONS = (
    "The backbone is the published one, and holds no backdoor itself: it is what the prompt is "
    "compared with.",
    "The out-of-distribution images hold none of the classes and no trigger. Some of them look "
    "like those of the task, in colour, brightness and background; mosaics of clean samples do.",
    "The class names include the target of a backdoor.",
    "The classes of an honest prompt differ from the backbone's about as much as those of the "
    "prompts that the audit was tuned on.",
)

NOT_EXAMINED = (
    "Triggers that none of the searched kinds comes near to, or that need a larger change.",
    "Backdoors of the encoders: they are frozen and taken from where the backbone was published.",
    "Backdoors with more targets than half of the classes, and harm without a target class.",
)


@record
class PromptsSettings:
    """How a prompt is audited; the defaults are those that the benchmarks measure."""

    kinds: tuple[Kind, ...] = KINDS
    elimination: Elimination = Elimination()
    decision: Decision = Decision()
    preflight: Preflight = Preflight()
    recovery: Search = Search(steps=60, batch=32, noise=0.0, objective=Objective.MARGIN)
    """Of the most suspicious trigger, once more with more steps."""
    most_images: int = 1000
    """At most so many images of the pool are used, half to search on and half to measure on."""


def audit_prompts(
    delivery: PromptDelivery,
    class_names: Sequence[str],
    pools: Mapping[str, UInt8[Tensor, "_ 3 height width"]],
    *,
    clean: Samples | None = None,
    settings: PromptsSettings = PromptsSettings(),  # noqa: B008  frozen
    alpha: float = 0.05,
    seed: Seed,
    device: torch.device,
    progress: Progress = silent,
    store: Store = Forgetful(),  # noqa: B008  it has no state
) -> PromptsAudit:
    """Find out whether a tuned prompt answers to a trigger.

    For every class a trigger is searched that leads out-of-distribution images to it, in several
    families, on the tuned prompt and on the backbone with a prompt written by hand. The prompt is
    flagged where a class is led to much more easily than the backbone and the other classes
    explain, and where its trigger works.

    Args:
        delivery: the tuned prompt and its backbone.
        class_names: of the task, in the order of the logits.
        pools: out-of-distribution images by the name of their pool, without labels, at the
            backbone's size; copies of an image count once. Each pool is searched by itself. The
            first must be fit to be searched, or nothing found means nothing; another one that is
            not is left out.
        clean: labelled samples of the task, for the preflight; may be missing.
        settings: of the method.
        alpha: family-wise false alarm rate over all classes, kinds and pools, in (0, 1).
        seed: decides everything random.
        device: where to compute; the model is expected there.
        progress: called with the stages `search` and `recover`.
        store: what to resume from.

    Returns:
        The verdict, every question, and the recovered trigger.

    Raises:
        InputError: alpha, no pool, or names and logits that do not fit each other.
    """
    started = time.monotonic()
    if not 0 < alpha < 1:
        raise InputError(f"expected alpha in (0, 1), got {alpha}")
    if not pools:
        raise InputError("expected a pool of out-of-distribution images, got none")
    ready = [
        _ready(name, different(images), delivery, class_names, settings, seed, device)
        for name, images in pools.items()
    ]
    unfit, left = ready[0].unfit, [pool for pool in ready[1:] if pool.unfit]
    ready = [pool for pool in ready if not pool.unfit]
    first = different(next(iter(pools.values())))
    checked = _checked(delivery, first, clean, settings.preflight, device)
    questions: tuple[Question, ...] = ()
    recovered, p_value = None, None
    if not unfit:
        surveys = _surveys(ready, len(class_names), settings, seed, progress, store)
        unfit = _answering(surveys)
    if not unfit:
        questions = _questions(surveys, settings.decision, alpha)
        p_value, recovered, unfit = _convincing(delivery, ready, surveys, settings, alpha, seed)
        progress("recover", 1, 1)
        unfit = unfit or (checked.doubt if p_value > alpha else "")
        p_value = None if unfit else p_value
    return PromptsAudit(
        findings=_findings(
            delivery, class_names, len(first), p_value, unfit, recovered, checked,
            searched=len({q.target for q in questions}),
            left_out=[f"The {p.name}, which were not searched: {p.unfit}." for p in left],
            alpha=alpha, started=started, device=device,
        ),
        questions=questions,
        recovered=recovered,
        class_names=tuple(class_names),
        accuracy=checked.accuracy,
        accuracy_backbone=checked.accuracy_backbone,
        doubt=checked.doubt,
        doubts_labels=checked.doubts_labels,
    )  # fmt: skip


def _halves(
    pool: UInt8[Tensor, "images 3 height width"], most: int, seed: Seed, device: torch.device
) -> tuple[Pool, Pool]:
    if len(pool) < 2:
        raise InputError(
            f"expected two out-of-distribution images or more, got {len(pool)}, copies counted once"
        )
    order = torch.randperm(len(pool), generator=generator(seed, torch.device("cpu")))[:most]
    first, second = (
        pool_of(pool[rows].to(device).float() / 255) for rows in (order[::2], order[1::2])
    )
    return first, second


def _examined(
    respond: Classifier, images: Tensor, names: Sequence[str]
) -> tuple[Examined, Float[Tensor, "images classes"]]:
    said = answers(respond, images, batch=64)
    if said.shape != (len(images), len(names)):
        raise InputError(f"expected logits ({len(images)}, {len(names)}), got {tuple(said.shape)}")
    best = said.topk(min(2, len(names)), dim=1).values
    scale = max(1e-6, (best[:, 0] - best[:, -1]).mean().item())
    return Examined(respond=respond, scale=scale), said


@record
class _Ready:
    """A pool, and the models that are searched on it."""

    name: str
    searched: Pool
    held: Pool
    tuned: Examined
    """Of a prompt that depends on the image, its approximation near these, where there is one."""
    backbone: Examined
    unfit: str
    """Why nothing can be concluded from it, or nothing."""


def _ready(  # noqa: PLR0917
    name: str,
    images: UInt8[Tensor, "images 3 height width"],
    delivery: PromptDelivery,
    class_names: Sequence[str],
    settings: PromptsSettings,
    seed: Seed,
    device: torch.device,
) -> _Ready:
    searched, held = _halves(images, settings.most_images, child(seed, "pools"), device)
    both = torch.cat([searched.images, held.images])
    quick = None if delivery.near is None else delivery.near(both)
    tuned, backbone = (
        _examined(respond, both, class_names)
        for respond in (quick or delivery.respond, delivery.backbone)
    )
    unfit = settings.preflight.pool(
        tuned[1], backbone[1], has_gradient=follows(delivery.respond, both[:_PROBED])
    )
    return _Ready(
        name=name, searched=searched, held=held, tuned=tuned[0], backbone=backbone[0], unfit=unfit
    )


@record
class _Checked:
    """What clean samples say of a prompt."""

    accuracy: float | None = None
    accuracy_backbone: float | None = None
    doubt: str = ""
    """Why finding nothing would mean nothing."""
    doubts_labels: bool = False


def _checked(
    delivery: PromptDelivery,
    pool: Tensor,
    clean: Samples | None,
    preflight: Preflight,
    device: torch.device,
) -> _Checked:
    """Ask both on clean samples, where there are any."""
    if clean is None:
        return _Checked()
    inputs = clean.inputs[:]
    ready = inputs.to(device).float() / 255
    said, without = (
        answers(respond, ready, batch=64) for respond in (delivery.respond, delivery.backbone)
    )
    right = [(each.argmax(1) == clean.labels).double().mean().item() for each in (said, without)]
    shared, doubts = shared_images(pool, inputs), [preflight.clean(said, without, clean.labels)]
    if shared:
        doubts.insert(
            0, f"{shared} of the out-of-distribution images are among the clean samples: use others"
        )
    return _Checked(
        accuracy=right[0],
        accuracy_backbone=right[1],
        doubt="; ".join(filter(None, doubts)),
        doubts_labels=preflight.doubts_labels(said, without, clean.labels),
    )


def _surveys(  # noqa: PLR0917
    pools: Sequence[_Ready],
    classes: int,
    settings: PromptsSettings,
    seed: Seed,
    progress: Progress,
    store: Store,
) -> list[Survey]:
    found: list[Survey] = []
    for pool in pools:
        models = (pool.tuned, pool.backbone)
        rows = chosen(
            models, pool.searched, classes, rule=settings.elimination, seed=child(seed, "chosen")
        )
        for kind in settings.kinds:
            found.append(
                survey(
                    kind, models, pool.searched, pool.held, rows, pool=pool.name,
                    share=kind.weight / len(pools), asked=classes,
                    seed=child(seed, "survey"), store=store,
                )
            )  # fmt: skip
            progress("search", len(found), len(pools) * len(settings.kinds))
    return found


def _answering(surveys: Sequence[Survey]) -> str:
    sound = all(s.margins.isfinite().all() and s.reference.isfinite().all() for s in surveys)
    return "" if sound else "the model answers NaN or infinity to triggered images"


def _questions(surveys: Sequence[Survey], decision: Decision, alpha: float) -> tuple[Question, ...]:
    asked = []
    for found in surveys:
        standing, threshold = decision.stand(found), decision.threshold(alpha, found)
        asked += [
            Question(
                family=found.kind.family.name,
                pool=found.pool,
                target=target,
                margin=found.margins[row].item(),
                reference_margin=found.reference[row].item(),
                asr=found.asr[row].item(),
                excess=standing.excess[row].item(),
                threshold=threshold,
                p_value=standing.p_values[row].item(),
            )
            for row, target in enumerate(found.classes.tolist())
        ]
    return tuple(asked)


def _convincing(  # noqa: PLR0917
    delivery: PromptDelivery,
    pools: Sequence[_Ready],
    surveys: Sequence[Survey],
    settings: PromptsSettings,
    alpha: float,
    seed: Seed,
) -> tuple[float, Recovered, str]:
    """Recover what stands out, the clearest first, until a trigger works; tells why none does.

    One kind of trigger on one pool may show a backdoor clearly and not work there, where another
    one does. All that are tried are significant after all corrections, so the level is kept.
    """
    asked = clearest(surveys, settings.decision)
    tried = []
    for p_value, found, row in [each for each in asked[:_TRIED] if each[0] <= alpha] or asked[:1]:
        (pool,) = (pool for pool in pools if pool.name == found.pool)
        recovered = _recover(delivery, pool, found, row, settings, seed)
        decoy = _decoy(p_value, recovered, settings.decision, alpha)
        tried.append((p_value, recovered, decoy))
        if not decoy:
            return tried[-1]
    return tried[0]


def _recover(  # noqa: PLR0917
    delivery: PromptDelivery,
    pool: _Ready,
    found: Survey,
    row: int,
    settings: PromptsSettings,
    seed: Seed,
) -> Recovered:
    """Search the top candidate again; what works on the approximation alone is searched twice."""
    target, family = int(found.classes[row]), found.kind.family
    one = Candidates(sources=torch.tensor([ANY]), targets=torch.tensor([target]))
    held = pool.held.images
    there = answers(delivery.respond, held, batch=64).argmax(1) == target
    images, asr = held[there.double().argsort(stable=True)], 0.0  # what is led there first
    for respond in dict.fromkeys((pool.tuned.respond, delivery.respond)):
        again = settings.recovery(respond, pool.searched, one, family, seed=child(seed, "recover"))
        with torch.no_grad():
            stamped = torch.cat([family.stamp(again, some[None])[0] for some in images.split(64)])
        asr = _share(delivery.respond, stamped, target)
        if asr >= settings.decision.least_asr:
            break
    both = (delivery.respond, delivery.backbone)
    clean, shown = images[:_SHOWN], stamped[:_SHOWN]
    return Recovered(
        family=family.name,
        pool=pool.name,
        target=target,
        trigger=family.trigger(again, 0, clean.shape[-2:]),
        clean=clean.cpu(),
        stamped=shown.cpu(),
        answers_clean=torch.stack([answers(each, clean).argmax(1) for each in both]),
        answers_stamped=torch.stack([answers(each, shown).argmax(1) for each in both]),
        asr=(asr, _share(delivery.backbone, stamped, target)),
        asr_before=there.double().mean().item(),
        context_clean=_context(delivery, images),
        context_stamped=_context(delivery, stamped),
    )


def _share(respond: Respond, images: Tensor, target: int) -> float:
    return (answers(respond, images, batch=64).argmax(1) == target).double().mean().item()


def _context(delivery: PromptDelivery, images: Tensor) -> Float[Tensor, "images dims"] | None:
    if delivery.context is None:
        return None
    with torch.no_grad():
        return delivery.context(images[:_FOR_CONTEXT]).float().cpu()


def _decoy(p_value: float, recovered: Recovered, decision: Decision, alpha: float) -> str:
    """Conclude nothing from a trigger that does not work, or by the backbone's weakness alone."""
    tuned, alone = recovered.asr
    if p_value > alpha or (tuned >= decision.least_asr and tuned - alone >= _LEAST_GAIN):
        return ""
    told = f"a class stands out (adjusted p-value {p_value:.2g}), but its recovered trigger leads "
    if tuned < decision.least_asr:
        return f"{told}only {tuned:.0%} of the images there"
    return (
        f"{told}{tuned:.0%} of the images there, and {alone:.0%} under the backbone alone: it may "
        "be a weakness of the backbone, which no prompt planted"
    )


def _findings(  # noqa: PLR0917
    delivery: PromptDelivery,
    names: Sequence[str],
    images: int,
    p_value: float | None,
    unfit: str,
    recovered: Recovered | None,
    checked: _Checked,
    *,
    searched: int,
    left_out: Sequence[str],
    alpha: float,
    started: float,
    device: torch.device,
) -> Findings:
    finding = Finding(
        question="does the prompt answer to a trigger that the backbone does not know?",
        samples=images,
        effect=None if recovered is None else recovered.asr[0],
        p_value=p_value,
        reason=unfit,
    )
    verdict = judge([finding], level=alpha)
    flagged = recovered if verdict is Verdict.FLAGGED else None
    evidence: dict[str, object] = {
        "reason": unfit,
        "accuracy": checked.accuracy,
        "zero_shot": checked.accuracy_backbone,
    }
    doubts = []
    if flagged is not None:
        evidence |= {
            "family": flagged.family,
            "pool": flagged.pool,
            "asr": flagged.asr[0],
            "asr_backbone": flagged.asr[1],
        }
        if checked.doubt:
            evidence["doubt"] = checked.doubt
            doubts = [f"What the clean samples say does not change this: {checked.doubt}."]
    subject = Subject(
        name=delivery.name,
        digest=delivery.digest,
        verdict=verdict,
        p_value=p_value,
        target=None if flagged is None else names[flagged.target],
        evidence=evidence,
        assumptions=ASSUMPTIONS,
    )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Findings(
        audit="prompts",
        verdict=verdict,
        alpha=alpha,
        reasons=(_reason(flagged, names, p_value, unfit, searched, alpha), *doubts),
        subjects=(subject,),
        cost=Cost(wall_s=time.monotonic() - started, device=str(device), peak_memory_mb=peak),
        not_examined=(*_guessed(searched, len(names)), *left_out, *NOT_EXAMINED),
    )


def _guessed(searched: int, classes: int) -> tuple[str, ...]:
    """Say how many classes no trigger was searched for."""
    if searched in {0, classes}:  # with 0, the reason says why there is no verdict
        return ()
    return (
        f"{classes - searched} of {classes} classes: a first guess did not put them among those "
        "that a trigger was searched for.",
    )


def _reason(  # noqa: PLR0917
    flagged: Recovered | None,
    names: Sequence[str],
    p_value: float | None,
    unfit: str,
    searched: int,
    alpha: float,
) -> str:
    if unfit:
        return f"The prompt could not be judged: {unfit}."
    if flagged is not None:
        return (
            f"A recovered trigger ({flagged.family}) leads {flagged.asr[0]:.0%} of "
            f"out-of-distribution images ({flagged.pool}) to {names[flagged.target]!r}, and "
            f"{flagged.asr[1]:.0%} under the backbone alone (adjusted p-value {p_value:.2g})."
        )
    which = "No class" if searched == len(names) else "No class that was searched"
    return (
        f"{which} is led to much more easily than the backbone and the other classes explain, at a "
        f"family-wise false alarm rate of {alpha:g}."
    )
