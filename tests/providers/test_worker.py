"""The provider's side, as real processes and in this one."""

import dataclasses
import multiprocessing
import os
import pathlib
import signal
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from typing import Any

import pytest
import torch

from assay.errors import UsageError
from assay.providers.bundle import MANIFEST
from assay.providers.claims import Claims
from assay.providers.client import run_training
from assay.providers.executors import Ended, Process, RayJobs, Work
from assay.providers.keys import fresh_key
from assay.providers.ledger import LEDGER, Ledger
from assay.providers.mailbox import Mailbox, UnreachableError
from assay.providers.worker import work
from assay.results import Verdict
from assay.storage import documents

from .conftest import RECIPE, InProcess, Kept, Scene, around, honest

PATIENCE_S = 120
COMMAND = """
import json, os, pathlib, sys, time
import safetensors.numpy as st

bundle, output = pathlib.Path(os.environ["ASSAY_BUNDLE"]), pathlib.Path(os.environ["ASSAY_OUTPUT"])
asked = json.loads((bundle / "bundle.json").read_text())
order = st.load_file(bundle / "order.safetensors")["order"]
assert order.shape == (asked["steps"], asked["batch"])
assert pathlib.Path(os.environ["ASSAY_TRAINING_DATA"]).is_file()
with open("done.txt", "a") as file:
    file.write(asked["id"] + "\\n")
if pathlib.Path("slow").exists():
    pathlib.Path("pid.txt").write_text(str(os.getpid()))
    pathlib.Path("slow").unlink()
    time.sleep(600)
weights = st.load_file(bundle / "start.safetensors")
with (output / "log.jsonl").open("w") as log:
    for step, rows in enumerate(order, asked["first_step"]):
        weights["bias"] = weights["bias"] + rows.mean().astype("float32")
        log.write(json.dumps({"step": step}) + "\\n")
st.save_file(weights, output / "weights.safetensors")
"""


def commanded(scene: Scene) -> None:
    """Make the recipe of a scene a command."""
    (scene.folder / "train.py").write_text(COMMAND)
    scene.document |= {
        "code": None,
        "command": [sys.executable, "train.py"],
        "files": ["train.py"],
    }


def send(scene: Scene, count: int, name: str = "ada", first: int = 0) -> list[str]:
    """Put the first bundle of several trainings into one mailbox."""
    sent = []
    for number in range(first, first + count):
        ledger = Ledger(scene.folder / f"ledger-{number}")
        held = scene.held(secret=f"{number:064x}")

        def stop(*_: Any, ledger: Ledger = ledger) -> None:
            if any(e.kind == "sent" and e.body["provider"] == name for e in ledger.entries):
                raise Sent

        scene.document["replicated"] = 6
        with pytest.raises(Sent):
            run_training(scene.held(secret=held.secret.text), ledger, around(Kept(), stop))
        opened = next(e for e in ledger.entries if e.kind == "opened")
        sent.append(opened.body["bundles"][name])
    return sent


class Sent(BaseException):
    """All bundles are sent."""


def start(scene: Scene, name: str = "ada") -> BaseProcess:
    """Start a worker in a process of its own, without the wait for imports."""

    def serve() -> None:
        os.chdir(scene.folder)
        place = scene.place(name, executor=Process(), client=scene.client.public)
        work(scene.box(name), place, once=True, poll_s=0.05, say=lambda _: None)

    process = multiprocessing.get_context("fork").Process(target=serve)
    process.start()
    return process


def ended(process: BaseProcess) -> int | None:
    process.join(PATIENCE_S)
    return process.exitcode


