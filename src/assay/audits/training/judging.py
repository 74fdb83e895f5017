"""The training audit: which provider left the recipe?"""

import collections
from collections.abc import Mapping, Sequence

import torch

from assay.errors import InputError
from assay.records import record
from assay.results import Cost, Findings, Subject, Verdict
from assay.stats import holm

from .comparing import LAYERS, UPDATE
from .decision import Decision, View
from .evidence import Comparison, Delivery
from .faults import faulty
from .found import Agreement, FaultyDelivery, ProviderResult, Question, Tier, TrainingAudit
from .tolerance import Profile

ASSUMPTIONS = (
    "At least half of the providers of a replicated sub-run executed it as asked, or a replica of "
    "the client's own is among them.",
    "Providers that deviate do not agree with each other: who colludes in one deviation looks like "
    "the honest ones do, and with as many of them as there are honest ones nobody can tell them "
    "apart.",
    "Which sub-runs are replicated is unknown to the providers until they have delivered: they do "
    "not tell each other what they were sent (a bundle that one has and another lacks is checked "
    "by nobody), nor know how many replicas there are (who has seen them all knows that no more "
    "follow).",
    "The recipe itself (data, code, start weights) is clean: what all providers are told to do is "
    "not examined.",
)

NOT_EXAMINED = (
    "Sub-runs that were not replicated.",
    "Deviations that move the weights less than honest environments differ.",
    "The start weights, the data and the code of the recipe.",
)


@record
class TrainingSettings:
    """How replicas are judged; the defaults are those that the benchmarks measure."""

    decision: Decision = Decision()
    distances: tuple[str, ...] = (LAYERS, UPDATE)
    """Those that verdicts rest on; others are shown. The first one says who agrees."""


def judge_training(
    deliveries: Sequence[Delivery],
    comparisons: Sequence[Comparison],
    *,
    profile: Profile | None,
    settings: TrainingSettings = TrainingSettings(),  # noqa: B008  frozen
    alpha: float = 0.05,
    trusted: frozenset[str] = frozenset(),
) -> TrainingAudit:
    """Judge the providers of a replicated training.

    Args:
        deliveries: everything that was asked of providers, with what came.
        comparisons: of the replicated sub-runs, one each, over deliveries without a fault.
        profile: tolerances of pairs of environments, where the client calibrated them.
        settings: of the method.
        alpha: family-wise false alarm rate over providers, sub-runs and distances, in (0, 1).
        trusted: names of "providers" that are the client's own replicas: they are not judged, and
            whoever disagrees with them is in the minority, however many agree with him.

    Returns:
        A verdict for each provider; the same for the same numbers, to the last bit on one machine
        and to a relative difference of 1e-9 between machines.

    Raises:
        InputError: alpha, a sub-run that is compared twice, a distance matrix of the wrong form, or
            a provider that nothing was asked of.
    """
    _check(deliveries, comparisons, alpha, trusted)
    names = sorted({delivery.provider for delivery in deliveries})
    asked = _Asked(
        settings=settings,
        profile=profile,
        trusted=trusted,
        environments={(d.provider, d.sub_run): d.environment for d in deliveries},
        digests={(d.provider, d.sub_run): d.digest for d in deliveries},
    )
    judged = [_judge_sub_run(asked, [c]) for c in sorted(comparisons, key=lambda c: c.sub_run)]
    if settings.decision.free_order and len(comparisons) > 1:
        judged += _together(asked, comparisons)
    questions = _sorted(names, judged)
    faults = faulty(deliveries)
    corrected = _over_providers(
        {n: _corrected(settings, questions[n], len(judged)) for n in names if n not in trusted}
    )
    results = tuple(
        _result(
            asked,
            _Known(
                name=name,
                trusted=name in trusted,
                corrected=corrected.get(name),
                faults=faults[name],
                questions=questions[name],
                unresolved=_unresolved(name, judged, comparisons),
                bitwise=_bitwise(asked, name, judged),
                foreign=_is_foreign(asked, questions[name]),
            ),
            alpha,
            tests=len(judged) * len(corrected),
        )
        for name in names
    )
    agreements = tuple(each.agreement for each in judged)
    return TrainingAudit(
        findings=_findings(results, agreements, alpha),
        providers=results,
        agreements=agreements,
        deliveries=tuple(deliveries),
        comparisons=tuple(comparisons),
        last_trusted=max(
            (a.sub_run for a in agreements if a.providers and a.sub_run is not None), default=None
        ),
    )


