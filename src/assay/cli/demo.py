"""`assay demo`: the main job, on data that come with the dependencies."""

import functools
import pathlib
from typing import Annotated

import numpy as np
import torch
import typer
from jaxtyping import Bool, Int64, UInt8
from rich.console import Console
from rich.table import Table
from torch import Tensor

from assay.errors import UsageError
from assay.randomness import Seed, generator
from assay.records import record
from assay.repair import Trigger
from assay.results import Verdict
from assay.storage.runs import RunFolder
from assay.triggers import Patch

from . import devices, options
from .dataset_job import DatasetJob, load
from .exits import Exit
from .perform import DatasetTask
from .running import run_task
from .summary import show
from .tables import table
from .task import create, fresh_folder

_TRUSTED = 600
_POISONED = 30
_TARGET = 7


@record
class Attacked:
    """Digits, some of which an attacker has changed."""

    images: UInt8[Tensor, "samples 1 8 8"]
    labels: Int64[Tensor, " samples"]
    is_poison: Bool[Tensor, " samples"]
    trusted_images: UInt8[Tensor, "trusted 1 8 8"]
    trusted_labels: Int64[Tensor, " trusted"]


def demo(
    out: Annotated[
        pathlib.Path | None,
        typer.Option(
            help="Folder for data and run, new or empty.  [default: runs/demo-DATE-TIME-XXXX]"
        ),
    ] = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    quiet: options.Quiet = False,
) -> int:
    """See what an audit does: poison real handwritten digits, find them, repair, and prove it.

    Takes one or two minutes on two cores, and needs no network. Exit code 0 where the attack was
    found, 2 where it was not.
    """
    place = out or fresh_folder("demo")
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise UsageError(f"expected a new or empty folder, got {place}; choose another one")
    place.mkdir(parents=True, exist_ok=True)
    attacked = attack(Seed(seed))
    _write(place / "training.npz", attacked.images, attacked.labels)
    _write(place / "trusted.npz", attacked.trusted_images, attacked.trusted_labels)
    _tell(attacked, place)
    job = DatasetJob(
        data=str((place / "training.npz").absolute()),
        clean=str((place / "trusted.npz").absolute()),
        model=None,
        cleanse=str((place / "cleansed.npz").absolute()),
        prove=True,
        seed=seed,
        device=str(devices.choose(device)),
        alpha=0.05,
        memory_mb=1024,
        mean=None,
        std=None,
        size=None,
    )
    trigger, path = Trigger(stamp=stamp, target=_TARGET), place / "run"
    task = DatasetTask(job=job, loaded=load(job), trigger=trigger)
    begin = functools.partial(create, task, path)
    done = run_task(task, path, begin, quiet=quiet, max_minutes=None)
    show(path, done)
    Console().print(_score(attacked, RunFolder.open(path)))
    found = done.findings.verdict is Verdict.FLAGGED
    return Exit.NOTHING_FLAGGED if found else Exit.ERROR


def attack(seed: Seed) -> Attacked:
    """Poison digits as in BadNets: stamp a few, and call them all a seven."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=generator(seed, torch.device("cpu")))
    images = torch.from_numpy(digits.images * 255 / 16).round().to(torch.uint8)[order, None]
    labels = torch.from_numpy(digits.target).long()[order]
    training, trusted = images[_TRUSTED:], images[:_TRUSTED]
    others = (labels[_TRUSTED:] != _TARGET).nonzero().squeeze(1)
    is_poison = torch.zeros(len(training), dtype=torch.bool)
    is_poison[others[:_POISONED]] = True
    return Attacked(
        images=torch.where(is_poison[:, None, None, None], stamp(training), training),
        labels=torch.where(is_poison, _TARGET, labels[_TRUSTED:]),
        is_poison=is_poison,
        trusted_images=trusted,
        trusted_labels=labels[:_TRUSTED],
    )


def stamp(images: Tensor) -> Tensor:
    """Put a white square of two by two pixels into the lower right corner."""
    mask = torch.zeros(8, 8)
    mask[6:, 6:] = 1
    stamped = Patch(pattern=torch.ones(1, 8, 8), mask=mask)(images.float() / 255)
    return (stamped * 255).round().to(torch.uint8)


def _write(path: pathlib.Path, images: Tensor, labels: Tensor) -> None:
    np.savez(path, images=images.squeeze(1).numpy(), labels=labels.numpy())


def _tell(attacked: Attacked, place: pathlib.Path) -> None:
    count, share = len(attacked.images), _POISONED / len(attacked.images)
    Console().print(
        f"""
Someone collected {count:,} handwritten digits for you, real ones, 8 x 8 pixels. On the way,
an attacker changed {_POISONED} of them ({share:.1%}): a white square of 2 x 2 pixels in a corner,
and the label {_TARGET}. A model trained on these digits reads them well, and takes everything
with the square for a {_TARGET}.

You hold {_TRUSTED} digits that you trust. So you ask:

  assay dataset {place}/training.npz --clean {place}/trusted.npz \\
      --cleanse {place}/cleansed.npz --prove
""",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _score(attacked: Attacked, run: RunFolder) -> Table:
    flagged = torch.tensor((run.read_table("samples") or {})["is_poison_issue"])
    rows = [
        (what, f"{int(group.sum()):,}", f"{int((group & flagged).sum()):,}")
        for what, group in (
            ("digits that the attacker changed", attacked.is_poison),
            ("digits left alone", ~attacked.is_poison),
        )
    ]
    return table(("the truth, which the audit did not see", "in all", "flagged"), rows)
