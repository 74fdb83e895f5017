"""Every fault is provoked, and found before anything is believed."""

import io
import os
import pathlib
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from assay.audits.training import Fault
from assay.providers.bundle import MANIFEST, part_entry
from assay.providers.client import Client, run_training
from assay.providers.executors import Ended, Work
from assay.providers.ledger import LEDGER, Ledger
from assay.providers.receiving import Received, receive
from assay.providers.worker import work as do_work
from assay.results import Verdict
from assay.storage import documents
from assay.storage.weights import read_weights

from .conftest import RECIPE, Kept, Scene, Train, around, honest

NAME = "bea"


def asked(scene: Scene) -> Client:
    """A client whose first sub-run went to everybody."""
    scene.document |= {"steps": 3, "replicated": 1}
    client = Client(scene.held(), Ledger(scene.folder / LEDGER), around(Kept()))
    while client.course.current is None or len(client.course.current.sent) < 3:
        client.step()
    return client


def answer(client: Client, scene: Scene, work: pathlib.Path) -> Received | None:
    work.mkdir(exist_ok=True)
    run = client.course.current
    assert run is not None
    start = read_weights(scene.folder / "start.safetensors", max_mb=1)
    return receive(scene.box(NAME), client._asked(run, NAME), start, work)


def results(client: Client, scene: Scene, name: str = NAME) -> pathlib.Path:
    run = client.course.current
    assert run is not None
    return scene.folder / "boxes" / name / "results" / run.bundles[name]


def fault(received: Received | None) -> Fault | None:
    assert received is not None
    if received.delivery.fault is not None:
        assert received.weights is None
        assert received.delivery.detail
    return received.delivery.fault


def test_an_honest_answer_has_no_fault(scene: Scene, tmp_path: pathlib.Path) -> None:
    client = asked(scene)
    assert answer(client, scene, tmp_path / "a") is None, "nothing has come yet"
    scene.serve()
    received = answer(client, scene, tmp_path / "b")
    assert fault(received) is None
    assert received is not None
    assert received.weights is not None
    assert received.delivery.digest is not None
    assert "torch" in received.delivery.environment
    assert "float32" in received.delivery.environment
    assert received.log is not None
    assert len(received.log.splitlines()) == 3


def weights_of(work: Work) -> dict[str, torch.Tensor]:
    honest(work)
    return read_weights(work.output / "weights.safetensors", max_mb=1)