@record
class _Asked:
    """What is judged."""

    settings: TrainingSettings
    profile: Profile | None
    trusted: frozenset[str]
    environments: Mapping[tuple[str, int], str]
    digests: Mapping[tuple[str, int], str | None]


@record
class _Judged:
    """What one sub-run, or all together, say."""

    agreement: Agreement
    questions: tuple[Question, ...]


def _judge_sub_run(asked: _Asked, comparisons: Sequence[Comparison]) -> _Judged:
    """Judge a sub-run, or several of the same providers together."""
    decision, providers = asked.settings.decision, comparisons[0].providers
    sub_run = comparisons[0].sub_run if len(comparisons) == 1 else None
    trusted = [place for place, name in enumerate(providers) if name in asked.trusted]
    environments = [
        [asked.environments.get((name, c.sub_run), "") for name in providers] for c in comparisons
    ]
    agreement, questions = None, []
    for distance in asked.settings.distances:
        if not providers or any(distance not in c.distances for c in comparisons):
            continue
        matrices = [c.distances[distance] for c in comparisons]
        view = decision.view(matrices, environments, distance, asked.profile)
        group, reason = view.agreeing(trusted)
        named = tuple(providers[place] for place in group)
        agreement = agreement or Agreement(sub_run=sub_run, providers=named, reason=reason)
        if group:
            questions += _questions(view, group, providers, sub_run, distance, trusted)
    nothing = Agreement(sub_run=sub_run, providers=(), reason="nothing could be compared")
    return _Judged(agreement=agreement or nothing, questions=tuple(questions))


def _questions(  # noqa: PLR0917
    view: View,
    group: Sequence[int],
    providers: Sequence[str],
    sub_run: int | None,
    distance: str,
    trusted: Sequence[int],
) -> list[Question]:
    made = []
    for place, name in enumerate(providers):
        if place in trusted or list(group) == [place]:
            continue
        standing = view.standing(place, group)
        # of two that are alone with each other, nobody knows which one moved
        is_even = len(group) == 2 and place in group and not trusted
        made.append(
            Question(
                provider=name,
                sub_run=sub_run,
                distance=distance,
                tier=Tier.PROFILE if standing.calibrated else Tier.STATISTICS,
                measured=standing.measured,
                expected=standing.expected,
                excess=standing.excess,
                p_value=1.0 if is_even or standing.blind else standing.p_value,
                p_without_allowance=standing.p_without_allowance,
            )
        )
    return made


def _together(asked: _Asked, comparisons: Sequence[Comparison]) -> list[_Judged]:
    """Judge all sub-runs as one, over the providers that are in each of them."""
    common = [n for n in comparisons[0].providers if all(n in c.providers for c in comparisons)]
    if len(common) < 2:
        return []
    cut = []
    for comparison in comparisons:
        rows = torch.tensor([comparison.providers.index(name) for name in common])
        matrices = {n: d[rows[:, None], rows] for n, d in comparison.distances.items()}
        cut.append(
            Comparison(sub_run=comparison.sub_run, providers=tuple(common), distances=matrices)
        )
    return [_judge_sub_run(asked, cut)]


def _sorted(names: Sequence[str], judged: Sequence[_Judged]) -> Mapping[str, list[Question]]:
    found: dict[str, list[Question]] = {name: [] for name in names}
    for question in (q for each in judged for q in each.questions):
        found[question.provider].append(question)
    return found


def _factor(settings: TrainingSettings, distance: str, views: int) -> float:
    """What a p-value of a question is multiplied by for all that is asked of a provider."""
    weights = {d: _weight(settings.decision, d) for d in settings.distances}
    return views * sum(weights.values()) / weights[distance]


