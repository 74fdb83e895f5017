"""From a training audit's result to the tables and the record of its run folder."""

from collections.abc import Mapping

from assay.audits.training import Delivery, ProviderResult, Question, Replication, TrainingAudit
from assay.storage.runs import RunFolder


def record_training(
    run: RunFolder, audit: TrainingAudit, *, replication: Replication | None = None
) -> None:
    """Write everything that was found; the findings come last.

    Args:
        run: where to.
        audit: what was found.
        replication: the plan, where there was one: the report then says what it costs and misses.
    """
    strongest = _strongest(audit)
    run.write_table("subruns", _deliveries(audit, strongest))
    run.write_table("providers", _providers(audit.providers))
    run.write_json(
        "training",
        {
            "providers": [_provider(audit, each) for each in audit.providers],
            "sub_runs": sorted({d.sub_run for d in audit.deliveries}),
            "matrices": [
                {
                    "sub_run": sub_run,
                    "distance": name,
                    "providers": list(_compared(audit, sub_run)),
                    "values": matrix.tolist(),
                }
                for (sub_run, name), matrix in audit.matrices.items()
            ],
            "questions": [_question(q) for p in audit.providers for q in p.questions],
            "agreements": [
                {"sub_run": a.sub_run, "providers": list(a.providers), "reason": a.reason}
                for a in audit.agreements
            ],
            "replication": None if replication is None else replication.summary,
        },
    )
    run.write_findings(audit.findings)


def _strongest(audit: TrainingAudit) -> Mapping[tuple[str, int], Question]:
    """Find the most suspicious question of each provider in each sub-run."""
    found: dict[tuple[str, int], Question] = {}
    for question in (q for provider in audit.providers for q in provider.questions):
        if question.sub_run is not None:
            key = (question.provider, question.sub_run)
            found[key] = min(found.get(key, question), question, key=lambda q: q.p_value)
    return found


def _deliveries(
    audit: TrainingAudit, strongest: Mapping[tuple[str, int], Question]
) -> dict[str, list[object]]:
    rows = sorted(audit.deliveries, key=lambda d: (d.sub_run, d.provider))
    asked = [strongest.get((d.provider, d.sub_run)) for d in rows]
    states = _states(audit)
    return {
        "sub_run": [d.sub_run for d in rows],
        "provider": [d.provider for d in rows],
        "replicated": [d.replicated for d in rows],
        "environment": [d.environment for d in rows],
        "digest": [d.digest for d in rows],
        "fault": [None if d.fault is None else d.fault.value for d in rows],
        "detail": [d.detail for d in rows],
        "state": [states[d.provider, d.sub_run] for d in rows],
        "distance": [q and q.distance for q in asked],
        "measured": [q and q.measured for q in asked],
        "expected": [q and q.expected for q in asked],
        "p_value": [q and q.p_value for q in asked],
    }


def _providers(providers: tuple[ProviderResult, ...]) -> dict[str, list[object]]:
    return {
        "name": [p.name for p in providers],
        "verdict": [p.verdict.value for p in providers],
        "p_value": [p.p_value for p in providers],
        "tier": [None if p.tier is None else p.tier.value for p in providers],
        "convicted": [" ".join(map(str, p.convicted)) for p in providers],
        "faults": [len(p.faults) for p in providers],
        "trusted": [p.trusted for p in providers],
        "reason": [p.reason for p in providers],
    }


def _provider(audit: TrainingAudit, found: ProviderResult) -> dict[str, object]:
    states = _states(audit)
    return {
        "name": found.name,
        "verdict": found.verdict.value,
        "p_value": found.p_value,
        "tier": None if found.tier is None else found.tier.value,
        "convicted": list(found.convicted),
        "trusted": found.trusted,
        "reason": found.reason,
        "course": [
            {"sub_run": sub_run, "state": state}
            for (name, sub_run), state in states.items()
            if name == found.name
        ],
    }


def _states(audit: TrainingAudit) -> Mapping[tuple[str, int], str]:
    """Say of each delivery: `convicts`, `fault`, `agrees`, `apart`, `open`, or `alone`."""
    convicted = {(p.name, sub_run) for p in audit.providers for sub_run in p.convicted}
    agreeing = {a.sub_run: set(a.providers) for a in audit.agreements}

    def state(delivery: Delivery) -> str:
        if (delivery.provider, delivery.sub_run) in convicted:
            return "convicts"
        if delivery.fault is not None:
            return "fault"
        if not delivery.replicated:
            return "alone"
        agree = agreeing.get(delivery.sub_run, set())
        if not agree:
            return "open"
        return "agrees" if delivery.provider in agree else "apart"

    rows = sorted(audit.deliveries, key=lambda d: (d.sub_run, d.provider))
    return {(d.provider, d.sub_run): state(d) for d in rows}


def _compared(audit: TrainingAudit, sub_run: int) -> tuple[str, ...]:
    return next(c.providers for c in audit.comparisons if c.sub_run == sub_run)


def _question(question: Question) -> dict[str, object]:
    return {
        "provider": question.provider,
        "sub_run": question.sub_run,
        "distance": question.distance,
        "tier": question.tier.value,
        "measured": question.measured,
        "expected": question.expected,
        "excess": question.excess,
        "p_value": question.p_value,
    }
