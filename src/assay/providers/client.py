"""The client's side: give out sub-runs, take answers, judge, and go on from what can be trusted."""

import contextlib
import datetime
import pathlib
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from assay.audits.training import Comparison, Fault, Profile, compare, profile_document
from assay.errors import InputError, RefusedError
from assay.records import record
from assay.results import Progress, Store

from .bundle import MANIFEST, make_bundle, send
from .canonical import digest_document
from .course import MOST_FAULTS, Course, SubRun
from .judging import Judged, judge_ledger, judge_now, judged_body
from .keys import SigningKey
from .ledger import Ledger
from .mailbox import Mailbox, UnreachableError
from .plan import Plan, plan_document
from .receiving import Asked, Received, late, missing, receive
from .secrecy import Secret, choice, commitment
from .weights import digest_weights, write_weights

_LEAST = 2
"""Providers without whom nothing can be compared."""


@record
class Held:
    """What the client holds beside the plan."""

    plan: Plan
    start: Mapping[str, Tensor]
    replicated: int
    """How many sub-runs all providers execute."""
    alpha: float
    profile: Profile | None
    network: Callable[[], nn.Module] | None
    probes: Tensor | None
    secret: Secret
    key: SigningKey
    """The client's."""


@record
class Surroundings:
    """What a run lends the client."""

    store: Store
    """Keeps weights."""
    keep_log: Callable[[str, bytes], None]
    """Keeps the log of an answer under a name."""
    progress: Progress
    """Is told of sub-runs, and called while answers are waited for."""
    say: Callable[[str], None]
    """Is told what happens."""
    poll_s: float
    """How often mailboxes are looked at."""


def run_training(held: Held, ledger: Ledger, around: Surroundings) -> Judged:
    """Carry a replicated training through, from wherever its ledger stands.

    Args:
        held: what the client holds.
        ledger: what has happened; every step is written to it before the next one.
        around: what the run lends.

    Returns:
        The verdict on the ledger.

    Raises:
        InputError: the ledger is of another plan, or weights that it names are lost.
    """
    client = Client(held, ledger, around)
    while not client.course.is_closed:
        client.step()
    return judge_ledger(ledger.entries)


def trusted_weights(held: Held, judged: Judged, store: Store) -> dict[str, Tensor]:
    """Find the weights that the training came to with providers that nobody flagged.

    Raises:
        InputError: they are lost.
    """
    course = judged.course
    if not course.chain:
        return dict(held.start)
    link = course.chain[-1]
    return _stored(store, link.sub_run, link.provider, link.digest)