def saving(change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Train:
    """A training whose weights are changed before they are sent."""

    def train(work: Work) -> None:
        weights = weights_of(work)
        save_file(change(weights), work.output / "weights.safetensors")
        log = "".join(f'{{"step": {i}}}\n' for i in range(3))
        (work.output / "log.jsonl").write_text(log)

    return train


def writing(name: str, content: Callable[[Work], bytes]) -> Train:
    """A training after which one file is another."""

    def train(work: Work) -> None:
        honest(work)
        (work.output / name).write_bytes(content(work))

    return train


def pickled(_: Work) -> bytes:
    buffer = io.BytesIO()
    torch.save({"weight": torch.zeros(4, 3)}, buffer)
    return buffer.getvalue()


def not_a_number(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {**weights, "bias": torch.tensor([1.0, float("nan"), 0.0])}


TRAININGS: dict[str, tuple[Train, Fault]] = {
    "NaN": (saving(not_a_number), Fault.NOT_FINITE),
    "infinity": (saving(lambda w: {**w, "bias": torch.full((3,), torch.inf)}), Fault.NOT_FINITE),
    "the start weights": (
        saving(lambda w: {name: torch.zeros_like(v) for name, v in w.items()}),
        Fault.UNCHANGED,
    ),
    "a tensor more": (saving(lambda w: {**w, "more": torch.zeros(1)}), Fault.FOREIGN),
    "another shape": (saving(lambda w: {**w, "weight": torch.zeros(4, 4)}), Fault.FOREIGN),
    "another format": (saving(lambda w: {**w, "bias": w["bias"].double()}), Fault.FOREIGN),
    "too large": (saving(lambda w: {**w, "more": torch.zeros(2**19)}), Fault.REFUSED),
    "a pickle": (writing("weights.safetensors", pickled), Fault.REFUSED),
    "a bare pickle": (writing("weights.safetensors", lambda _: b"\x80\x04."), Fault.REFUSED),
    "noise": (writing("weights.safetensors", lambda _: os.urandom(99)), Fault.BROKEN),
    "an empty file": (writing("weights.safetensors", lambda _: b""), Fault.BROKEN),
    "cut off": (
        writing(
            "weights.safetensors", lambda w: (w.output / "weights.safetensors").read_bytes()[:-9]
        ),
        Fault.BROKEN,
    ),
    "a log of fewer steps": (writing("log.jsonl", lambda _: b'{"step": 0}\n'), Fault.TOO_FEW_STEPS),
    "an empty log": (writing("log.jsonl", lambda _: b""), Fault.TOO_FEW_STEPS),
    "a log of other steps": (
        writing("log.jsonl", lambda _: b'{"step": 0}\n{"step": 2}\n{"step": 1}\n'),
        Fault.TOO_FEW_STEPS,
    ),
    "a log of other weights": (
        writing(
            "log.jsonl",
            lambda _: b"".join(
                b'{"step": %d, "digest": "%s"}\n' % (i, b"0" * 64) for i in range(3)
            ),
        ),
        Fault.TOO_FEW_STEPS,
    ),
    "a log that is none": (writing("log.jsonl", lambda _: b"\xff{"), Fault.BROKEN),
    "an endless log": (writing("log.jsonl", lambda _: b"\n" * 2**17), Fault.REFUSED),
}


@pytest.fixture
def unchecking(monkeypatch: pytest.MonkeyPatch) -> None:
    """Workers that send whatever the training left."""
    monkeypatch.setattr("assay.providers.worker._check_parts", lambda *_: None)


@pytest.mark.usefixtures("unchecking")
@pytest.mark.parametrize("what", TRAININGS)
def test_what_is_wrong_with_weights_and_logs_is_found(
    scene: Scene, tmp_path: pathlib.Path, what: str
) -> None:
    scene.trains[NAME], wanted = TRAININGS[what]
    client = asked(scene)
    scene.serve()
    assert fault(answer(client, scene, tmp_path / "work")) is wanted


STEPS_FROM_0 = ("enumerate(order, first_step)", "enumerate(order)")
MODEL_ALONE = ("on_step(step, now)", 'on_step(step, {"weight": now["weight"]})')


def slipping(scene: Scene, slip: tuple[str, str]) -> None:
    """Put a slip into the recipe, which all execute."""
    (scene.folder / "recipe.py").write_text(RECIPE.replace(*slip))
    scene.forget()


@pytest.mark.usefixtures("unchecking")
@pytest.mark.parametrize("slip", [STEPS_FROM_0, MODEL_ALONE], ids=["steps from 0", "model alone"])
def test_a_slip_in_the_recipe_accuses_nobody(scene: Scene, slip: tuple[str, str]) -> None:
    slipping(scene, slip)
    judged = run_training(scene.held(), Ledger(scene.folder / LEDGER), around(Kept(), scene.serve))
    found = {delivery.fault for delivery in judged.course.deliveries()}
    assert Fault.TOO_FEW_STEPS in found
    assert found <= {Fault.TOO_FEW_STEPS, None}
    assert {p.verdict for p in judged.audit.providers} == {Verdict.INCONCLUSIVE}


class Failing:
    """A training that fails."""

    def __init__(self, said: str = "exit code 1: out of memory") -> None:
        self._said = said

    def start(self, _: Work) -> "Failing":
        return self

    def poll(self) -> Ended:
        return Ended(error=self._said)

    def stop(self) -> None:
        pass


def test_a_crash_report_is_a_crash(scene: Scene, tmp_path: pathlib.Path) -> None:
    client = asked(scene)
    place = scene.place(NAME, executor=Failing())
    assert do_work(scene.box(NAME), place, once=True, poll_s=1.0, say=lambda _: None) == 1
    received = answer(client, scene, tmp_path / "work")
    assert fault(received) is Fault.CRASHED
    assert received is not None
    assert "out of memory" in received.delivery.detail


def manifest(path: pathlib.Path) -> dict[str, Any]:
    loaded = documents.load((path / MANIFEST).read_bytes())
    assert isinstance(loaded, dict)
    return loaded


def put(path: pathlib.Path, content: dict[str, Any]) -> None:
    (path / MANIFEST).write_text(documents.dump(content))


def signed_anew(scene: Scene, path: pathlib.Path, **changes: Any) -> None:
    held = manifest(path)
    del held["signature"]
    put(path, scene.keys[NAME].signed({**held, **changes}))


def unsigned(scene: Scene, path: pathlib.Path) -> None:
    held = manifest(path)
    del held["signature"]
    put(path, held)


def other_parts(scene: Scene, path: pathlib.Path) -> None:
    signed_anew(scene, path, parts={"weights.pt": {}, "log.jsonl": {}})


def shortened(scene: Scene, path: pathlib.Path) -> None:
    weights = path / "0001" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-5])


def flipped(scene: Scene, path: pathlib.Path) -> None:
    weights = path / "0001" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x01")