def _weight(decision: Decision, distance: str) -> float:
    yardstick = decision.yardstick(distance)
    return 1.0 if yardstick is None else yardstick.weight


@record
class _Corrected:
    """The smallest p-values of a provider, corrected for all that was asked of it."""

    p_value: float | None
    p_without_allowance: float | None
    decisive: Question | None


def _corrected(settings: TrainingSettings, questions: Sequence[Question], views: int) -> _Corrected:
    if not questions:
        return _Corrected(p_value=None, p_without_allowance=None, decisive=None)

    def corrected(question: Question) -> float:
        return min(1.0, question.p_value * _factor(settings, question.distance, views))

    decisive = min(questions, key=lambda q: q.p_value * _factor(settings, q.distance, views))
    without = [
        min(1.0, q.p_without_allowance * _factor(settings, q.distance, views)) for q in questions
    ]
    return _Corrected(
        p_value=corrected(decisive), p_without_allowance=min(without), decisive=decisive
    )


def _over_providers(corrected: Mapping[str, _Corrected]) -> Mapping[str, _Corrected]:
    """Correct for the number of providers, those without an answer included."""

    def adjusted(values: Sequence[float | None]) -> list[float]:
        known = [1.0 if value is None else value for value in values]
        return holm(torch.tensor(known, dtype=torch.float64)).tolist() if known else []

    with_allowance = adjusted([c.p_value for c in corrected.values()])
    without = adjusted([c.p_without_allowance for c in corrected.values()])
    return {
        name: _Corrected(
            p_value=None if c.p_value is None else p,
            p_without_allowance=None if c.p_without_allowance is None else q,
            decisive=c.decisive,
        )
        for (name, c), p, q in zip(corrected.items(), with_allowance, without, strict=True)
    }


@record
class _Known:
    """What is known of one provider."""

    name: str
    trusted: bool
    corrected: _Corrected | None
    faults: Sequence[FaultyDelivery]
    questions: Sequence[Question]
    unresolved: Sequence[str]
    """Why sub-runs that it delivered say nothing."""
    bitwise: bool
    """Whether its weights equal those of another agreeing provider wherever they are compared."""
    foreign: bool
    """Whether the client calibrated environments, and those that it states are not among them."""


def _result(asked: _Asked, known: _Known, alpha: float, *, tests: int) -> ProviderResult:
    verdict, tier, reason = _decided(known, alpha)
    weighed = [
        (q.sub_run, q.p_value * tests * _factor(asked.settings, q.distance, 1))
        for q in known.questions
    ]
    convicted = {s for s, p in weighed if s is not None and p <= alpha}
    convicted |= {fault.sub_run for fault in known.faults if fault.accuses}
    return ProviderResult(
        name=known.name,
        verdict=verdict,
        p_value=None if known.corrected is None else known.corrected.p_value,
        tier=tier,
        convicted=tuple(sorted(convicted)) if verdict is Verdict.FLAGGED else (),
        faults=tuple(known.faults),
        reason=reason,
        trusted=known.trusted,
        questions=tuple(known.questions),
    )


_Decided = tuple[Verdict, Tier | None, str]


def _decided(known: _Known, alpha: float) -> _Decided:
    if known.trusted:
        return Verdict.NO_INDICATOR, None, "a replica of the client's own, which is not judged"
    return _accused(known, alpha) or _unjudged(known, alpha) or _quiet(known)


def _accused(known: _Known, alpha: float) -> _Decided | None:
    for fault in known.faults:
        if fault.accuses:
            return Verdict.FLAGGED, Tier.DELIVERY, _of_fault(fault)
    found = known.corrected
    if found is None or found.decisive is None or found.p_value is None or found.p_value > alpha:
        return None
    return Verdict.FLAGGED, found.decisive.tier, _of_distance(found.decisive, found.p_value)