class Client:
    """Does one step at a time: the first that the ledger does not have yet."""

    def __init__(self, held: Held, ledger: Ledger, around: Surroundings) -> None:
        self._held = held
        self._ledger = ledger
        self._around = around
        self._boxes = {p.name: Mailbox(p.mailbox) for p in held.plan.providers}
        self._tried: set[int] = set()
        self.course = Course(ledger.entries)
        begun = self._begun()
        if not ledger.entries:
            self._note("begun", begun)
        elif digest_document(self.course.begun) != digest_document(begun):
            raise InputError("the ledger was begun with another plan, secret or profile")

    def step(self) -> None:
        """Do what comes next."""
        course = self.course
        run = course.current
        if run is not None:
            self._go_on(run)
        elif course.place < course.held.sub_runs and self._can_go_on():
            self._open()
        elif not course.is_final:
            self._judge_all()
        elif self._expel(None):
            pass
        elif course.revealed is None:
            self._note("revealed", self._choice())
        else:
            self._close()

    def _can_go_on(self) -> bool:
        return len(self.course.usable()) >= _LEAST and len(self.course.candidates()) > 0

    def _begun(self) -> dict[str, Any]:
        held = self._held
        return {
            "plan": plan_document(held.plan),
            "start": digest_weights(held.start),
            "replicated": held.replicated,
            "alpha": held.alpha,
            "profile": None if held.profile is None else profile_document(held.profile),
            "client": held.key.public,
            "commitment": commitment(self._choice()),
        }

    def _choice(self) -> dict[str, Any]:
        held = self._held
        return choice(held.secret, places=held.plan.sub_runs, count=held.replicated)

    def _note(self, kind: str, body: dict[str, Any]) -> None:
        self.course.apply(self._ledger.append(kind, body))

    def _show(self) -> None:
        self._around.progress("sub-runs", self.course.place, self.course.held.sub_runs)

    def _open(self) -> None:
        """Draw who gets the next sub-run; nobody has been told yet."""
        course, secret = self.course, self._held.secret
        number, plan = len(course.sub_runs), course.held
        replicated = course.place in course.replicated(secret)
        main = secret.main(sub_run=number, providers=course.candidates())
        asked = course.usable() if replicated else [main]
        first, steps = plan.stretch(course.place)
        deadline = _now() + datetime.timedelta(minutes=plan.deadline_minutes)
        self._note(
            "opened",
            {
                "sub_run": number,
                "attempt": course.attempt,
                "place": course.place,
                "first_step": first,
                "steps": steps,
                "replicated": replicated,
                "main": main,
                "start": course.end,
                "deadline": deadline.isoformat(timespec="milliseconds"),
                "bundles": {n: secret.bundle(sub_run=number, provider=n) for n in asked},
            },
        )

    def _go_on(self, run: SubRun) -> None:
        unsent = [n for n in run.bundles if n not in run.sent and n not in run.deliveries]
        compared = any(c.sub_run == run.number for c in self.course.comparisons)
        odd = any(d.fault is not None for d in run.deliveries.values())
        self._show()
        if unsent:
            self._send(run, unsent)
        elif len(run.deliveries) < len(run.bundles):
            self._collect(run)
        elif run.replicated and len(run.usable()) >= _LEAST and not compared:
            self._compare(run)
        elif (run.replicated or odd) and not run.is_judged:
            alpha = self.course.alpha(final=False)
            audit = judge_now(self.course, alpha=alpha)
            self._note("judged", judged_body(audit, sub_run=run.number, alpha=alpha))
        elif not self._expel(run):
            self._conclude(run)

    def _send(self, run: SubRun, names: list[str]) -> None:
        """Send what is not sent; a mailbox that cannot be reached has until the deadline."""
        is_over = _now() > datetime.datetime.fromisoformat(run.deadline)
        if is_over and run.number not in self._tried:  # nobody was here to send it
            self._note("abandoned", {"sub_run": run.number, "place": run.place})
            return
        self._tried.add(run.number)
        for name in names:
            try:
                self._send_to(run, name)
            except UnreachableError as error:
                self._around.say(str(error))
                if is_over:
                    said = f"its mailbox could not be reached by {run.deadline}"
                    self._take(run, name, missing(self._asked(run, name), said))
                else:
                    time.sleep(self._around.poll_s)

    def _send_to(self, run: SubRun, name: str) -> None:
        plan = self.course.held
        bundle = make_bundle(
            plan,
            place=run.place,
            provider=name,
            name=run.bundles[name],
            start=run.start,
            deadline=run.deadline,
        )
        with _folder() as work:
            write_weights(work / "start", self._start())
            try:
                manifest = send(
                    self._boxes[name],
                    bundle,
                    plan,
                    start=work / "start",
                    work=work,
                    key=self._held.key,
                )
            except RefusedError as error:  # something else was laid where the bundle is to be
                raise UnreachableError(str(error)) from error
        digest = digest_document(manifest)
        self._note("sent", {"sub_run": run.number, "provider": name, "manifest": digest})

    def _start(self) -> Mapping[str, Tensor]:
        if not self.course.chain:
            return self._held.start
        link = self.course.chain[-1]
        return _stored(self._around.store, link.sub_run, link.provider, link.digest)

    def _collect(self, run: SubRun) -> None:
        """Wait for answers until all are there or the deadline has passed.

        A mailbox that cannot be reached then may hold one: it has as long again to answer.
        """
        start, deadline = self._start(), datetime.datetime.fromisoformat(run.deadline)
        minutes = datetime.timedelta(minutes=self.course.held.deadline_minutes)
        last_look = max(deadline, _now()) + minutes
        told: list[str] | None = None
        while waiting := [name for name in run.bundles if name not in run.deliveries]:
            if told is not None and waiting != told:  # not at once: answers may lie there
                names, told = ", ".join(waiting), waiting
                self._around.say(f"sub-run {run.number}: waiting for {names} until {run.deadline}")
            told = told or []
            for name in waiting:
                received = self._look(run, name, start, last_look)
                if received is not None:
                    self._take(run, name, received)
            if len(run.deliveries) < len(run.bundles):
                self._show()
                time.sleep(self._around.poll_s)

    def _look(
        self, run: SubRun, name: str, start: Mapping[str, Tensor], last_look: datetime.datetime
    ) -> Received | None:
        """Look for an answer; say that it is missing where it cannot come in time any more."""
        looked, said = _now(), f"nothing came by {run.deadline}"
        is_over = looked > datetime.datetime.fromisoformat(run.deadline)
        try:
            received = self._receive(run, name, start)
        except UnreachableError as error:
            self._around.say(str(error))
            received, is_over = None, looked > last_look
            said = f"its mailbox could not be reached by {run.deadline} nor at {looked.isoformat()}"
        if received is not None or not is_over:
            return received
        with contextlib.suppress(UnreachableError):
            self._boxes[name].replace(f"bundles/{run.bundles[name]}/withdrawn", b"")
        return missing(self._asked(run, name), said)

    def _receive(self, run: SubRun, name: str, start: Mapping[str, Tensor]) -> Received | None:
        asked, looked = self._asked(run, name), _now()
        with _folder() as work:
            received = receive(self._boxes[name], asked, start, work)
            if received is not None and received.log is not None:
                self._around.keep_log(log_name(run.number, name), received.log)
        if received is None:
            return None
        deadline = datetime.datetime.fromisoformat(run.deadline)
        came = self._came(run, name, looked)
        return late(received, came, deadline) if came > deadline else received

    def _came(self, run: SubRun, name: str, seen: datetime.datetime) -> datetime.datetime:
        """Tell when an answer came: as the storage says, but not after it was seen."""
        place = f"results/{run.bundles[name]}/{MANIFEST}"
        return min(self._boxes[name].modified(place) or seen, seen)

    def _asked(self, run: SubRun, name: str) -> Asked:
        plan = self.course.held
        return Asked(
            provider=name,
            key=plan.provider(name).key,
            others={p.name: p.key for p in plan.providers if p.name != name},
            bundle=run.bundles[name],
            manifest=run.sent.get(name, ""),
            sub_run=run.number,
            replicated=run.replicated,
            first_step=run.first_step,
            steps=run.steps,
        )

    def _take(self, run: SubRun, name: str, received: Received) -> None:
        delivery = received.delivery
        if received.weights is not None:
            self._around.store.save(weights_name(run.number, name), received.weights)
        if delivery.fault is not None:
            self._around.say(
                f"{name}, sub-run {run.number}: {delivery.fault.value}: {delivery.detail}"
            )
        self._note(
            "received",
            {
                "sub_run": run.number,
                "provider": name,
                "manifest": received.manifest,
                "environment": delivery.environment,
                "digest": delivery.digest,
                "fault": None if delivery.fault is None else delivery.fault.value,
                "detail": delivery.detail,
            },
        )

    def _compare(self, run: SubRun) -> None:
        ends = {
            name: _stored(self._around.store, run.number, name, str(run.deliveries[name].digest))
            for name in sorted(run.usable())
        }
        found = compare(
            self._start(),
            ends,
            sub_run=run.number,
            network=self._held.network,
            probes=self._held.probes,
        )
        self._note("compared", _compared_body(found))

    def _judge_all(self) -> None:
        """Judge at the end, with what came too late as late."""
        for run in self.course.sub_runs:
            for name, delivery in run.deliveries.items():
                if delivery.fault is Fault.MISSING:
                    self._look_again(run, name)
        alpha = self.course.alpha(final=True)
        audit = judge_now(self.course, alpha=alpha)
        self._note("judged", judged_body(audit, sub_run=None, alpha=alpha))

    def _look_again(self, run: SubRun, name: str) -> None:
        """See whether what was missing came after all; it is not compared any more."""
        asked, deadline = self._asked(run, name), datetime.datetime.fromisoformat(run.deadline)
        with contextlib.suppress(UnreachableError):
            if not self._boxes[name].exists(f"results/{asked.bundle}/{MANIFEST}"):
                return
            came = self._came(run, name, _now())
            if came > deadline:
                self._take(run, name, late(missing(asked, ""), came, deadline))
                return
            said = (
                f"expected it by {run.deadline}, it could not be seen then; it came at "
                f"{came.isoformat()}, as the storage says, and was not compared"
            )
            if run.deliveries[name].detail != said:
                self._take(run, name, missing(asked, said))

    def _expel(self, run: SubRun | None) -> bool:
        """Part with who was flagged, or never answers; say whether the training was rolled back."""
        course = self.course
        number = None if run is None else run.number
        new = dict.fromkeys(sorted(course.flagged - course.expelled.keys()), "flagged")
        for name in course.usable():
            if name not in new and course.faults(name) >= MOST_FAULTS:
                new[name] = "faults"
        for name, why in new.items():
            self._around.say(f"{name} is asked no more: {why}")
            self._note("expelled", {"provider": name, "sub_run": number, "why": why})
        broken = [link for link in course.chain if course.expelled.get(link.provider) == "flagged"]
        if not broken:
            return False
        first = broken[0]
        run_then = course.sub_runs[first.sub_run]
        others = self._others(run_then)
        self._around.say(
            f"back to step {course.held.stretch(first.place)[0]}, before {first.provider}'s"
        )
        self._note(
            "rolled-back",
            {
                "attempt": course.attempt + 1,
                "place": first.place,
                "promoted": _promotion(run_then, others[0]) if others else None,
            },
        )
        return True

    def _others(self, run: SubRun) -> list[str]:
        """Providers whose answer to a sub-run can be gone on with."""
        return [name for name in run.usable() if name not in self.course.expelled]

    def _conclude(self, run: SubRun) -> None:
        others = self._others(run)
        if others:
            self._note("promoted", _promotion(run, others[0]))
        else:
            self._note("abandoned", {"sub_run": run.number, "place": run.place})
        self._show()

    def _close(self) -> None:
        course = self.course
        body = {
            "previous": self._ledger.entries[-1].hash,
            "place": course.place,
            "digest": course.end,
            "is_complete": course.place == course.held.sub_runs,
        }
        self._note("closed", self._held.key.signed(body))


