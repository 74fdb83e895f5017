import datetime
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch

from assay.audits.training import Fault
from assay.errors import InputError
from assay.providers.client import Client, run_training, trusted_weights
from assay.providers.executors import Work
from assay.providers.judging import Judged, judge_ledger
from assay.providers.ledger import LEDGER, Ledger, read_ledger
from assay.providers.order import sample_order
from assay.providers.secrecy import Secret
from assay.randomness import Seed, child
from assay.results import Verdict

from .conftest import RECIPE, Kept, Scene, around, honest, planting


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


def test_the_ledger_alone_gives_the_same_verdict(scene: Scene) -> None:
    scene.trains["cyd"] = planting
    judged = train(scene)
    again = judge_ledger(read_ledger(scene.folder / LEDGER))
    for one, other in zip(judged.audit.providers, again.audit.providers, strict=True):
        assert (one.name, one.verdict, one.p_value) == (other.name, other.verdict, other.p_value)
    assert again.audit.findings.reasons == judged.audit.findings.reasons


def test_bundles_of_one_sub_run_differ_in_nothing_that_tells(scene: Scene) -> None:
    train(scene)
    entries = read_ledger(scene.folder / LEDGER)
    shared = next(e.body for e in entries if e.kind == "opened" and e.body["replicated"])
    asked = []
    for name, bundle in shared["bundles"].items():
        text = (scene.folder / "boxes" / name / "bundles" / bundle / "bundle.json").read_text()
        assert "replic" not in text
        asked.append(text.replace(bundle, "ID").replace(name, "NAME"))
    assert len(asked) == 3
    assert len(set(asked)) == 1


def test_the_secret_is_in_the_ledger_only_at_the_end(scene: Scene) -> None:
    train(scene)
    lines = (scene.folder / LEDGER).read_text().splitlines()
    held = [i for i, line in enumerate(lines) if "5" * 64 in line]
    assert held == [len(lines) - 2], "in the line before the last"
    for box in (scene.folder / "boxes").rglob("*.json"):
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


def test_a_run_is_not_taken_up_with_another_plan(scene: Scene) -> None:
    train(scene)
    scene.document["hyperparameters"] = {"lr": 0.2}
    with pytest.raises(InputError, match="another plan"):
        Client(scene.held(), Ledger(scene.folder / LEDGER), around(Kept()))


def test_who_never_answers_is_asked_no_more(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.document["replicated"] = 4
    absent = scene.keys.pop("cyd")
    seconds = itertools.count()
    began = datetime.datetime.now(datetime.UTC)
    monkeypatch.setattr(
        "assay.providers.client._now", lambda: began + datetime.timedelta(seconds=5 * next(seconds))
    )
    judged = train(scene)
    assert judged.course.expelled == {"cyd": "faults"}
    assert judged.course.place == 6
    assert verdicts(judged)["cyd"] is not Verdict.FLAGGED
    found = [d.fault for d in judged.course.deliveries() if d.provider == "cyd"]
    assert found == [Fault.MISSING] * 3
    assert absent.public in str(judged.course.begun)


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


def test_whose_draw_is_not_the_secrets_is_found_out(scene: Scene) -> None:
    judged = train(scene)
    entries = read_ledger(scene.folder / LEDGER)
    assert judged.is_closed
    path = scene.folder / "other.jsonl"
    forged = Ledger(path)
    for entry in entries:
        body = dict(entry.body)
        if entry.kind == "begun":
            body["commitment"] = "0" * 64
        forged.append(entry.kind, body)
    with pytest.raises(InputError, match="committed to"):
        judge_ledger(forged.entries[:-1])


@pytest.mark.parametrize("kind", ["judged", "closed", "received"])
def test_a_ledger_that_was_made_up_is_found_out(scene: Scene, kind: str) -> None:
    scene.trains["cyd"] = planting
    train(scene)
    forged = Ledger(scene.folder / "other.jsonl")
    for entry in read_ledger(scene.folder / LEDGER):
        body = dict(entry.body)
        if entry.kind == kind == "judged":
            body["providers"] = [{**p, "verdict": "no_indicator"} for p in body["providers"]]
        if entry.kind == kind == "received":
            body["manifest"] = {**body["manifest"], "environment": "another"}
        if entry.kind == kind == "closed":
            body["digest"] = "0" * 64
        forged.append(entry.kind, body)
    said = {"judged": "another judgement", "closed": "not signed", "received": "did not sign"}
    with pytest.raises(InputError, match=said[kind]):
        judge_ledger(forged.entries)


def test_a_ledger_without_its_end_says_so(scene: Scene) -> None:
    train(scene)
    entries = read_ledger(scene.folder / LEDGER)
    for count in (1, len(entries) // 2, len(entries) - 1):
        if any(e.kind == "received" for e in entries[:count]):
            assert not judge_ledger(entries[:count]).is_closed
