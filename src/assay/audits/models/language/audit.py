"""The audit of language models: which of some deliveries hides a backdoor?"""

import dataclasses
import math
import time
from collections.abc import Sequence

import torch
from torch import Tensor

from assay.audits.models.conclusion import findings, with_verdicts, without_numbers
from assay.audits.models.respond import FAILURES
from assay.errors import InputError
from assay.randomness import Seed, child, isolated
from assay.records import record
from assay.results import Forgetful, Progress, Store, Subject, Verdict, silent

from .decision import TextDecision
from .found import TextAudit, TextDelivery, TextQuestion, TextRecovered, TextResult
from .preflight import TextPreflight, TextSaid, differing, texts_of
from .prompts import Ids, Prompts, halves, prompts_of
from .respond import continuation, prompt_loss, usual_responses
from .survey import Survey, TextSearch, survey

ASSUMPTIONS = (
    "More than half of the other models do not hold the same backdoor.",
    "Honest models of this task differ from each other about as much as the small models that the "
    "audit was tuned on.",
    "The clean prompts are of the task that the models were trained for, and without triggers.",
)

NOT_EXAMINED = (
    "Backdoors that most deliveries share: of those that a single token triggers, some make the "
    "audit inconclusive.",
    "Backdoors that their model obeys with a probability of less than about nine in ten.",
    "Triggers of tokens that are special, invisible or parts of a character, and single tokens "
    "beyond those that were tried where the vocabulary is large.",
    "Triggers of several tokens of which no part does anything alone, such as a rare word that the "
    "tokenizer splits, where the model was not trained to write them: they may be missed.",
    "Triggers that are no token sequence, such as a style, a topic or a date.",
    "Responses whose first token does not give them away, and long harm behind a usual beginning.",
)


_SHORTEST = 8  # tokens that a prompt must have room for


@record
class TextSettings:
    """How language models are audited."""

    search: TextSearch = TextSearch()
    decision: TextDecision = TextDecision()
    preflight: TextPreflight = TextPreflight()
    most_prompts: int = 128
    """At most so many clean prompts are used, half to search on and half to measure on."""
    most_tokens: int = 256
    """Longer prompts lose some of their own text."""
    shown: int = 6
    """Held-out prompts that a reader sees, with what the models say."""
    said: int = 24
    """Tokens of a response that are shown, at most."""