def linked(scene: Scene, path: pathlib.Path) -> None:
    weights = path / "0001" / "weights.safetensors"
    weights.rename(path / "elsewhere")
    weights.symlink_to(path / "elsewhere")


def gone(scene: Scene, path: pathlib.Path) -> None:
    (path / "0001" / "weights.safetensors").unlink()


def grown(scene: Scene, path: pathlib.Path) -> None:
    weights = path / "0001" / "weights.safetensors"
    with weights.open("ab") as file:
        file.truncate(2**22)
    signed_anew(
        scene,
        path,
        parts={
            "weights.safetensors": part_entry(weights),
            "log.jsonl": manifest(path)["parts"]["log.jsonl"],
        },
    )


MANIFESTS: dict[str, tuple[Callable[[Scene, pathlib.Path], None], Fault]] = {
    "no signature": (unsigned, Fault.TAMPERED),
    "changed after signing": (
        lambda _, p: put(p, {**manifest(p), "environment": "another"}),
        Fault.TAMPERED,
    ),
    "half of it": (
        lambda _, p: (p / MANIFEST).write_bytes((p / MANIFEST).read_bytes()[:-9]) and None,
        Fault.BROKEN,
    ),
    "another schema": (lambda s, p: signed_anew(s, p, schema="x"), Fault.BROKEN),
    "a field that is unknown": (lambda s, p: signed_anew(s, p, more="\u00e9" * 9), Fault.BROKEN),
    "no manifest at all": (lambda _, p: put(p, {"a": 1}), Fault.BROKEN),
    "a huge one": (
        lambda s, p: signed_anew(s, p, error="\u00e9" * 2**13),
        Fault.REFUSED,
    ),
    "weights.pt": (other_parts, Fault.REFUSED),
    "no parts": (lambda s, p: signed_anew(s, p, parts={}), Fault.BROKEN),
    "parts elsewhere": (lambda s, p: signed_anew(s, p, place="../../.."), Fault.BROKEN),
    "to another bundle": (lambda s, p: signed_anew(s, p, bundle="0" * 32), Fault.COPIED),
    "to another question": (lambda s, p: signed_anew(s, p, asked="0" * 64), Fault.COPIED),
    "shortened weights": (shortened, Fault.BROKEN),
    "changed weights": (flipped, Fault.TAMPERED),
    "no weights": (gone, Fault.BROKEN),
    "a link": (linked, Fault.REFUSED),
    "a sparse giant": (grown, Fault.REFUSED),
}


@pytest.mark.parametrize("what", MANIFESTS)
def test_what_is_wrong_with_an_answer_is_found(
    scene: Scene, tmp_path: pathlib.Path, what: str
) -> None:
    change, wanted = MANIFESTS[what]
    client = asked(scene)
    scene.serve()
    change(scene, results(client, scene))
    assert fault(answer(client, scene, tmp_path / "work")) is wanted


def test_the_longest_report_of_a_crash_is_not_refused(scene: Scene, tmp_path: pathlib.Path) -> None:
    client = asked(scene)
    place = scene.place(NAME, executor=Failing("\U0001f525" * 9_999))
    do_work(scene.box(NAME), place, once=True, poll_s=1.0, say=lambda _: None)
    assert (results(client, scene) / MANIFEST).stat().st_size > 2**14
    assert fault(answer(client, scene, tmp_path / "work")) is Fault.CRASHED


def test_another_providers_answer_is_copied(scene: Scene, tmp_path: pathlib.Path) -> None:
    client = asked(scene)
    del scene.keys[NAME]
    scene.serve()
    own, other = results(client, scene), results(client, scene, "ada")
    own.parent.mkdir()
    other.rename(own)
    received = answer(client, scene, tmp_path / "work")
    assert fault(received) is Fault.COPIED
    assert received is not None
    assert "ada" in received.delivery.detail


def test_what_a_provider_says_does_nothing_to_a_terminal(
    scene: Scene, tmp_path: pathlib.Path
) -> None:
    client = asked(scene)
    scene.serve()
    signed_anew(
        scene,
        results(client, scene),
        state="failed",
        error="\x1b[2J" * 999,
        environment="\x07" * 999,
    )
    received = answer(client, scene, tmp_path / "work")
    assert fault(received) is Fault.CRASHED
    assert received is not None
    assert received.delivery.detail.isprintable()
    assert received.delivery.environment.isprintable()
    assert len(received.delivery.detail) < 3_000


def test_every_fault_is_provoked() -> None:
    here = {wanted for _, wanted in [*TRAININGS.values(), *MANIFESTS.values()]}
    elsewhere = {
        Fault.MISSING,
        Fault.LATE,
        Fault.CRASHED,
    }  # the latter above, others in test_client
    assert here | elsewhere == {*Fault}
