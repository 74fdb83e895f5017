"""Where a replicated training stands, read off its ledger: nothing else is remembered."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch

from assay.audits.training import Comparison, Delivery, Fault
from assay.errors import InputError
from assay.records import record

from .ledger import Entry
from .plan import Plan, parse_plan
from .secrecy import Secret

MOST_FAULTS = 3
"""Answers without weights after which a provider is asked no more."""
_LEAST = 2
"""Providers without whom nothing can be compared."""


@record
class Link:
    """A sub-run whose end the training went on with."""

    place: int
    """In the training, from 0."""
    sub_run: int
    provider: str
    digest: str


class SubRun:
    """A stretch of the training that was given out: once for each attempt at it."""

    def __init__(self, body: Mapping[str, Any]) -> None:
        self.number: int = body["sub_run"]
        self.attempt: int = body["attempt"]
        self.place: int = body["place"]
        self.first_step: int = body["first_step"]
        self.steps: int = body["steps"]
        self.replicated: bool = body["replicated"]
        self.main: str = body["main"]
        self.start: str = body["start"]
        self.deadline: str = body["deadline"]
        self.bundles: dict[str, str] = body["bundles"]
        """Name of the bundle of each provider that was asked."""
        self.sent: dict[str, str] = {}
        """Digest of the manifest of each bundle that was sent."""
        self.deliveries: dict[str, Delivery] = {}
        self.manifests: dict[str, dict[str, Any] | None] = {}
        self.is_judged = False
        self.is_concluded = False

    def usable(self) -> list[str]:
        """Providers whose answer has no fault, the main one first."""
        sound = [name for name, d in self.deliveries.items() if d.fault is None]
        return sorted(sound, key=lambda name: (name != self.main, name))

    def is_unsent(self) -> bool:
        """Whether a provider that was to be asked was not, and is not taken to be missing."""
        return any(n not in self.sent and n not in self.deliveries for n in self.bundles)


class OddLineError(Exception):
    """A line that does not follow from those before it."""


class Course:
    """The state of a training after the lines of its ledger."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        self.plan: Plan | None = None
        self.begun: dict[str, Any] = {}
        self.attempt = 0
        self.chain: list[Link] = []
        """What the training consists of so far, in order of places."""
        self.sub_runs: list[SubRun] = []
        self.comparisons: list[Comparison] = []
        self.flagged: set[str] = set()
        """Providers that a judgement flagged, so far."""
        self.expelled: dict[str, str] = {}
        """Why, by provider: `flagged` or `faults`."""
        self.attempts: list[list[int]] = []
        """The places that each attempt began with having left."""
        self.finals = 0
        """Judgements at the end of the training."""
        self.is_final = False
        """Whether the last line is a judgement at the end, and what follows from it."""
        self.is_closed = False
        self.revealed: dict[str, Any] | None = None
        self._takes = {
            "begun": self._begun,
            "opened": self._opened,
            "sent": self._sent,
            "received": self._received,
            "compared": self._compared,
            "judged": self._judged,
            "expelled": self._expelled,
            "rolled-back": self._rolled_back,
            "promoted": self._promoted,
            "abandoned": self._abandoned,
            "revealed": self._revealed,
            "closed": self._closed,
        }
        for entry in entries:
            self.apply(entry)

    @property
    def held(self) -> Plan:
        """The plan.

        Raises:
            InputError: the ledger does not begin with one.
        """
        if self.plan is None:
            raise InputError("expected a ledger that begins with a plan")
        return self.plan

    @property
    def current(self) -> SubRun | None:
        """The sub-run that is under way."""
        last = self.sub_runs[-1] if self.sub_runs else None
        return None if last is None or last.is_concluded else last

    @property
    def place(self) -> int:
        """The next place in the training."""
        return len(self.chain)

    @property
    def end(self) -> str:
        """Digest of the weights that the training reached."""
        return self.chain[-1].digest if self.chain else str(self.begun["start"])

    def usable(self) -> list[str]:
        """Providers that are still asked, in the plan's order."""
        return [p.name for p in self.held.providers if p.name not in self.expelled]

    def candidates(self) -> list[str]:
        """Providers that may be the main one of the next sub-run.

        Neither who just failed at it, as long as there are others, nor the client's own.
        """
        failed = {
            run.main
            for run in self.sub_runs
            if (run.attempt, run.place) == (self.attempt, self.place)
            and run.main in run.deliveries
            and not run.usable()
        }
        usable = [name for name in self.usable() if not self.held.provider(name).trusted]
        return [name for name in usable if name not in failed] or usable

    def faults(self, provider: str) -> int:
        """Count the answers of a provider that had a fault."""
        found = [run.deliveries[provider] for run in self.sub_runs if provider in run.deliveries]
        return sum(delivery.fault is not None for delivery in found)

    def deliveries(self) -> list[Delivery]:
        """Everything that was delivered, in order."""
        return [delivery for run in self.sub_runs for delivery in run.deliveries.values()]

    def replicated(self, secret: Secret) -> tuple[int, ...]:
        """The places that all providers execute in the present attempt.

        After a rollback as large a share of what is left is replicated as of the whole at first,
        and one sub-run at least.
        """
        left, whole = self.attempts[self.attempt], self.held.sub_runs
        count = max(1, round(self.begun["replicated"] * len(left) / whole))
        return secret.replicated(attempt=self.attempt, places=left, count=min(count, len(left)))

    def alpha(self, *, final: bool) -> float:
        """What the next judgement may spend of the false alarm rate; all together spend it once.

        Half of it is spent on the first judgement at the end, a quarter on those while the training
        goes on, and a quarter on those that follow a rollback at the end.
        """
        alpha: float = self.begun["alpha"]
        if final:
            return alpha / 2 if self.finals == 0 else alpha / 4 / 2**self.finals
        left, whole = self.attempts[self.attempt], self.held.sub_runs
        looks = max(1, round(self.begun["replicated"] * len(left) / whole))
        return alpha / 4 / 2 ** (self.attempt + 1) / looks

    def apply(self, entry: Entry) -> None:
        """Take in the next line.

        Raises:
            InputError: it cannot follow what came before.
        """
        if (
            self.is_closed
            or entry.kind not in self._takes
            or (self.plan is None) != (entry.kind == "begun")
            or (self.revealed is not None and entry.kind != "closed")
        ):
            raise InputError(f"line {entry.index + 1} of the ledger: unexpected {entry.kind!r}")
        try:
            self.is_final = self.is_final and entry.kind in {"expelled", "revealed", "closed"}
            self._takes[entry.kind](entry.body)
        except OddLineError as error:
            raise InputError(
                f"line {entry.index + 1} of the ledger, {entry.kind!r}, does not follow from those "
                f"before it: {error}"
            ) from error
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            raise InputError(
                f"line {entry.index + 1} of the ledger: {entry.kind} is malformed: {error!r}"
            ) from error

    def _begun(self, body: dict[str, Any]) -> None:
        self.plan, self.begun = parse_plan(body["plan"]), body
        self.attempts = [list(range(self.plan.sub_runs))]

    def _opened(self, body: dict[str, Any]) -> None:
        if self.current is not None or self.place == self.held.sub_runs:
            raise OddLineError("a sub-run is under way, or none is left to give out")
        first, steps = self.held.stretch(self.place)
        _check(
            body,
            sub_run=len(self.sub_runs),
            attempt=self.attempt,
            place=self.place,
            first_step=first,
            steps=steps,
            start=self.end,
        )
        self._check_settled()
        self.sub_runs.append(SubRun(body))

    def _sent(self, body: dict[str, Any]) -> None:
        run, name = self._under_way(body), body["provider"]
        if name not in run.bundles or name in run.sent:
            raise OddLineError(f"{name} is not to be asked, or was asked before")
        run.sent[name] = body["manifest"]

    def _received(self, body: dict[str, Any]) -> None:
        run, name = self.sub_runs[body["sub_run"]], body["provider"]
        fault = None if body["fault"] is None else Fault(body["fault"])
        earlier = run.deliveries.get(name)
        if earlier is None:
            if name not in self._under_way(body).bundles:
                raise OddLineError(f"{name} was not asked")
        elif earlier.fault is not Fault.MISSING or fault not in {Fault.MISSING, Fault.LATE}:
            raise OddLineError(f"expected one answer of {name}, or that what was missing came late")
        run.manifests[name] = body["manifest"]
        run.deliveries[name] = Delivery(
            provider=name,
            sub_run=run.number,
            replicated=run.replicated,
            environment=body["environment"],
            digest=body["digest"],
            fault=fault,
            detail=body["detail"],
        )

    def _compared(self, body: dict[str, Any]) -> None:
        run = self._answered(body)
        if not run.replicated:
            raise OddLineError("nothing to compare: the sub-run is not replicated")
        _check(body, providers=sorted(run.usable()))
        self.comparisons.append(
            Comparison(
                sub_run=body["sub_run"],
                providers=tuple(body["providers"]),
                distances={
                    name: torch.tensor(rows, dtype=torch.float64)
                    for name, rows in body["distances"].items()
                },
            )
        )

    def _judged(self, body: dict[str, Any]) -> None:
        if body["sub_run"] is None:
            if self.current is not None:
                raise OddLineError("a judgement at the end, while a sub-run is under way")
            self.finals += 1
            self.is_final = True
        else:
            run = self._answered(body)
            compared = any(c.sub_run == run.number for c in self.comparisons)
            if run.replicated and len(run.usable()) >= _LEAST and not compared:
                raise OddLineError("expected the distances between the answers before it")
            run.is_judged = True
        self.flagged |= {p["name"] for p in body["providers"] if p["verdict"] == "flagged"}

    def _expelled(self, body: dict[str, Any]) -> None:
        name = body["provider"]
        if name not in self.usable():
            raise OddLineError(f"{name} is not among those that are asked")
        found = "flagged" if name in self.flagged else "faults"
        _check(body, why=found)
        if found == "faults" and self.faults(name) < MOST_FAULTS:
            raise OddLineError(f"nothing in the ledger says to part with {name}")
        self.expelled[name] = found

    def _rolled_back(self, body: dict[str, Any]) -> None:
        broken = self._broken()
        if not broken:
            raise OddLineError("nobody was expelled whose steps the training holds")
        _check(body, attempt=self.attempt + 1, place=broken[0].place)
        self.attempt = body["attempt"]
        self.chain = self.chain[: body["place"]]
        for run in self.sub_runs:
            run.is_concluded = True
        run = self.sub_runs[broken[0].sub_run]
        if self._others(run):
            self._go_on_with(run, body["promoted"])
        else:
            _check(body, promoted=None)
        self.attempts.append(list(range(self.place, self.held.sub_runs)))

    def _promoted(self, body: dict[str, Any]) -> None:
        run = self._answered(body)
        self._check_judged(run)
        self._go_on_with(run, body)

    def _abandoned(self, body: dict[str, Any]) -> None:
        run = self._under_way(body)
        if not run.is_unsent():
            self._check_judged(self._answered(body))
            if self._others(run):
                raise OddLineError("an answer is there to go on with")
        run.is_concluded = True

    def _revealed(self, body: dict[str, Any]) -> None:
        if not self.is_final:
            raise OddLineError("expected a judgement at the end before it")
        self.revealed = body

    def _closed(self, body: dict[str, Any]) -> None:
        if not self.is_final or self.revealed is None:
            raise OddLineError("expected a judgement at the end, and the secret, before it")
        is_complete = self.place == self.held.sub_runs
        if not is_complete and len(self.usable()) >= _LEAST and self.candidates():
            raise OddLineError("enough providers are left to go on")
        _check(body, place=self.place, digest=self.end, is_complete=is_complete)
        self._check_settled()
        self.is_closed = True

    def _under_way(self, body: Mapping[str, Any]) -> SubRun:
        """The sub-run that a line is of, which must not be concluded."""
        run = self.current
        if run is None or run.number != body["sub_run"]:
            raise OddLineError(f"sub-run {body['sub_run']} is not under way")
        return run

    def _answered(self, body: Mapping[str, Any]) -> SubRun:
        """The same, where everybody who was asked must have answered, or be missing."""
        run = self._under_way(body)
        waiting = [name for name in run.bundles if name not in run.deliveries]
        if waiting:
            raise OddLineError(f"expected what {waiting[0]} answered before it")
        return run

    def _check_judged(self, run: SubRun) -> None:
        odd = any(delivery.fault is not None for delivery in run.deliveries.values())
        if (run.replicated or odd) and not run.is_judged:
            raise OddLineError("expected a judgement before it")
        self._check_settled()

    def _check_settled(self) -> None:
        """Check that nothing stays of who was flagged."""
        if left := sorted(self.flagged - self.expelled.keys()):
            raise OddLineError(f"expected {left[0]} to be expelled, who was flagged")
        if broken := self._broken():
            raise OddLineError(f"expected a return to place {broken[0].place} of the training")

    def _broken(self) -> list[Link]:
        """What the training consists of, and came from who was flagged."""
        return [link for link in self.chain if self.expelled.get(link.provider) == "flagged"]

    def _others(self, run: SubRun) -> list[str]:
        """Providers whose answer to a sub-run can be gone on with."""
        return [name for name in run.usable() if name not in self.expelled]

    def _go_on_with(self, run: SubRun, body: Mapping[str, Any]) -> None:
        name = self._others(run)[0]
        digest = str(run.deliveries[name].digest)
        _check(body, sub_run=run.number, place=run.place, provider=name, digest=digest)
        run.is_concluded = True
        self.chain.append(Link(place=run.place, sub_run=run.number, provider=name, digest=digest))


def _check(body: Mapping[str, Any], **expected: Any) -> None:
    """Check what a line says against what follows from the lines before it."""
    for name, value in expected.items():
        if body[name] != value:
            raise OddLineError(f"expected {value!r} as {name}, got {body[name]!r}")
