"""From a ledger to a verdict: everybody who holds the ledger gets the same.

The same are verdicts, and numbers to a relative difference of 1e-9: logarithms and exponentials
of one library end in other digits on other processors.
"""

import contextlib
import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from assay.audits.training import (
    Decision,
    Profile,
    TrainingAudit,
    TrainingSettings,
    judge_training,
    parse_profile,
)
from assay.errors import AssayError, InputError
from assay.records import record
from assay.reports.text import plain
from assay.results import Verdict

from .course import Course
from .environment import MAX_STATED
from .keys import is_signed_by
from .ledger import Entry
from .secrecy import Secret, choice, commitment

_SAME = 1e-9
"""Relative difference up to which numbers of a judgement are the same."""


@record
class Judged:
    """What a ledger comes to."""

    audit: TrainingAudit
    """On everything that was delivered; who was expelled keeps the verdict that expelled it."""
    course: Course
    is_closed: bool
    """Whether the training came to its end; a ledger whose last lines are missing does not show
    it."""


def judge_now(course: Course, *, alpha: float) -> TrainingAudit:
    """Judge what has been delivered so far."""
    deliveries = course.deliveries()
    own = {p.name for p in course.held.providers if p.trusted}
    return judge_training(
        deliveries,
        course.comparisons,
        profile=profile_of(course),
        settings=TrainingSettings(decision=Decision(free_order=course.held.free_order)),
        alpha=alpha,
        trusted=frozenset(own & {d.provider for d in deliveries}),
    )


def profile_of(course: Course) -> Profile | None:
    """Read the tolerance profile that the training began with."""
    held = course.begun["profile"]
    return None if held is None else parse_profile(held)


def judged_body(audit: TrainingAudit, *, sub_run: int | None, alpha: float) -> dict[str, Any]:
    """Lay a judgement out for the ledger: what follows from it, and what it rests on."""
    return {
        "sub_run": sub_run,
        "alpha": alpha,
        "providers": [
            {
                "name": p.name,
                "verdict": p.verdict.value,
                "p_value": p.p_value,
                "tier": None if p.tier is None else p.tier.value,
                "convicted": list(p.convicted),
            }
            for p in audit.providers
        ],
    }


def judge_ledger(entries: Sequence[Entry]) -> Judged:
    """Judge a training by its ledger alone.

    Every judgement in it is made again from the lines before it, and must come out as it stands
    there. The commitment, the draws that follow from it, the signatures of providers under their
    answers and of the client under the end are checked; and that each line follows from those
    before it: what is given out next, who is expelled, where the training returns to.

    Raises:
        InputError: something does not hold; says which line.
    """
    if not entries:
        raise InputError("expected a ledger with lines, it is empty")
    course, expelling, last = Course(), dict[str, TrainingAudit](), None
    for entry in entries:
        with _blamed(entry):
            if entry.kind == "judged":
                last = _judge_again(course, entry)
                for provider in last.providers:
                    if provider.verdict is Verdict.FLAGGED:
                        expelling.setdefault(provider.name, last)
            course.apply(entry)
            _check_line(course, entry, entries[entry.index - 1].hash)
    with _blamed(entries[-1]):
        return _concluded(course, entries, last, expelling)


@contextlib.contextmanager
def _blamed(entry: Entry) -> Iterator[None]:
    """Say which line does not hold what it should: whoever wrote the ledger may have made it up."""
    try:
        yield
    except AssayError:
        raise
    except Exception as error:
        raise InputError(
            f"line {entry.index + 1} of the ledger: {entry.kind!r} does not hold what it should, "
            f"or does not fit what came before: {error!r}"
        ) from error


def _concluded(
    course: Course,
    entries: Sequence[Entry],
    last: TrainingAudit | None,
    expelling: Mapping[str, TrainingAudit],
) -> Judged:
    if course.revealed is not None:
        _check_secret(course, entries)
    if last is None or not course.is_closed:
        last = judge_now(course, alpha=course.alpha(final=True))
    audit = combine(last, expelling, alpha=course.begun["alpha"])
    return Judged(audit=_explained(audit, course), course=course, is_closed=course.is_closed)


_UNSIGNED = (
    "The ledger is not closed: lines at its end may be missing, and no signature says otherwise."
)
_UNDRAWN = (
    "Whether the secret chose who was given which sub-run: the ledger does not hold the secret yet."
)


def _explained(audit: TrainingAudit, course: Course) -> TrainingAudit:
    """Say in the findings where the training ended before its end.

    From a ledger that is not closed no innocence follows: what convicts may be cut off.
    """
    if course.is_closed and course.place == course.held.sub_runs:
        return audit
    why = (
        "fewer than two providers were left to execute it"
        if course.is_closed
        else "the ledger ends there: the run is not finished, or lines at its end are missing"
    )
    first = course.place * course.held.sub_run
    unseen = [f"Steps {first} to {course.held.steps - 1} of the training: {why}."]
    if course.revealed is None:
        unseen.append(_UNDRAWN)
    not_examined = (*unseen, *audit.findings.not_examined)
    findings = dataclasses.replace(audit.findings, not_examined=not_examined)
    if not course.is_closed and findings.verdict is Verdict.NO_INDICATOR:
        findings = dataclasses.replace(
            findings, verdict=Verdict.INCONCLUSIVE, reasons=(_UNSIGNED, *findings.reasons)
        )
    return dataclasses.replace(audit, findings=findings)