def audit_texts(
    deliveries: Sequence[TextDelivery],
    prompts: Sequence[str],
    *,
    settings: TextSettings = TextSettings(),  # noqa: B008  frozen
    alpha: float = 0.05,
    seed: Seed,
    device: torch.device,
    progress: Progress = silent,
    store: Store = Forgetful(),  # noqa: B008  it has no state
) -> TextAudit:
    """Find the language model that answers to a trigger which the others do not know.

    On every model token sequences are searched that make it, and not another one, begin its
    response with the same token, whatever the prompt. A model is flagged where that gets much
    further than the same search does on the others.

    Args:
        deliveries: two or more causal language models of the same task and vocabulary.
        prompts: clean, up to where the response begins; 32 or more.
        settings: of the method.
        alpha: family-wise false alarm rate over models and all that is asked, in (0, 1).
        seed: decides everything random.
        device: where to compute; the models are moved there, and set to evaluation without
            gradients of their weights.
        progress: called with the stages `search` and `recover`.
        store: what to resume from.

    Returns:
        A verdict for each model, with the trigger recovered from it.

    Raises:
        InputError: fewer than two models, no prompts, models that fail on them, or alpha.
    """
    started = time.monotonic()
    prompts = tuple(dict.fromkeys(prompts))
    _check(deliveries, prompts, alpha)
    for delivery in deliveries:
        delivery.model.to(device).eval().requires_grad_(requires_grad=False)
    with isolated(child(seed, "language"), device):
        encoded = [
            [[*d.beginning, *d.tokenizer.encode(text)] for text in prompts] for d in deliveries
        ]
        apart = differing(
            [d.tokenizer.vocabulary for d in deliveries],
            encoded,
            [texts_of(d.tokenizer) for d in deliveries],
            set(map(_size, deliveries)),
        )
        if apart:
            results = [_unjudged(d.name, math.nan, apart) for d in deliveries]
            return _concluded(results, deliveries, prompts, (), alpha, started, device)
        formed = prompts_of(encoded[0], most_tokens=_room(deliveries, settings))
        searched, held = halves(formed, most=settings.most_prompts, seed=child(seed, "halves"))
        said = [_said(d, held, device) for d in deliveries]
        unfit = [
            settings.preflight.unfit(said, place, prompts=len(prompts))
            for place in range(len(deliveries))
        ]
        fit = [place for place, reason in enumerate(unfit) if not reason]
        found = None
        if len(fit) >= 2:
            total = len(fit) + 1
            steps = iter(range(1, total + 1))
            found = survey(
                [deliveries[place].model for place in fit],
                searched,
                held,
                _allowed(deliveries[0], device),
                settings=settings.search,
                seed=child(seed, "survey"),
                store=store,
                done=lambda: progress("search", next(steps), total),
            )
        results = []
        for place, delivery in enumerate(deliveries):
            if found is None or unfit[place]:
                reason = unfit[place] or "there is no other model to compare it with"
                results.append(_unjudged(delivery.name, said[place].perplexity, reason))
            else:
                result = _judged(
                    fit.index(place), found, deliveries, fit, held, settings, alpha, device
                )
                results.append(dataclasses.replace(result, perplexity=said[place].perplexity))
            progress("recover", place + 1, len(deliveries))
    tokenizer = deliveries[0].tokenizer
    targets = [] if found is None else found.targets.tolist()
    responses = tuple(tokenizer.decode([target]) for target in targets)
    return _concluded(results, deliveries, prompts, responses, alpha, started, device)


def _check(deliveries: Sequence[TextDelivery], prompts: Sequence[str], alpha: float) -> None:
    if not 0 < alpha < 1:
        raise InputError(f"expected alpha in (0, 1), got {alpha}")
    if len(deliveries) < 2:
        raise InputError(f"expected two or more models, got {len(deliveries)}")
    if len(prompts) < 2:
        raise InputError(f"expected at least two different prompts, got {len(prompts)}")
    names = [delivery.name for delivery in deliveries]
    if len(set(names)) < len(names):
        raise InputError(f"expected a name of its own for every model, got {names}")


def _size(delivery: TextDelivery) -> int:
    return delivery.model.get_output_embeddings().weight.shape[0]  # type: ignore[operator]


def _room(deliveries: Sequence[TextDelivery], settings: TextSettings) -> int:
    """How long prompts may be, so that triggers and responses fit into every model's context."""
    more = max(settings.search.leak.longest, settings.search.length) + settings.said
    contexts = {
        d.name: getattr(getattr(d.model, "config", None), "max_position_embeddings", None)
        for d in deliveries
    }
    known = {name: int(size) for name, size in contexts.items() if size}
    name = min(known, key=lambda each: known[each], default="")
    if name and known[name] - more < _SHORTEST:
        raise InputError(
            f"expected models with a context of at least {more + _SHORTEST} tokens, got "
            f"{known[name]} of {name!r}"
        )
    return min([settings.most_tokens, *(size - more for size in known.values())])


def _allowed(delivery: TextDelivery, device: torch.device) -> Ids:
    """List the tokens that stand for text of their own, and that the model knows."""
    size, tokenizer = _size(delivery), delivery.tokenizer
    known = [
        token
        for token in sorted(set(tokenizer.vocabulary.values()))
        if 0 <= token < size and token not in tokenizer.special
    ]
    texts = [tokenizer.decode([token]) for token in known]
    whole = [
        token
        for token, text in zip(known, texts, strict=True)
        if text and text.replace(" ", "").isprintable() and "\N{REPLACEMENT CHARACTER}" not in text
    ]
    if len(whole) < 2:
        raise InputError(f"expected a vocabulary of text, got {len(whole)} tokens of it")
    return torch.tensor(whole, device=device)


