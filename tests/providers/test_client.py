import dataclasses
import datetime
import itertools
import os
import pathlib
import shutil
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytest
import torch

from assay.audits.training import Fault
from assay.errors import InputError
from assay.providers.client import Client, run_training, trusted_weights
from assay.providers.course import Course
from assay.providers.executors import Work
from assay.providers.judging import Judged, judge_ledger, judge_now, judged_body
from assay.providers.ledger import LEDGER, Ledger, read_ledger
from assay.providers.mailbox import Mailbox, UnreachableError
from assay.providers.order import sample_order
from assay.providers.secrecy import Secret, choice, commitment
from assay.randomness import Seed, child
from assay.results import Verdict

from .conftest import NAMES, RECIPE, Kept, Scene, around, honest, make_scene, planting


def train(scene: Scene, store: Kept | None = None, **held: object) -> Judged:
    """Carry a training through; providers work whenever the client waits."""
    store = Kept() if store is None else store
    ledger = Ledger(scene.folder / LEDGER)
    return run_training(scene.held(**held), ledger, around(store, scene.serve))


def alone(scene: Scene) -> torch.Tensor:
    """The weights that the recipe gives where there is neither client nor provider."""
    code: dict[str, Any] = {}
    exec(RECIPE, code)  # noqa: S102  it is ours
    order = sample_order(60, batch=8, first_step=0, steps=18, seed=child(Seed(7), "order"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASSAY_TRAINING_DATA", str(scene.folder / "data.npz"))
        ended = code["train_steps"](
            {"weight": torch.zeros(4, 3), "bias": torch.zeros(3)},
            order,
            hyperparameters={"lr": 0.1},
            seed=0,
            first_step=0,
            on_step=lambda *_: None,
        )
    return ended["weight"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A scene whose training is closed; only to be read. One of the providers plants."""
    scene = make_scene(tmp_path_factory.mktemp("finished"))
    scene.trains["cyd"] = planting
    scene.document["replicated"] = 3
    train(scene)
    return scene


def verdicts(judged: Judged) -> dict[str, Verdict]:
    return {p.name: p.verdict for p in judged.audit.providers}


def test_honest_providers_train_what_one_would_have_trained(scene: Scene) -> None:
    store = Kept()
    judged = train(scene, store)
    assert judged.is_closed
    assert judged.audit.findings.verdict is not Verdict.FLAGGED
    assert judged.course.place == 6
    weights = trusted_weights(scene.held(), judged, store)
    assert torch.equal(weights["weight"], alone(scene))
    entries = read_ledger(scene.folder / LEDGER)
    cut = judge_ledger(entries[:-1]).audit
    assert cut.verdict is Verdict.INCONCLUSIVE, "what convicts may be cut off"
    assert "not closed" in cut.findings.reasons[0]


def test_who_plants_is_expelled_and_nothing_of_it_stays(scene: Scene) -> None:
    scene.trains["bea"] = planting
    scene.document["replicated"] = 4
    store = Kept()
    judged = train(scene, store)
    assert verdicts(judged)["bea"] is Verdict.FLAGGED
    assert Verdict.FLAGGED not in {verdicts(judged)["ada"], verdicts(judged)["cyd"]}
    course = judged.course
    assert course.expelled == {"bea": "flagged"}
    assert course.place == 6
    assert "bea" not in {link.provider for link in course.chain}
    weights = trusted_weights(scene.held(), judged, store)
    assert torch.equal(weights["weight"], alone(scene)), "the training is as if it had no part"


def test_providers_with_orders_of_their_own_are_not_held_to_a_fixed_one(scene: Scene) -> None:
    scene.document |= {"order": "free", "replicated": 3}
    judged = train(scene)
    assert judged.is_closed
    assert Verdict.FLAGGED not in verdicts(judged).values()


def test_a_sub_run_of_who_was_flagged_later_is_done_again(scene: Scene) -> None:
    """A secret for which the attacker is the main provider before anything is replicated."""
    scene.trains["bea"] = planting
    for number in range(200):
        secret = Secret(text=f"{number:064x}")
        first = secret.replicated(attempt=0, places=range(6), count=2)[0]
        mains = [secret.main(sub_run=i, providers=list(scene.keys)) for i in range(first)]
        if first == 2 and mains == ["ada", "bea"]:
            break
    judged = train(scene, secret=secret.text)
    course = judged.course
    assert course.expelled == {"bea": "flagged"}
    rolled = [e for e in read_ledger(scene.folder / LEDGER) if e.kind == "rolled-back"]
    assert [e.body["place"] for e in rolled] == [1]
    assert course.attempt == 1
    assert {link.provider for link in course.chain} <= {"ada", "cyd"}
    assert course.chain[0].provider == "ada", "what came before is kept"


def test_the_ledger_alone_gives_the_same_verdict(finished: Scene) -> None:
    entries = read_ledger(finished.folder / LEDGER)
    judged = judge_ledger(entries)
    assert verdicts(judged)["cyd"] is Verdict.FLAGGED
    last = next(e.body for e in reversed(entries) if e.kind == "judged")
    said = {p["name"]: (p["verdict"], p["p_value"]) for p in last["providers"]}
    again = {p.name: (p.verdict.value, p.p_value) for p in judged.audit.providers}
    assert again == said
    assert judged.course.alpha(final=False) < 0.05
    assert judged.audit.findings.alpha == 0.05


def test_bundles_of_one_sub_run_differ_in_nothing_that_tells(finished: Scene) -> None:
    entries = read_ledger(finished.folder / LEDGER)
    shared = next(e.body for e in entries if e.kind == "opened" and e.body["replicated"])
    asked = []
    for name, bundle in shared["bundles"].items():
        text = (finished.folder / "boxes" / name / "bundles" / bundle / "bundle.json").read_text()
        assert "replic" not in text
        asked.append(text.replace(bundle, "ID").replace(name, "NAME"))
    assert len(asked) == 3
    assert len(set(asked)) == 1


def test_the_secret_is_in_the_ledger_only_at_the_end(finished: Scene) -> None:
    lines = (finished.folder / LEDGER).read_text().splitlines()
    held = [i for i, line in enumerate(lines) if "5" * 64 in line]
    assert held == [len(lines) - 2], "in the line before the last"
    for box in (finished.folder / "boxes").rglob("*.json"):
        assert "5" * 64 not in box.read_text()


class Killed(BaseException):
    """The client is killed here."""


def killed_after(lines: int, ledger: Ledger, serve: Callable[..., None]) -> Callable[..., None]:
    def show(*_: object) -> None:
        if len(ledger.entries) >= lines:
            raise Killed
        serve()

    return show


def test_killed_after_every_line_it_goes_on_to_the_same_end(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.trains["bea"] = planting
    scene.document["replicated"] = 3
    store, path, append = Kept(), scene.folder / LEDGER, Ledger.append

    def once(self: Ledger, kind: str, body: dict[str, Any]) -> None:
        append(self, kind, body)
        with path.open("ab") as file:
            file.write(b'{"index": 3, "ti')  # and tears the next one
        raise Killed

    monkeypatch.setattr(Ledger, "append", once)
    kills = 0
    while not (path.exists() and judge_ledger(read_ledger(path)).is_closed):
        kills += 1
        with pytest.raises(Killed):
            train(scene, store)
    judged = train(scene, store)
    assert kills == len(read_ledger(path)) > 20
    assert verdicts(judged)["bea"] is Verdict.FLAGGED
    weights = trusted_weights(scene.held(), judged, store)
    assert torch.equal(weights["weight"], alone(scene))


def test_a_client_interrupted_while_it_waits_goes_on(scene: Scene) -> None:
    store, path = Kept(), scene.folder / LEDGER
    for lines in (4, 9, 15):
        ledger = Ledger(path)
        lent = around(store, killed_after(lines, ledger, scene.serve))
        with pytest.raises(Killed):
            run_training(scene.held(), ledger, lent)
    judged = train(scene, store)
    assert judged.is_closed
    sent = [(e.body["sub_run"], e.body["provider"]) for e in read_ledger(path) if e.kind == "sent"]
    assert len(sent) == len(set(sent)), "nothing is asked twice"


def test_a_run_is_not_taken_up_with_another_plan(finished: Scene) -> None:
    other = finished.held(alpha=0.01)
    with pytest.raises(InputError, match="another plan"):
        Client(other, Ledger(finished.folder / LEDGER), around(Kept()))


def test_who_never_answers_is_asked_no_more(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.document["replicated"] = 4
    absent = scene.keys.pop("cyd")
    seconds = itertools.count()
    began = datetime.datetime.now(datetime.UTC)
    monkeypatch.setattr(
        "assay.providers.client._now", lambda: began + datetime.timedelta(seconds=5 * next(seconds))
    )
    said: list[str] = []
    lent = dataclasses.replace(around(Kept(), scene.serve), say=said.append)
    judged = run_training(scene.held(), Ledger(scene.folder / LEDGER), lent)
    waited = [text for text in said if "waiting for cyd until" in text]
    assert len(waited) == 3, "once a sub-run"
    assert judged.course.expelled == {"cyd": "faults"}
    assert judged.course.place == 6
    assert verdicts(judged)["cyd"] is not Verdict.FLAGGED
    found = [d.fault for d in judged.course.deliveries() if d.provider == "cyd"]
    assert found == [Fault.MISSING] * 3
    assert absent.public in str(judged.course.begun)


def test_a_mailbox_that_cannot_be_reached_has_until_the_deadline(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.document |= {"steps": 3, "replicated": 1}
    failures, put = iter([True, True, False]), Mailbox.put

    def flaky(self: Mailbox, place: str, source: pathlib.Path) -> None:
        if self.url.endswith("cyd") and next(failures, False):
            raise UnreachableError("no route")
        put(self, place, source)

    monkeypatch.setattr(Mailbox, "put", flaky)
    judged = train(scene)
    assert judged.course.place == 1
    assert {d.provider: d.fault for d in judged.course.deliveries()} == dict.fromkeys(NAMES)


def test_a_mailbox_that_is_gone_is_a_missing_answer(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.document |= {"steps": 3, "replicated": 1, "deadline_minutes": 0.01}

    def gone(self: Mailbox, *_: object) -> None:
        if self.url.endswith("cyd"):
            raise UnreachableError("no route")
        put(self, *_)

    put = Mailbox.put
    monkeypatch.setattr(Mailbox, "put", gone)
    client = Client(scene.held(), Ledger(scene.folder / LEDGER), around(Kept()))
    while "cyd" not in {d.provider for d in client.course.deliveries()}:
        client.step()
    found = {d.provider: d for d in client.course.deliveries()}["cyd"]
    assert found.fault is Fault.MISSING
    assert "could not be reached" in found.detail


def unreachable_results(monkeypatch: pytest.MonkeyPatch, failures: Iterable[bool]) -> None:
    """Let looks into cyd's results fail."""
    failing, read = iter(failures), Mailbox.read

    def flaky(self: Mailbox, place: str, most: int) -> bytes | None:
        if self.url.endswith("cyd") and place.startswith("results") and next(failing, False):
            raise UnreachableError("no route")
        return read(self, place, most)

    monkeypatch.setattr(Mailbox, "read", flaky)


def running_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let five seconds pass whenever the client looks at the clock."""
    seconds, began = itertools.count(step=5), datetime.datetime.now(datetime.UTC)
    monkeypatch.setattr(
        "assay.providers.client._now", lambda: began + datetime.timedelta(seconds=next(seconds))
    )


def test_a_look_that_fails_after_the_deadline_makes_no_answer_missing(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.document |= {"steps": 3, "replicated": 1}
    client = Client(scene.held(), Ledger(scene.folder / LEDGER), around(store := Kept()))
    while client.course.current is None or len(client.course.current.sent) < 3:
        client.step()
    scene.serve()
    hours = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=5)
    monkeypatch.setattr("assay.providers.client._now", lambda: hours)
    unreachable_results(monkeypatch, [True])
    judged = train(scene, store)
    assert {d.provider: d.fault for d in judged.course.deliveries()} == dict.fromkeys(NAMES)


def test_an_answer_that_could_not_be_reached_is_not_called_late(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.document |= {"steps": 3, "replicated": 1}
    running_clock(monkeypatch)
    unreachable_results(monkeypatch, itertools.repeat(True))
    ledger = Ledger(scene.folder / LEDGER)
    client = Client(scene.held(), ledger, around(Kept(), scene.serve))
    while not client.course.is_final:
        client.step()
    said = [e.body for e in ledger.entries if e.kind == "received" and e.body["provider"] == "cyd"]
    assert [body["fault"] for body in said] == ["missing"] * 2
    assert "could not be reached" in said[0]["detail"]
    assert "as the storage says" in said[1]["detail"]
    lines = len(ledger.entries)
    client._look_again(client.course.sub_runs[0], "cyd")
    assert len(ledger.entries) == lines, "it is said once"


def test_a_storage_whose_clock_is_ahead_makes_nobody_late(scene: Scene) -> None:
    scene.document |= {"steps": 3, "replicated": 1}

    def serve(*_: object) -> None:
        scene.serve()
        for path in (scene.folder / "boxes" / "cyd" / "results").glob("*/manifest.json"):
            ahead = path.stat().st_ctime + 7200
            os.utime(path, (ahead, ahead))

    judged = run_training(scene.held(), Ledger(scene.folder / LEDGER), around(Kept(), serve))
    assert {d.provider: d.fault for d in judged.course.deliveries()} == dict.fromkeys(NAMES)


def test_a_file_where_the_folder_of_a_bundle_was_ends_no_client(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.document |= {"steps": 3, "replicated": 1}
    scene.keys.pop("cyd")
    running_clock(monkeypatch)

    def serve(*_: object) -> None:
        scene.serve()
        for folder in (scene.folder / "boxes" / "cyd" / "bundles").glob("*"):
            if folder.is_dir():
                shutil.rmtree(folder)
                folder.touch()

    judged = run_training(scene.held(), Ledger(scene.folder / LEDGER), around(Kept(), serve))
    assert judged.is_closed
    found = {d.provider: d.fault for d in judged.course.deliveries()}
    assert found == dict.fromkeys(NAMES) | {"cyd": Fault.MISSING}


def test_a_pipe_where_a_bundle_is_to_be_ends_no_client(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.document |= {"steps": 3, "replicated": 1}
    running_clock(monkeypatch)
    bundle = scene.held().secret.bundle(sub_run=0, provider="cyd")
    folder = scene.folder / "boxes" / "cyd" / "bundles" / bundle
    folder.mkdir(parents=True)
    os.mkfifo(folder / "manifest.json")
    judged = train(scene)
    assert judged.is_closed
    found = {d.provider: d.fault for d in judged.course.deliveries()}
    assert found == dict.fromkeys(NAMES) | {"cyd": Fault.MISSING}


def test_a_client_that_was_away_past_the_deadline_blames_nobody(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.document |= {"steps": 3, "replicated": 1}
    client = Client(scene.held(), Ledger(scene.folder / LEDGER), around(Kept()))
    client.step()
    assert client.course.current is not None
    hours = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=5)
    monkeypatch.setattr("assay.providers.client._now", lambda: hours)
    judged = train(scene)
    assert {d.fault for d in judged.course.deliveries()} == {None}
    assert [run.replicated for run in judged.course.sub_runs] == [True, True]
    assert judged.course.place == 1


def test_what_comes_too_late_is_late(scene: Scene) -> None:
    scene.document |= {"deadline_minutes": 0.02, "replicated": 6, "steps": 3}
    scene.document["replicated"] = 1
    slow = scene.keys.pop("cyd")
    ledger = Ledger(scene.folder / LEDGER)

    def serve(*_: object) -> None:
        if any(e.kind == "received" and e.body["provider"] == "cyd" for e in ledger.entries):
            return
        scene.serve()

    client = Client(scene.held(), ledger, around(Kept(), serve))
    while not client.course.is_final and client.course.place == 0:
        client.step()
    scene.keys["cyd"] = slow
    withdrawn = list((scene.folder / "boxes" / "cyd" / "bundles").glob("*/withdrawn"))
    assert len(withdrawn) == 1, "the provider is told that nobody waits any more"
    withdrawn[0].unlink()
    scene.serve()
    while not client.course.is_closed:
        client.step()
    assert [d.fault for d in client.course.deliveries() if d.provider == "cyd"] == [Fault.LATE]
    judge_ledger(ledger.entries)


def test_with_one_provider_left_nothing_more_is_trained(scene: Scene) -> None:
    scene.trains |= {"bea": copying_nothing, "cyd": copying_nothing}
    scene.document["replicated"] = 6
    judged = train(scene)
    assert judged.is_closed
    assert judged.course.place < 6
    assert {"bea", "cyd"} <= judged.course.expelled.keys()


def copying_nothing(asked: Work) -> None:
    """Send something that is signed, and is not what the manifest says."""
    honest(asked)
    (asked.output / "weights.safetensors").write_bytes(b"\x80\x04.")


def test_the_clients_own_replica_is_asked_for_replicas_alone(scene: Scene) -> None:
    scene.document["providers"][0]["trusted"] = True
    judged = train(scene)
    mains = {link.provider for link in judged.course.chain}
    assert "ada" not in {run.main for run in judged.course.sub_runs}
    assert mains <= {"bea", "cyd"}
    assert judged.is_closed


Change = Callable[[dict[str, Any]], dict[str, Any] | None]
FORGERIES: dict[str, tuple[str, str, Change]] = {
    "verdict": (
        "judged",
        "another judgement",
        lambda b: {"providers": [{**p, "verdict": "no_indicator"} for p in b["providers"]]},
    ),
    "p-value": (
        "judged",
        "another judgement",
        lambda b: {"providers": [{**p, "p_value": 0.999 * p["p_value"]} for p in b["providers"]]},
    ),
    "signature": (
        "received",
        "did not sign",
        lambda b: {"manifest": b["manifest"] and {**b["manifest"], "environment": "another"}},
    ),
    "no signature": ("received", "did not sign", lambda _: {"manifest": None}),
    "environment": ("received", "expected the environment that", lambda _: {"environment": "x"}),
    "fault": ("received", "not a valid Fault", lambda _: {"fault": "lazy"}),
    "second answer": ("received", "expected one answer of ada", lambda _: {"provider": "ada"}),
    "answer of nobody": ("received", "was not asked", lambda _: {"provider": "dan"}),
    "distances": ("compared", "another judgement", lambda _: {"distances": {}}),
    "compared": ("compared", "as providers, got", lambda _: {"providers": ["bea", "cyd"]}),
    "no judgement": ("judged", "got 'flagged'", lambda _: None),
    "place": ("opened", "as place, got", lambda b: {"place": b["place"] + 1}),
    "attempt": ("opened", "as attempt, got", lambda _: {"attempt": 7}),
    "start": ("opened", "as start, got", lambda _: {"start": "0" * 64}),
    "not expelled": ("expelled", "cyd to be expelled", lambda _: None),
    "expelled": (
        "expelled",
        "nothing in the ledger says",
        lambda _: {"provider": "bea", "why": "faults"},
    ),
    "promoted": ("promoted", "as digest, got", lambda _: {"digest": "0" * 64}),
    "secret": ("revealed", "committed to", lambda _: {"secret": "6" * 64}),
    "no secret": ("revealed", "and the secret, before it", lambda _: None),
    "begun": ("begun", "committed to", lambda _: {"commitment": "0" * 64}),
    "end": ("closed", "as digest, got", lambda _: {"digest": "0" * 64}),
    "previous": ("closed", "not signed", lambda _: {"previous": "0" * 64}),
}


def rewritten(scene: Scene, path: pathlib.Path, changes: Mapping[str, Change]) -> Ledger:
    """Write a ledger anew, its chain whole and its end signed, with some kinds of lines changed."""
    entries = read_ledger(scene.folder / LEDGER)
    ledger = Ledger(path)
    for entry in entries:
        body = {name: value for name, value in entry.body.items() if name != "signature"}
        if entry.kind == "closed":
            body["previous"] = ledger.entries[-1].hash
        more = changes[entry.kind](entry.body) if entry.kind in changes else {}
        if more is not None:
            body |= more
            ledger.append(entry.kind, scene.client.signed(body) if entry.kind == "closed" else body)
    return ledger


@pytest.mark.parametrize("forgery", FORGERIES)
def test_a_ledger_that_was_made_up_is_found_out(
    finished: Scene, tmp_path: pathlib.Path, forgery: str
) -> None:
    kind, said, change = FORGERIES[forgery]
    with pytest.raises(InputError, match=said):
        judge_ledger(rewritten(finished, tmp_path / LEDGER, {kind: change}).entries)


def test_draws_of_a_secret_that_was_found_afterwards_are_found_out(
    finished: Scene, tmp_path: pathlib.Path
) -> None:
    chosen = choice(Secret(text="6" * 64), places=6, count=3)
    changes: dict[str, Change] = {
        "begun": lambda _: {"commitment": commitment(chosen)},
        "revealed": lambda _: chosen,
    }
    with pytest.raises(InputError, match="whom the secret chose"):
        judge_ledger(rewritten(finished, tmp_path / LEDGER, changes).entries)


def test_distances_cannot_be_left_out(finished: Scene, tmp_path: pathlib.Path) -> None:
    entries = read_ledger(finished.folder / LEDGER)
    course, forged = Course(), Ledger(tmp_path / LEDGER)
    for entry in entries[: next(e.index for e in entries if e.kind == "compared")]:
        course.apply(forged.append(entry.kind, entry.body))
    alpha = course.alpha(final=False)
    number = len(course.sub_runs) - 1
    forged.append(
        "judged", judged_body(judge_now(course, alpha=alpha), sub_run=number, alpha=alpha)
    )
    with pytest.raises(InputError, match="expected the distances"):
        judge_ledger(forged.entries)


def test_a_crash_that_a_provider_signed_is_no_answer(scene: Scene) -> None:
    def crash(_: Work) -> None:
        raise InputError("out of memory")

    scene.trains["bea"] = crash
    scene.document |= {"steps": 3, "replicated": 1}
    train(scene)
    changes: dict[str, Change] = {"received": lambda _: {"fault": None, "digest": "0" * 64}}
    forged = rewritten(scene, scene.folder / "forged.jsonl", changes)
    with pytest.raises(InputError, match="bea did not sign this answer"):
        judge_ledger(forged.entries)


def test_the_last_digits_of_a_judgement_may_be_another_processors(
    finished: Scene, tmp_path: pathlib.Path
) -> None:
    """The field of `findings` was there before, and bound them to the last bit."""

    def elsewhere(body: dict[str, Any]) -> dict[str, Any]:
        rows = [{**p, "p_value": p["p_value"] * (1 - 1e-12)} for p in body["providers"]]
        return {"providers": rows, "findings": "0" * 64}

    judged = judge_ledger(rewritten(finished, tmp_path / LEDGER, {"judged": elsewhere}).entries)
    assert verdicts(judged) == verdicts(judge_ledger(read_ledger(finished.folder / LEDGER)))
    assert judged.is_closed


def test_a_ledger_without_its_end_says_so(finished: Scene) -> None:
    entries = read_ledger(finished.folder / LEDGER)
    first = next(e.index for e in entries if e.kind == "received")
    for count in (first + 1, len(entries) // 2, len(entries) - 1):
        judged = judge_ledger(entries[:count])
        assert not judged.is_closed
        undrawn = any("the secret chose" in said for said in judged.audit.findings.not_examined)
        assert undrawn == (count < len(entries) - 1)
    assert (
        "the ledger ends there" in judge_ledger(entries[: first + 1]).audit.findings.not_examined[0]
    )