def ending(judged: Judged) -> str:
    """Say how far the training came with providers that nobody flagged."""
    course = judged.course
    steps = min(course.place * course.held.sub_run, course.held.steps)
    return f"trained {steps} of {course.held.steps} steps; digest of the weights: {course.end}"


def combine(
    last: TrainingAudit, earlier: Mapping[str, TrainingAudit], *, alpha: float
) -> TrainingAudit:
    """Let providers that an earlier judgement flagged keep that verdict.

    Args:
        last: the judgement on everything.
        earlier: the judgement that flagged a provider, by its name.
        alpha: the false alarm rate of all judgements together.
    """
    kept = {
        name: audit
        for name, audit in earlier.items()
        if any(p.name == name and p.verdict is not Verdict.FLAGGED for p in last.providers)
    }
    providers = tuple(
        _of(kept[p.name].providers, p.name) if p.name in kept else p for p in last.providers
    )
    subjects = tuple(
        _of(kept[s.name].findings.subjects, s.name) if s.name in kept else s
        for s in last.findings.subjects
    )
    said = tuple(
        f"{name} was flagged while the training went on, and keeps that verdict." for name in kept
    )
    findings = dataclasses.replace(
        last.findings,
        alpha=alpha,
        verdict=Verdict.FLAGGED if kept else last.findings.verdict,
        subjects=subjects,
        reasons=(*said, *last.findings.reasons),
    )
    return dataclasses.replace(last, findings=findings, providers=providers)


def _of(things: Sequence[Any], name: str) -> Any:
    return next(thing for thing in things if thing.name == name)


def _judge_again(course: Course, entry: Entry) -> TrainingAudit:
    sub_run, alpha = entry.body.get("sub_run"), entry.body.get("alpha")
    allowed = course.alpha(final=sub_run is None)
    if alpha != allowed:
        raise InputError(f"line {entry.index + 1} of the ledger spends {alpha}, not {allowed}")
    audit = judge_now(course, alpha=allowed)
    again = judged_body(audit, sub_run=sub_run, alpha=allowed)
    held = {name: value for name, value in entry.body.items() if name != "findings"}  # once there
    if not _is_same(again, held):
        raise InputError(
            f"line {entry.index + 1} of the ledger holds another judgement than its evidence "
            "gives: the ledger is of another version of assay, or was made up"
        )
    return audit


def _is_same(again: Any, held: Any) -> bool:
    """Tell whether two documents say the same, numbers to a relative difference of `_SAME`."""
    if isinstance(again, dict) and isinstance(held, dict):
        return again.keys() == held.keys() and all(_is_same(again[n], held[n]) for n in again)
    if isinstance(again, list) and isinstance(held, list):
        return len(again) == len(held) and all(map(_is_same, again, held))
    if isinstance(again, float) and isinstance(held, float):
        return math.isclose(again, held, rel_tol=_SAME)
    return bool(again == held)


def _check_line(course: Course, entry: Entry, previous: str) -> None:
    if entry.kind == "received" and entry.body["fault"] is None:
        _check_answer(course, entry)
    if entry.kind == "closed" and not (
        is_signed_by(entry.body, course.begun["client"]) and entry.body["previous"] == previous
    ):
        raise InputError(f"line {entry.index + 1} of the ledger is not signed by the client")


def _check_answer(course: Course, entry: Entry) -> None:
    """Check that an answer without a fault is what its provider signed."""
    body = entry.body
    run, key = course.sub_runs[body["sub_run"]], course.held.provider(body["provider"]).key
    manifest = body["manifest"]
    signed = (
        isinstance(manifest, dict)
        and is_signed_by(manifest, key)
        and manifest.get("bundle") == run.bundles[body["provider"]]
        and manifest.get("asked") == run.sent[body["provider"]]
        and manifest.get("state") == "done"
    )
    if not signed:
        raise InputError(
            f"line {entry.index + 1} of the ledger: {body['provider']} did not sign this answer"
        )
    stated = plain(manifest["environment"], MAX_STATED)
    if body["environment"] != stated:
        raise InputError(
            f"line {entry.index + 1} of the ledger: expected the environment that "
            f"{body['provider']} signed, {stated!r}, got {body['environment']!r}"
        )


def _check_secret(course: Course, entries: Sequence[Entry]) -> None:
    """Check that everything that was drawn follows from what was committed to at the beginning."""
    revealed = course.revealed or {}
    secret = Secret(text=str(revealed.get("secret")))
    promised = choice(secret, places=course.held.sub_runs, count=course.begun["replicated"])
    if commitment(promised) != course.begun["commitment"] or revealed != promised:
        raise InputError("the secret in the ledger is not the one that was committed to")
    again = Course()
    for entry in entries:
        if entry.kind == "opened":
            check_draw(again, secret, entry)
        again.apply(entry)


def check_draw(course: Course, secret: Secret, entry: Entry) -> None:
    """Check that a sub-run was given to whom the secret chose.

    Raises:
        InputError: it was not.
    """
    body = entry.body
    replicated = body["place"] in course.replicated(secret)
    main = secret.main(sub_run=body["sub_run"], providers=course.candidates())
    asked = course.usable() if replicated else [main]
    bundles = {name: secret.bundle(sub_run=body["sub_run"], provider=name) for name in asked}
    if (body["replicated"], body["main"], body["bundles"]) != (replicated, main, bundles):
        raise InputError(
            f"line {entry.index + 1} of the ledger: this sub-run was not given to whom "
            "the secret chose"
        )