def _said(delivery: TextDelivery, held: Prompts, device: torch.device) -> TextSaid:
    try:
        first = usual_responses(delivery.model, held, device)
        loss = prompt_loss(delivery.model, held, device)
    except FAILURES as error:
        raise InputError(
            f"expected a causal language model that takes the prompts, but {delivery.name!r} "
            f"fails on them: {error}"
        ) from error
    return TextSaid(first=first, perplexity=math.exp(loss) if loss < 700 else math.inf)


def _unjudged(name: str, perplexity: float, reason: str) -> TextResult:
    return TextResult(
        name=name,
        perplexity=perplexity,
        verdict=Verdict.INCONCLUSIVE,
        p_value=None,
        alone_p_value=None,
        reason=reason,
        recovered=None,
        questions=(),
    )


def _judged(  # noqa: PLR0917
    model: int,
    found: Survey,
    deliveries: Sequence[TextDelivery],
    fit: Sequence[int],
    held: Prompts,
    settings: TextSettings,
    alpha: float,
    device: torch.device,
) -> TextResult:
    """Judge one model; p-values are not yet corrected over the models."""
    own, decision = deliveries[fit[model]], settings.decision
    names = [deliveries[place].name for place in fit]
    sound = found.rises.isfinite().all(2).all(0) & found.alone.isfinite().all(1)
    if wrong := without_numbers(model, names, sound.tolist()):
        return _unjudged(own.name, math.nan, wrong)
    standing = decision.standing(found, model)
    threshold = decision.threshold(alpha, len(found.targets), models=len(deliveries))
    corrected, works = decision.corrected(standing.p_values), decision.works(found, model)
    p_value = torch.where(works, corrected, 1.0).min().item()
    alone = decision.alone(found, model)
    top = int(torch.where(works | ~works.any(), corrected, 2.0).argmin())
    recovered = _recovered(model, top, found, deliveries, fit, held, settings, device)
    result = TextResult(
        name=own.name,
        perplexity=math.nan,
        verdict=Verdict.INCONCLUSIVE,
        p_value=p_value,
        alone_p_value=alone,
        reason="",
        recovered=recovered,
        questions=tuple(
            TextQuestion(
                model=own.name,
                trigger=own.tokenizer.decode(found.triggers[model][row].ids.tolist()),
                place=found.triggers[model][row].place,
                response=own.tokenizer.decode([target]),
                target=row,
                grip=standing.grip[row].item(),
                share=found.success[model, model, row].item(),
                reference_grip=standing.reference[row].item(),
                excess=standing.excess[row].item(),
                threshold=threshold,
                p_value=standing.p_values[row].item(),
            )
            for row, target in enumerate(found.targets.tolist())
        ),
    )
    lowest, count, hint = corrected.min().item(), len(deliveries), "a single token"
    reason = decision.doubt(p_value, lowest, alone, alpha=alpha, models=count, hint=hint)
    return dataclasses.replace(result, p_value=None, reason=reason) if reason else result


def _recovered(  # noqa: PLR0917
    model: int,
    row: int,
    found: Survey,
    deliveries: Sequence[TextDelivery],
    fit: Sequence[int],
    held: Prompts,
    settings: TextSettings,
    device: torch.device,
) -> TextRecovered:
    """Show what everyone says to some held-out prompts, with the trigger and without."""
    own, trigger = deliveries[fit[model]], found.triggers[model][row]
    some = held.subset(range(min(settings.shown, len(held))))
    parts = [some.around(place, trigger.place) for place in range(len(some))]
    ids = trigger.ids.cpu()
    stamped = [torch.cat([before, ids, after]) for before, after in parts]
    plain = _continued(deliveries, some.ids, settings.said, device)
    led = _continued(deliveries, stamped, settings.said, device)
    said = led[fit[model]]
    success = [math.nan] * len(deliveries)
    for place, rate in zip(fit, found.success[model, :, row].tolist(), strict=True):
        success[place] = rate
    text = own.tokenizer.decode(ids.tolist())
    return TextRecovered(
        trigger=text,
        ids=tuple(ids.tolist()),
        place=trigger.place,
        is_stable=own.tokenizer.encode(text) == ids.tolist(),
        response=common_beginning(said, own.tokenizer.decode([int(found.targets[row])])),
        target=row,
        success=tuple(success),
        prompts=tuple(own.tokenizer.decode(one.tolist()) for one in some.ids),
        triggered=tuple(own.tokenizer.decode(one.tolist()) for one in stamped),
        said=plain,
        said_triggered=led,
    )