def _unjudged(known: _Known, alpha: float) -> _Decided | None:
    if known.faults:
        return Verdict.INCONCLUSIVE, Tier.DELIVERY, _of_fault(known.faults[0])
    if known.unresolved:
        return Verdict.INCONCLUSIVE, None, known.unresolved[0]
    found = known.corrected
    if found is None or found.decisive is None or found.p_without_allowance is None:
        return Verdict.INCONCLUSIVE, None, "nothing that it delivered could be compared"
    if found.p_without_allowance > alpha:
        return _of_environment(found.decisive) if known.foreign and not known.bitwise else None
    reason = (
        f"it lies {found.decisive.measured:.3g} from the providers that agree, more than they do "
        "among themselves, but less than another environment may explain: calibrate a profile"
    )
    return Verdict.INCONCLUSIVE, found.decisive.tier, reason


def _of_environment(question: Question) -> _Decided:
    """Acquit nobody by a usual noise where a smaller one was measured, of others."""
    reason = (
        "the environment that it states was not calibrated, with those of the others that agree: "
        "calibrate it, or have it execute in one that was"
    )
    return Verdict.INCONCLUSIVE, question.tier, reason


def _quiet(known: _Known) -> _Decided:
    assert known.corrected is not None
    assert known.corrected.decisive is not None
    if known.bitwise:
        return Verdict.NO_INDICATOR, Tier.DIGEST, "its weights equal those of others, bit for bit"
    tiers, farthest = {q.tier for q in known.questions}, known.corrected.decisive
    reason = (
        "it lies no farther from the others than honest noise may "
        f"({farthest.distance}: {farthest.measured:.3g}, where up to about {farthest.expected:.3g} "
        "is expected)"
    )
    tier = Tier.STATISTICS if Tier.STATISTICS in tiers else Tier.PROFILE
    return Verdict.NO_INDICATOR, tier, reason


def _of_fault(fault: FaultyDelivery) -> str:
    detail = f": {fault.detail}" if fault.detail else ""
    return f"sub-run {fault.sub_run}: {fault.fault.replace('_', ' ')}{detail}"


def _of_distance(question: Question, p_value: float) -> str:
    where = "all sub-runs together" if question.sub_run is None else f"sub-run {question.sub_run}"
    return (
        f"{where}: its weights lie {question.measured:.3g} from those of the providers that agree, "
        f"where honest noise is taken to reach {question.expected:.3g} ({question.distance}; "
        f"corrected p-value {p_value:.2g})"
    )


def _unresolved(
    name: str, judged: Sequence[_Judged], comparisons: Sequence[Comparison]
) -> list[str]:
    """Say why sub-runs that a provider delivered have no group that agrees."""
    own = {c.sub_run for c in comparisons if name in c.providers}
    return [
        f"sub-run {each.agreement.sub_run}: {each.agreement.reason}"
        for each in judged
        if each.agreement.sub_run in own and not each.agreement.providers
    ]


def _is_foreign(asked: _Asked, questions: Sequence[Question]) -> bool:
    has_profile = asked.profile is not None and not asked.settings.decision.free_order
    return has_profile and any(question.tier is Tier.STATISTICS for question in questions)


def _bitwise(asked: _Asked, name: str, judged: Sequence[_Judged]) -> bool:
    """Whether a provider's weights equal those of another agreeing one wherever it was compared."""
    equal = []
    for group in (each.agreement for each in judged if each.agreement.sub_run is not None):
        if name in group.providers and group.sub_run is not None:
            digests = {n: asked.digests.get((n, group.sub_run)) for n in group.providers}
            mine = digests.pop(name)
            equal.append(mine is not None and mine in digests.values())
    return bool(equal) and all(equal)


def _findings(
    results: Sequence[ProviderResult], agreements: Sequence[Agreement], alpha: float
) -> Findings:
    subjects = tuple(_subject(result) for result in results)
    verdicts = [result.verdict for result in results if not result.trusted]
    if Verdict.FLAGGED in verdicts:
        verdict = Verdict.FLAGGED
    elif not verdicts or Verdict.INCONCLUSIVE in verdicts or not agreements:
        verdict = Verdict.INCONCLUSIVE
    else:
        verdict = Verdict.NO_INDICATOR
    return Findings(
        audit="training",
        verdict=verdict,
        alpha=alpha,
        reasons=_reasons(results, agreements),
        subjects=subjects,
        cost=Cost(wall_s=0.0, device="cpu", peak_memory_mb=0.0),
        not_examined=NOT_EXAMINED,
    )


