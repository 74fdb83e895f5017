"""The providers of a replicated training that a report shows."""

from collections.abc import Mapping, Sequence
from typing import Any

from assay.errors import InputError
from assay.records import record
from assay.results import Verdict

from .source import optional_float
from .stored import Run

PROVIDERS_SHOWN, SUB_RUNS_SHOWN, MATRICES_SHOWN, QUESTIONS_SHOWN = 24, 60, 24, 60
"""How much is shown at most: it keeps the page readable and the file small."""

_STATES = {
    "convicts": ("✗", "convicts"),
    "fault": ("!", "faulty delivery"),
    "agrees": ("✓", "agrees"),
    "apart": ("?", "apart from those that agree"),
    "open": ("–", "compared, nobody is known to agree"),
    "alone": ("·", "not replicated"),
}
_TIERS = {
    "delivery": "the delivery itself",
    "digest": "equal digests",
    "profile": "tolerance profile",
    "statistics": "distances to the others",
}


@record
class Mark:
    """How one provider did in one sub-run."""

    sign: str
    meaning: str
    state: str


@record
class Provider:
    """One provider."""

    name: str
    verdict: Verdict
    p_value: float | None
    tier: str
    convicted: str
    reason: str
    course: tuple[Mark, ...]
    """One a shown sub-run."""


@record
class Heat:
    """The distances of one sub-run."""

    sub_run: int
    distance: str
    providers: tuple[str, ...]
    rows: tuple[tuple[float, ...], ...]
    largest: float


@record
class Test:
    """One provider beside those that agree."""

    provider: str
    where: str
    distance: str
    measured: float | None
    expected: float | None
    p_value: float | None

    @property
    def reach(self) -> float:
        """Measured over expected."""
        if not self.measured or not self.expected:
            return 0.0
        return self.measured / self.expected


@record
class Replicas:
    """What replicas of sub-runs say of providers."""

    providers: tuple[Provider, ...]
    providers_in_all: int
    sub_runs: tuple[int, ...]
    sub_runs_in_all: int
    matrices: tuple[Heat, ...]
    matrices_in_all: int
    tests: tuple[Test, ...]
    tests_in_all: int
    replication: str
    legend: Sequence[tuple[str, str]] = tuple(_STATES.values())


def read(run: Run) -> Replicas | None:
    """Read what was found of providers; None where the run is of another audit.

    Raises:
        InputError: the record is damaged.
    """
    document = run.read_json("training")
    if document is None:
        return None
    try:
        return _replicas(document)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"the providers in {run.path} are not as expected: {error!r}") from error


def _replicas(document: Mapping[str, Any]) -> Replicas:
    sub_runs = tuple(int(each) for each in document["sub_runs"])
    shown = _shown(document, sub_runs)
    matrices = [_heat(m) for m in document["matrices"][:MATRICES_SHOWN]]
    tests = sorted((_test(q) for q in document["questions"]), key=lambda test: -test.reach)
    return Replicas(
        providers=tuple(_provider(p, shown) for p in document["providers"][:PROVIDERS_SHOWN]),
        providers_in_all=len(document["providers"]),
        sub_runs=shown,
        sub_runs_in_all=len(sub_runs),
        matrices=tuple(matrices),
        matrices_in_all=len(document["matrices"]),
        tests=tuple(tests[:QUESTIONS_SHOWN]),
        tests_in_all=len(tests),
        replication=str(document["replication"] or ""),
    )


def _shown(document: Mapping[str, Any], sub_runs: tuple[int, ...]) -> tuple[int, ...]:
    """Choose sub-runs for the timeline: those that say something come first."""
    if len(sub_runs) <= SUB_RUNS_SHOWN:
        return sub_runs
    telling = [
        int(step["sub_run"])
        for provider in document["providers"]
        for step in provider["course"]
        if step["state"] != "alone"
    ]
    return tuple(sorted(list(dict.fromkeys([*telling, *sub_runs]))[:SUB_RUNS_SHOWN]))


def _provider(found: Mapping[str, Any], shown: tuple[int, ...]) -> Provider:
    course = {int(step["sub_run"]): str(step["state"]) for step in found["course"]}
    return Provider(
        name=str(found["name"]),
        verdict=Verdict(found["verdict"]),
        p_value=optional_float(found["p_value"]),
        tier="client's own" if found["trusted"] else _TIERS.get(found["tier"], "–"),
        convicted=", ".join(str(int(each)) for each in found["convicted"]),
        reason=str(found["reason"]),
        course=tuple(_mark(course.get(sub_run)) for sub_run in shown),
    )


def _mark(state: str | None) -> Mark:
    sign, meaning = ("", "not asked") if state is None else _STATES[state]
    return Mark(sign=sign, meaning=meaning, state=state or "none")


def _heat(found: Mapping[str, Any]) -> Heat:
    values = [[float(value) for value in row] for row in found["values"][:PROVIDERS_SHOWN]]
    rows = tuple(tuple(row[:PROVIDERS_SHOWN]) for row in values)
    return Heat(
        sub_run=int(found["sub_run"]),
        distance=str(found["distance"]),
        providers=tuple(str(name) for name in found["providers"][:PROVIDERS_SHOWN]),
        rows=rows,
        largest=max((value for row in rows for value in row), default=0.0),
    )


def _test(found: Mapping[str, Any]) -> Test:
    sub_run = found["sub_run"]
    return Test(
        provider=str(found["provider"]),
        where="all together" if sub_run is None else f"sub-run {int(sub_run)}",
        distance=str(found["distance"]),
        measured=optional_float(found["measured"]),
        expected=optional_float(found["expected"]),
        p_value=optional_float(found["p_value"]),
    )