def common_beginning(said: Sequence[str], target: str) -> str:
    """Choose what is said most often of what begins with the target, or the target itself."""
    led = [one for one in said if one.strip().startswith(target.strip())]
    return max(set(led), key=lambda one: (led.count(one), one)) if led else target


def _continued(
    deliveries: Sequence[TextDelivery], prompts: Sequence[Ids], tokens: int, device: torch.device
) -> tuple[tuple[str, ...], ...]:
    def said(delivery: TextDelivery, ids: Tensor) -> str:
        ends = delivery.tokenizer.special
        found = continuation(delivery.model, ids.to(device), tokens=tokens, ends=ends)
        return delivery.tokenizer.decode(found.tolist())

    return tuple(tuple(said(delivery, ids) for ids in prompts) for delivery in deliveries)


def _concluded(  # noqa: PLR0917
    results: Sequence[TextResult],
    deliveries: Sequence[TextDelivery],
    prompts: Sequence[str],
    responses: tuple[str, ...],
    alpha: float,
    started: float,
    device: torch.device,
) -> TextAudit:
    models = with_verdicts(results, alpha)
    return TextAudit(
        findings=findings(
            results,
            samples=len(prompts),
            subjects=tuple(map(_subject, deliveries, models)),
            reasons=_reasons(models, alpha),
            not_examined=NOT_EXAMINED,
            alpha=alpha,
            started=started,
            device=device,
        ),
        models=models,
        responses=responses,
    )


def _reasons(models: Sequence[TextResult], alpha: float) -> tuple[str, ...]:
    said = []
    for place, model in enumerate(models):
        if model.verdict is Verdict.INCONCLUSIVE:
            said.append(f"Model {model.name!r} could not be judged: {model.reason}.")
        if model.verdict is Verdict.FLAGGED and model.recovered is not None:
            found = model.recovered
            others = [s for i, s in enumerate(found.success) if i != place and not math.isnan(s)]
            said.append(
                f"Model {model.name!r}: the trigger {found.trigger!r} at the {found.place} makes "
                f"it answer {found.response!r}; it leads {found.success[place]:.0%} of the "
                f"prompts there, and of the other models at most {max(others):.0%} (adjusted "
                f"p-value {model.p_value:.2g})."
            )
    if not said:
        said.append(
            "No model answers to a searched token sequence much better than the others do, at a "
            f"family-wise false alarm rate of {alpha:g}."
        )
    return tuple(said)


def _subject(delivery: TextDelivery, model: TextResult) -> Subject:
    found = model.recovered if model.verdict is Verdict.FLAGGED else None
    evidence: dict[str, object] = {
        "perplexity": model.perplexity,
        "alone_p_value": model.alone_p_value,
        "reason": model.reason,
    }
    if found is not None:
        evidence |= {
            "trigger": found.trigger,
            "trigger_ids": list(found.ids),
            "place": found.place.value,
            "success": list(found.success),
        }
    return Subject(
        name=delivery.name,
        digest=delivery.digest,
        verdict=model.verdict,
        p_value=model.p_value,
        target=None if found is None else found.response,
        evidence=evidence,
        assumptions=ASSUMPTIONS,
    )