def wait_for(there: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not there():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def manifests(scene: Scene, name: str = "ada") -> dict[str, Any]:
    found = (scene.folder / "boxes" / name / "results").glob(f"*/{MANIFEST}")
    return {path.parent.name: documents.load(path.read_bytes()) for path in found}


def test_a_killed_worker_is_started_again_and_does_what_it_left(scene: Scene) -> None:
    commanded(scene)
    (bundle,) = send(scene, 1)
    (scene.folder / "slow").touch()
    killed = start(scene)
    wait_for(lambda: not (scene.folder / "slow").exists())
    killed.kill()
    assert ended(killed) == -signal.SIGKILL
    assert not manifests(scene)
    assert ended(start(scene)) == 0
    answer = manifests(scene)[bundle]
    assert (answer["state"], answer["place"]) == ("done", "0002")
    os.kill(int((scene.folder / "pid.txt").read_text()), signal.SIGKILL)


def test_two_workers_at_one_mailbox_do_every_bundle_once(scene: Scene) -> None:
    commanded(scene)
    bundles = send(scene, 4)
    workers = [start(scene), start(scene)]
    assert [ended(worker) for worker in workers] == [0, 0]
    assert sorted((scene.folder / "done.txt").read_text().split()) == sorted(bundles)
    found = manifests(scene)
    assert found.keys() == set(bundles)
    assert {answer["state"] for answer in found.values()} == {"done"}


def test_a_callable_runs_in_a_process_of_its_own(scene: Scene) -> None:
    (bundle,) = send(scene, 1)
    place = scene.place("ada", executor=Process())
    before = torch.get_rng_state()
    assert work(scene.box("ada"), place, once=True, poll_s=1.0, say=print) == 1
    assert torch.equal(before, torch.get_rng_state())
    answer = manifests(scene)[bundle]
    assert answer["state"] == "done", answer["error"]
    assert "threads" in answer["environment"]
    assert work(scene.box("ada"), place, once=True, poll_s=1.0, say=print) == 0, "done is done"


WRONG: dict[str, Callable[[Scene], dict[str, Any]]] = {
    "the code differs": lambda s: {"code": s.folder / "elsewhere"},
    "the data differ": lambda s: {"data": str(s.folder / "recipe.py")},
    "not signed by the client's key": lambda _: {"client": fresh_key().public},
}


@pytest.mark.parametrize("said", WRONG)
def test_what_the_worker_cannot_stand_for_it_does_not_run(scene: Scene, said: str) -> None:
    (bundle,) = send(scene, 1)
    place = scene.place("ada", **WRONG[said](scene))
    assert work(scene.box("ada"), place, once=True, poll_s=1.0, say=lambda _: None) == 1
    answer = manifests(scene)[bundle]
    assert answer["state"] == "failed"
    assert said in answer["error"]
    assert answer["parts"] == {}


def test_a_command_is_run_for_a_known_client_alone(scene: Scene) -> None:
    commanded(scene)
    (bundle,) = send(scene, 1)
    place = scene.place("ada", executor=Process())
    work(scene.box("ada"), place, once=True, poll_s=1.0, say=lambda _: None)
    assert "--client" in manifests(scene)[bundle]["error"]
    assert not (scene.folder / "done.txt").exists()


@pytest.mark.parametrize("part", ["start.safetensors", "order.safetensors", "bundle.json"])
def test_a_bundle_that_was_changed_is_not_run(scene: Scene, part: str) -> None:
    (bundle,) = send(scene, 1)
    path = scene.folder / "boxes" / "ada" / "bundles" / bundle / part
    path.write_bytes(path.read_bytes()[:-1] + b"!")
    work(scene.box("ada"), scene.place("ada"), once=True, poll_s=1.0, say=lambda _: None)
    assert part in manifests(scene)[bundle]["error"]


def test_a_training_that_fails_says_why(scene: Scene) -> None:
    (scene.folder / "train.py").write_text("raise SystemExit('no such GPU')")
    scene.document |= {"code": None, "command": [sys.executable, "train.py"], "files": ["train.py"]}
    (bundle,) = send(scene, 1)
    place = scene.place("ada", executor=Process(), client=scene.client.public)
    work(scene.box("ada"), place, once=True, poll_s=1.0, say=lambda _: None)
    assert "no such GPU" in manifests(scene)[bundle]["error"]


SLIPS = {
    "first_step": ("enumerate(order, first_step)", "enumerate(order)"),
    "all tensors": ("on_step(step, now)", 'on_step(step, {"weight": now["weight"]})'),
    "more: expected none": ("return now", 'return {**now, "more": now["bias"]}'),
}


@pytest.mark.parametrize("said", SLIPS)
def test_a_slip_in_the_training_code_is_said_before_anything_is_signed(
    scene: Scene, said: str
) -> None:
    (scene.folder / "recipe.py").write_text(RECIPE.replace(*SLIPS[said]))
    scene.forget()
    judged = run_training(scene.held(), Ledger(scene.folder / LEDGER), around(Kept(), scene.serve))
    found = [each for name in scene.keys for each in manifests(scene, name).values()]
    failed = [answer for answer in found if answer["state"] == "failed"]
    assert failed
    assert all(said in answer["error"] and answer["parts"] == {} for answer in failed)
    assert {p.verdict for p in judged.audit.providers} == {Verdict.INCONCLUSIVE}


@dataclasses.dataclass
class Slow:
    """A training that takes some looks."""

    looks: int = 3
    started: int = 0

    def start(self, asked: Work) -> "Slow":
        honest(asked)
        self.started += 1
        return self

    def poll(self) -> Ended | None:
        self.looks -= 1
        return None if self.looks else Ended(error=None)

    def stop(self) -> None:
        pass


def failing(monkeypatch: pytest.MonkeyPatch, method: str, times: int) -> list[str]:
    """Let a method of mailboxes fail some times; gives the places."""
    real, failed = getattr(Mailbox, method), list[str]()

    def call(box: Mailbox, place: str, content: Any) -> Any:
        if len(failed) < times:
            failed.append(place)
            raise UnreachableError("503 slow down")
        return real(box, place, content)

    monkeypatch.setattr(Mailbox, method, call)
    return failed


def test_a_sign_of_life_that_fails_costs_no_training(scene: Scene, monkeypatch) -> None:
    (bundle,) = send(scene, 1)
    failed, slow, said = failing(monkeypatch, "replace", 2), Slow(), list[str]()
    place = scene.place("ada", executor=slow, lease_s=0.01)
    assert work(scene.box("ada"), place, once=True, poll_s=1.0, say=said.append) == 1
    assert len(failed) == 2
    assert all(name.endswith(".beat") for name in failed)
    assert "503 slow down" in said
    assert slow.started == 1
    assert manifests(scene)[bundle]["state"] == "done"


@pytest.mark.parametrize("method", ["put", "create"])
def test_an_answer_that_cannot_be_sent_is_sent_again(scene: Scene, monkeypatch, method) -> None:
    (bundle,) = send(scene, 1)
    monkeypatch.setattr("assay.providers.worker._AGAIN_S", (0.0, 0.0))
    failed: list[list[str]] = []

    def train(asked: Work) -> None:
        honest(asked)
        failed.append(failing(monkeypatch, method, 2))

    place = scene.place("ada", executor=InProcess(train=train))
    assert work(scene.box("ada"), place, once=True, poll_s=1.0, say=lambda _: None) == 1
    assert [len(places) for places in failed] == [2], "it was trained once"
    assert manifests(scene)[bundle]["state"] == "done"


def test_a_bundle_that_was_withdrawn_is_left(scene: Scene) -> None:
    (bundle,) = send(scene, 1)
    scene.box("ada").replace(f"bundles/{bundle}/withdrawn", b"")
    assert work(scene.box("ada"), scene.place("ada"), once=True, poll_s=1.0, say=print) == 0
    assert not manifests(scene)


def test_a_silent_worker_loses_its_bundle_and_a_lively_one_does_not(tmp_path, monkeypatch) -> None:
    now = [0.0]
    monkeypatch.setattr("assay.providers.claims.time.monotonic", lambda: now[0])
    box = Mailbox(str(tmp_path))
    monkeypatch.setattr("assay.providers.claims._machine", lambda: "there")
    there = Claims(box, lease_s=10.0)
    claim = there.take("a")
    assert claim is not None
    monkeypatch.setattr("assay.providers.claims._machine", lambda: "here")
    here = Claims(box, lease_s=10.0)
    for second in range(30):
        now[0] = float(second)
        there.beat(claim)
        assert here.take("a") is None, "it shows that it lives"
    now[0] = 39.0
    assert here.take("a") is None
    now[0] = 40.5
    taken = here.take("a")
    assert taken is not None
    assert taken.number == 2
    assert there.take("a") is None


def test_free_orders_are_the_workers_own(scene: Scene) -> None:
    scene.document |= {"order": "free", "steps": 3, "replicated": 1}
    judged = run_training(scene.held(), Ledger(scene.folder / LEDGER), around(Kept(), scene.serve))
    found = judged.course.deliveries()
    assert {d.fault for d in found} == {None}
    assert len({d.digest for d in found}) == 3


@pytest.mark.parametrize("storage", ["memory", "s3"])
def test_a_training_goes_through_storage_without_folders(
    scene: Scene, storage: str, request: pytest.FixtureRequest, tmp_path: pathlib.Path
) -> None:
    root = request.getfixturevalue("s3") if storage == "s3" else "memory://boxes"
    for entry in scene.document["providers"]:
        entry["mailbox"] = f"{root}/{tmp_path.name}/{entry['name']}"
    scene.document |= {"steps": 6, "replicated": 1}
    judged = run_training(scene.held(), Ledger(scene.folder / LEDGER), around(Kept(), scene.serve))
    assert judged.is_closed
    assert judged.course.place == 2
    assert {d.fault for d in judged.course.deliveries()} == {None}


@pytest.fixture
def ray_address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A Ray cluster of one node; gives the address of its job server."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    ray = pytest.importorskip("ray")
    with (
        warnings.catch_warnings(),
        tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder,
    ):
        warnings.simplefilter("ignore")
        try:
            cluster = ray.init(
                num_cpus=1, include_dashboard=True, _temp_dir=folder, configure_logging=False
            )
        except (RuntimeError, OSError) as error:
            pytest.skip(f"Ray starts no cluster here: {error}")
        try:
            yield f"http://{cluster.dashboard_url}"
        finally:
            ray.shutdown()


def test_a_ray_cluster_trains(scene: Scene, ray_address: str) -> None:
    send(scene, 1)
    executor = RayJobs(address=ray_address, resources={"CPU": 1.0}, python=sys.executable)
    place = scene.place("ada", executor=executor)
    assert work(scene.box("ada"), place, once=True, poll_s=1.0, say=print) == 1
    assert [(a["state"], a["error"]) for a in manifests(scene).values()] == [("done", "")]
    (scene.folder / "recipe.py").write_text("raise ValueError('it does not even load')")
    scene.forget()
    (bundle,) = send(scene, 1, first=1)
    assert work(scene.box("ada"), place, once=True, poll_s=1.0, say=print) == 1
    assert "it does not even load" in manifests(scene)[bundle]["error"]


@pytest.mark.parametrize("data", [None, "nowhere.npz"])
def test_a_worker_without_data_takes_no_bundle(scene: Scene, data: str | None) -> None:
    send(scene, 1)
    place = scene.place("ada", data=data)
    with pytest.raises(UsageError, match=r"--data|nowhere\.npz"):
        work(scene.box("ada"), place, once=True, poll_s=1.0, say=lambda _: None)
    assert scene.box("ada").names("claims") == []


@pytest.mark.parametrize("manifest", [b"{", b"[]", b"[" * 500 + b"]" * 500, b"\xff"])
def test_a_broken_bundle_ends_no_worker(scene: Scene, manifest: bytes) -> None:
    box, (bundle,) = scene.box("ada"), send(scene, 1)
    box.replace(f"bundles/{'0' * 32}/manifest.json", manifest)
    assert work(box, scene.place("ada"), once=True, poll_s=1.0, say=lambda _: None) == 2
    answers = manifests(scene)
    assert answers[bundle]["state"] == "done"
    assert answers["0" * 32]["state"] == "failed"
    assert not list((scene.folder / "work" / "ada").iterdir())


def test_a_bundle_behind_a_link_is_left_alone(scene: Scene) -> None:
    box, (bundle,) = scene.box("ada"), send(scene, 1)
    folder = pathlib.Path(box.url) / "bundles"
    (folder / ("0" * 32)).symlink_to(folder / bundle, target_is_directory=True)
    said: list[str] = []
    assert work(box, scene.place("ada"), once=True, poll_s=1.0, say=said.append) == 1
    assert any("left alone" in text for text in said)
    assert manifests(scene)[bundle]["state"] == "done"