def weights_name(sub_run: int, provider: str) -> str:
    """Name the stored weights of an answer."""
    return f"sub-run-{sub_run:05d}.{provider}"


def log_name(sub_run: int, provider: str) -> str:
    """Name the stored log of an answer."""
    return f"log-{sub_run:05d}.{provider}.jsonl"


def _stored(store: Store, sub_run: int, provider: str, digest: str) -> dict[str, Tensor]:
    weights = store.load(weights_name(sub_run, provider))
    if weights is None or digest_weights(weights) != digest:
        raise InputError(
            f"the weights that {provider} delivered for sub-run {sub_run} are lost or damaged: "
            "expected them in the run's state; start the training anew"
        )
    return weights


def _promotion(run: SubRun, name: str) -> dict[str, Any]:
    digest = run.deliveries[name].digest
    return {"sub_run": run.number, "place": run.place, "provider": name, "digest": digest}


def _compared_body(found: Comparison) -> dict[str, Any]:
    return {
        "sub_run": found.sub_run,
        "providers": list(found.providers),
        "distances": {name: rows.tolist() for name, rows in found.distances.items()},
    }


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


@contextlib.contextmanager
def _folder() -> Iterator[pathlib.Path]:
    with tempfile.TemporaryDirectory(prefix="assay-") as made:
        yield pathlib.Path(made)
