"""`assay dataset`: find poisoned samples in a training set."""

import functools
import pathlib
from typing import Annotated

import typer

from assay.audits.dataset import foresee
from assay.errors import UsageError

from . import devices, options
from .dataset_job import DatasetJob, check_places, load
from .estimate import show_estimate
from .exits import Exit
from .output import say
from .perform import DatasetTask
from .summary import Manner, carry_out
from .task import absolute, create, fresh_folder


def dataset(
    data: Annotated[str, typer.Argument(metavar="DATA", help="The training set to audit.")],
    clean: Annotated[
        str, typer.Option(metavar="CLEAN", help="Samples whose labels you trust, not from DATA.")
    ],
    model: Annotated[
        str | None,
        typer.Option(
            metavar="FACTORY|HF_DIR",
            help="What to train: package.module:callable that makes a fresh classifier, or a "
            "Hugging Face folder.  [default: a small network that fits the data]",
        ),
    ] = None,
    out: options.Out = None,
    cleanse: Annotated[
        pathlib.Path | None,
        typer.Option(metavar="PATH", help="Write DATA without the flagged samples, in its form."),
    ] = None,
    prove: Annotated[
        bool,
        typer.Option("--prove", help="Retrain with and without the flagged samples, and compare."),
    ] = False,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    alpha: options.Alpha = 0.05,
    max_minutes: options.MaxMinutes = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would run and what it would cost.")
    ] = False,
    memory_mb: options.MemoryMb = 4096,
    mean: options.Mean = None,
    std: options.Std = None,
    size: options.Size = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
    exit_zero: options.ExitZero = False,
) -> int:
    """Find poisoned samples in a training set, given a small set that you trust.

    Trains a network on DATA together with the trusted samples under wrong labels: what it still
    learns by its given label is learnt from a trigger. Every run is a folder with the verdict, a
    score for each sample, and a report. DATA is never changed.

    DATA and CLEAN are a folder of class folders; a .parquet, .csv or .tsv file with a column
    `label`; an .npz or .safetensors file (`images`, uint8 NHWC or NHW, or `features`; integer
    `labels`); a folder in CIFAR-10 binary layout; a folder in IDX layout (MNIST family, .gz or
    not); or hf:NAME, where needed as hf:NAME@CONFIGURATION. A trailing #train or #test picks a
    split. Classes are matched by name where both have names.

    \b
    Examples:
      assay dataset photos/ --clean trusted/
      assay dataset train.npz --clean trusted.npz --cleanse cleansed.npz --prove
      assay dataset cifar-10-batches-bin --clean trusted.npz --max-minutes 30
      assay dataset train.parquet --clean trusted.parquet --json > findings.json
    """
    if not 0 < alpha < 1:
        raise UsageError(f"expected --alpha between 0 and 1, got {alpha}")
    job = DatasetJob(
        data=absolute(data),
        clean=absolute(clean),
        model=None if model is None else absolute(model),
        cleanse=None if cleanse is None else str(cleanse.absolute()),
        prove=prove,
        seed=seed,
        device=str(devices.choose(device)),
        alpha=alpha,
        memory_mb=memory_mb,
        mean=options.numbers(mean, "--mean"),
        std=options.numbers(std, "--std"),
        size=size,
    )
    path = out or fresh_folder("dataset")
    check_places(job, path)
    loaded = load(job)
    if dry_run:
        show_estimate(job, loaded, json=json)
        return Exit.NOTHING_FLAGGED
    for reason in foresee(loaded.data, loaded.clean):
        say(f"inconclusive unless something is flagged: {reason}", quiet=quiet)
    task = DatasetTask(job=job, loaded=loaded)
    begin = functools.partial(create, task, path)
    manner = Manner(quiet=quiet, json=json, exit_zero=exit_zero, max_minutes=max_minutes)
    return carry_out(task, path, begin, manner)
