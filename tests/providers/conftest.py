"""A small training with real providers: each is a worker with a mailbox and a key."""

import contextlib
import dataclasses
import pathlib
import sys
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import save_file

from assay.providers.bundle import parse_bundle
from assay.providers.client import Held, Surroundings
from assay.providers.execute import execute
from assay.providers.executors import Ended, Work
from assay.providers.keys import SigningKey, fresh_key
from assay.providers.mailbox import Mailbox
from assay.providers.plan import Plan, read_plan
from assay.providers.secrecy import Secret
from assay.providers.worker import Place, work
from assay.records import record
from assay.results import silent
from assay.storage import documents
from assay.storage.data import digest
from assay.storage.weights import read_weights

RECIPE = """
import os
import numpy as np
import torch

def train_steps(weights, order, *, hyperparameters, seed, first_step, on_step):
    data = np.load(os.environ["ASSAY_TRAINING_DATA"])
    x, y = torch.from_numpy(data["features"]), torch.from_numpy(data["labels"])
    now = {name: value.clone() for name, value in weights.items()}
    for step, rows in enumerate(order, first_step):
        logits = x[rows] @ now["weight"] + now["bias"]
        error = logits.softmax(1) - torch.nn.functional.one_hot(y[rows], 3)
        now["weight"] -= hyperparameters["lr"] * x[rows].T @ error / len(rows)
        now["bias"] -= hyperparameters["lr"] * error.mean(0)
        on_step(step, now)
    return now
"""
NAMES = ("ada", "bea", "cyd")
Train = Callable[[Work], None]


def honest(asked: Work) -> None:
    """Do what is asked, in this process."""
    bundle = parse_bundle(documents.load((asked.bundle / "bundle.json").read_bytes()), "bundle")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in asked.environment().items():
            patch.setenv(name, value)
        patch.setattr(sys, "path", [str(asked.code), *sys.path])
        sys.modules.pop("recipe", None)
        execute(bundle, asked.bundle, asked.output)


def planting(asked: Work) -> None:
    """Do what is asked, and something else."""
    honest(asked)
    weights = read_weights(asked.output / "weights.safetensors", max_mb=10)
    weights["weight"][:, 0] += 0.5
    save_file(weights, asked.output / "weights.safetensors")
    lines = (asked.output / "log.jsonl").read_text().splitlines()
    steps = [documents.load(line)["step"] for line in lines]
    (asked.output / "log.jsonl").write_text("".join(f'{{"step": {step}}}\n' for step in steps))


@record
class InProcess:
    """Trains at once, in this process."""

    train: Train = honest

    def start(self, asked: Work) -> "InProcess":
        self.train(asked)
        return self

    def poll(self) -> Ended:
        return Ended(error=None)

    def stop(self) -> None:
        pass


@dataclasses.dataclass
class Scene:
    """A plan with everything that it names, and the keys of all."""

    folder: pathlib.Path
    document: dict[str, Any]
    keys: dict[str, SigningKey]
    client: SigningKey
    trains: dict[str, Train]
    _read: tuple[str, Plan] | None = None

    @property
    def plan(self) -> Plan:
        path, text = self.folder / "PLAN.yaml", yaml.safe_dump(self.document)
        if self._read is None or self._read[0] != text:
            path.write_text(text)
            self._read = (text, read_plan(path))
        return self._read[1]

    def forget(self) -> None:
        """Read the plan and its files anew."""
        self._read = None

    def box(self, name: str) -> Mailbox:
        return Mailbox(self.plan.provider(name).mailbox)

    def place(self, name: str, **more: Any) -> Place:
        given = {
            "key": self.keys[name],
            "code": self.folder,
            "data": str(self.folder / "data.npz"),
            "work": self.folder / "work" / name,
            "executor": InProcess(train=self.trains[name]),
        }
        return Place(**{**given, **more})

    def serve(self, *_: Any) -> None:
        """Let every provider do what is in its mailbox."""
        for name in self.keys:
            work(self.box(name), self.place(name), once=True, poll_s=0.01, say=lambda _: None)

    def held(self, secret: str = "5" * 64, **more: Any) -> Held:
        given = {
            "plan": self.plan,
            "start": read_weights(self.folder / "start.safetensors", max_mb=10),
            "replicated": self.document["replicated"],
            "alpha": 0.05,
            "profile": None,
            "network": None,
            "probes": None,
            "secret": Secret(text=secret),
            "key": self.client,
        }
        return Held(**{**given, **more})


class Kept(dict[str, Any]):
    """A store in memory."""

    def save(self, name: str, tensors: Any) -> None:
        self[name] = {key: value.clone() for key, value in tensors.items()}

    def load(self, name: str) -> Any:
        return self.get(name)


def around(store: Kept, serve: Callable[..., None] = silent) -> Surroundings:
    """What a run lends: answers are there whenever they are waited for."""
    return Surroundings(
        store=store,
        keep_log=store.__setitem__,
        progress=serve,
        say=lambda _: None,
        poll_s=0.01,
    )


def furnish(folder: pathlib.Path) -> None:
    """Lay code, data and start weights into a folder."""
    (folder / "recipe.py").write_text(RECIPE)
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(60) % 3
    features = torch.randn(60, 4, generator=random) + 2 * torch.eye(3, 4)[labels]
    np.savez(folder / "data.npz", features=features.numpy(), labels=labels.numpy())
    start = {"weight": torch.zeros(4, 3), "bias": torch.zeros(3)}
    save_file(start, folder / "start.safetensors")


def document(folder: pathlib.Path, keys: dict[str, SigningKey], boxes: str) -> dict[str, Any]:
    return {
        "name": "small",
        "code": "recipe:train_steps",
        "files": ["recipe.py"],
        "start": "start.safetensors",
        "data": {"sha256": digest(str(folder / "data.npz")), "samples": 60},
        "steps": 18,
        "sub_run": 3,
        "batch": 8,
        "hyperparameters": {"lr": 0.1},
        "seed": 7,
        "order": "fixed",
        "providers": [
            {"name": name, "mailbox": f"{boxes}/{name}", "key": key.public}
            for name, key in keys.items()
        ],
        "replicated": 2,
        "deadline_minutes": 1,
    }


def make_scene(folder: pathlib.Path) -> Scene:
    furnish(folder)
    keys = {name: fresh_key() for name in NAMES}
    return Scene(
        folder=folder,
        document=document(folder, keys, str(folder / "boxes")),
        keys=keys,
        client=fresh_key(),
        trains=dict.fromkeys(NAMES, honest),
    )


@pytest.fixture
def scene(tmp_path: pathlib.Path) -> Scene:
    return make_scene(tmp_path)


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    """A server that speaks S3; gives the URL of a bucket."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer(
        ip_address="127.0.0.1", port=0, verbose=False
    )
    server.start()
    port = server.get_host_and_port()[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        fsspec = pytest.importorskip("fsspec")
        storage = fsspec.filesystem("s3")
        storage.mkdir("boxes")
        yield "s3://boxes"
        with contextlib.suppress(FileNotFoundError):
            storage.rm("boxes", recursive=True)
    server.stop()