def _reasons(results: Sequence[ProviderResult], agreements: Sequence[Agreement]) -> tuple[str, ...]:
    said = [
        f"{result.name} left the recipe: {result.reason}."
        for result in results
        if result.verdict is Verdict.FLAGGED
    ]
    said += [
        f"{result.name} could not be judged: {result.reason}."
        for result in results
        if result.verdict is Verdict.INCONCLUSIVE
    ]
    quiet = [r.name for r in results if r.verdict is Verdict.NO_INDICATOR and not r.trusted]
    compared = sum(agreement.sub_run is not None for agreement in agreements)
    if quiet:
        said.append(
            f"{len(quiet)} of {sum(not r.trusted for r in results)} providers agree within honest "
            f"noise in the {compared} sub-runs that were replicated: {', '.join(quiet)}."
        )
    if not compared:
        said.append("No sub-run was replicated: nothing was compared.")
    return tuple(said)


def _subject(result: ProviderResult) -> Subject:
    strongest = min(result.questions, key=lambda q: q.p_value, default=None)
    return Subject(
        name=result.name,
        digest={},
        verdict=result.verdict,
        p_value=None if result.tier is Tier.DELIVERY else result.p_value,
        target=None,
        evidence={
            "reason": result.reason,
            "tier": None if result.tier is None else result.tier.value,
            "sub_runs": list(result.convicted),
            "faults": [
                {"sub_run": f.sub_run, "fault": f.fault, "detail": f.detail, "accuses": f.accuses}
                for f in result.faults
            ],
            **({} if strongest is None else _evidence(strongest)),
        },
        assumptions=ASSUMPTIONS,
    )


def _evidence(question: Question) -> Mapping[str, object]:
    return {
        "distance": question.distance,
        "measured": question.measured,
        "expected": question.expected,
        "excess": question.excess,
    }


def _check(
    deliveries: Sequence[Delivery],
    comparisons: Sequence[Comparison],
    alpha: float,
    trusted: frozenset[str],
) -> None:
    if not 0 < alpha < 1:
        raise InputError(f"expected alpha in (0, 1), got {alpha}")
    asked = collections.Counter((d.provider, d.sub_run) for d in deliveries)
    twice = [key for key, count in asked.items() if count > 1]
    if twice:
        raise InputError(f"expected one delivery of a provider to a sub-run, got more: {twice[:3]}")
    sub_runs = [comparison.sub_run for comparison in comparisons]
    if len(set(sub_runs)) < len(sub_runs):
        raise InputError(f"expected one comparison of a sub-run, got {sorted(sub_runs)}")
    unknown = trusted - {d.provider for d in deliveries}
    if unknown:
        raise InputError(f"expected deliveries of the trusted replicas, none of {sorted(unknown)}")
    for comparison in comparisons:
        _check_comparison(comparison, asked)


def _check_comparison(comparison: Comparison, asked: Mapping[tuple[str, int], int]) -> None:
    foreign = [n for n in comparison.providers if (n, comparison.sub_run) not in asked]
    if foreign:
        raise InputError(
            f"expected a delivery for all that is compared in sub-run {comparison.sub_run}, none "
            f"of {foreign}"
        )
    count = len(comparison.providers)
    for name, matrix in comparison.distances.items():
        if matrix.shape != (count, count):
            raise InputError(
                f"expected {name!r} of {count} providers, got shape {tuple(matrix.shape)}"
            )
        sound = matrix.isfinite().all() and (matrix >= 0).all() and torch.equal(matrix, matrix.T)
        if not sound:
            raise InputError(
                f"expected a symmetric matrix of finite distances of at least 0 as {name!r} in "
                f"sub-run {comparison.sub_run}"
            )
