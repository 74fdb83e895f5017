"""What `assay dataset` was asked: stored with the run, so that it can be asked again."""

import contextlib
import dataclasses
import functools
import pathlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from torch import nn

from assay.audits.dataset import DatasetSettings
from assay.errors import InputError, UsageError
from assay.fitting import Preprocess
from assay.randomness import Seed
from assay.records import record
from assay.repair import held_out
from assay.samples import Samples
from assay.storage import data as datasets
from assay.storage import huggingface
from assay.storage.models import load_factory
from assay.storage.runs import Input, RunFolder

AUDIT = "dataset"


@record
class DatasetJob:
    """Everything that decides what a dataset audit finds, and where it writes."""

    data: str
    clean: str
    model: str | None
    cleanse: str | None
    prove: bool
    seed: int
    device: str
    alpha: float
    memory_mb: int
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    size: int | None

    @property
    def device_mb(self) -> float:
        """Memory for inputs where they are trained on; reading them may take as much."""
        return self.memory_mb / 2

    def settings(self) -> dict[str, Any]:
        """Lay out every setting, those of the method included."""
        return {**_fields(self), "method": repr(DatasetSettings())}


@record
class Loaded:
    """What a job reads."""

    data: Samples
    clean: Samples
    network: Callable[[], nn.Module] | None
    preprocess: Preprocess | None
    unseen: Samples | None
    """Trusted samples that do not stand in the data, where a proof is asked for."""
    inputs: Mapping[str, Input]


def load(job: DatasetJob) -> Loaded:
    """Read the data and the trusted samples, with classes in the same order.

    Raises:
        UsageError: something is not there, or options do not go together.
        InputError: something cannot be used or is refused.
    """
    data = datasets.read_samples(job.data, size=job.size, memory_mb=job.memory_mb // 2)
    clean = datasets.read_samples(
        job.clean, class_names=data.class_names, size=job.size, memory_mb=job.memory_mb // 2
    )
    wanted, got = tuple(data.inputs.shape[1:]), tuple(clean.inputs.shape[1:])
    if wanted != got:
        raise InputError(
            f"expected trusted samples of the shape of the data, {wanted}, got {got}; "
            "--size scales encoded images"
        )
    return Loaded(
        data=data,
        clean=clean,
        network=_network(job, data),
        preprocess=_preprocess(job, data),
        unseen=held_out(clean, data) if job.prove else None,
        inputs=_inputs(job),
    )


def create(job: DatasetJob, loaded: Loaded, out: pathlib.Path) -> RunFolder:
    """Start the run of a job.

    Raises:
        UsageError: `out` is not empty, or what the job writes is there already.
    """
    if job.cleanse is not None and pathlib.Path(job.cleanse).exists():
        raise UsageError(f"expected a new path for the cleansed data, {job.cleanse} exists")
    return RunFolder.create(
        out,
        audit=AUDIT,
        settings=job.settings(),
        seed=Seed(job.seed),
        inputs=loaded.inputs,
        command=("assay", *sys.argv[1:]),
    )


def asked_again(path: pathlib.Path) -> tuple[DatasetJob, Loaded]:
    """Read what a stored run was asked, and its inputs as they are now.

    Raises:
        UsageError: there is no run, or something it needs is not there any more.
        InputError: an input cannot be used any more.
    """
    job = _parsed(RunFolder.open(path).info.settings)
    return job, load(job)


def resume(job: DatasetJob, loaded: Loaded, path: pathlib.Path) -> RunFolder:
    """Take up a run that was interrupted, if its inputs still hold what they held.

    Raises:
        UsageError: it is completed, was asked something else, or another process works in it.
    """
    return RunFolder.resume(
        path,
        audit=AUDIT,
        settings=job.settings(),
        seed=Seed(job.seed),
        inputs=loaded.inputs,
    )


def fresh_folder(kind: str) -> pathlib.Path:
    """Choose a folder for a run that nobody named: `runs/KIND-DATE-TIME`."""
    return pathlib.Path("runs") / time.strftime(f"{kind}-%Y%m%d-%H%M%S")


def absolute(source: str) -> str:
    """Make a path independent of the working directory; what is no path stays as it is."""
    kind, place = ("hf:", source[3:]) if source.startswith("hf:") else ("", source)
    is_path = pathlib.Path(place).exists() or pathlib.Path(place.split("#")[0]).exists()
    return f"{kind}{pathlib.Path(place).absolute()}" if is_path else source


def _parsed(settings: Mapping[str, Any]) -> DatasetJob:
    """Undo `DatasetJob.settings`."""
    held = {name: value for name, value in settings.items() if name != "method"}
    for name in ("mean", "std"):
        held[name] = None if held.get(name) is None else tuple(held[name])
    try:
        return DatasetJob(**held)
    except TypeError as error:
        raise InputError(f"the run was made by another version of assay: {error}") from error


def _fields(job: DatasetJob) -> dict[str, Any]:
    return {field.name: getattr(job, field.name) for field in dataclasses.fields(job)}


def _inputs(job: DatasetJob) -> dict[str, Input]:
    sources = {"data": job.data, "clean": job.clean}
    if job.model is not None and pathlib.Path(job.model).is_dir():
        sources["model"] = job.model
    return {n: Input(path=s, sha256=datasets.digest(s)) for n, s in sources.items()}


def _network(job: DatasetJob, data: Samples) -> Callable[[], nn.Module] | None:
    if job.model is None:
        return None
    with _importable():
        make = load_factory(job.model)
    shape = data.inputs.shape[1:]
    if not data.is_image:
        return functools.partial(make, classes=data.classes, dims=shape[0])
    size = job.size or shape[-1]
    return functools.partial(make, classes=data.classes, channels=shape[0], size=size)


@contextlib.contextmanager
def _importable() -> Iterator[None]:
    """Let modules of the working directory be imported, after all that are installed."""
    sys.path.append(str(pathlib.Path.cwd()))
    try:
        yield
    finally:
        sys.path.pop()


def _preprocess(job: DatasetJob, data: Samples) -> Preprocess | None:
    """Take what the options say, or the model's own processor, or measure it on the data."""
    if (job.mean is None) != (job.std is None):
        raise UsageError("expected --mean and --std together, got one of them")
    mean, std, size = job.mean, job.std, job.size
    if job.model is not None and pathlib.Path(job.model).is_dir():
        said = huggingface.processor(pathlib.Path(job.model))
        mean, std, size = mean or said.mean, std or said.std, size or said.size
    if mean is None or std is None:
        measured = Preprocess.of(data.inputs)
        return None if size is None else dataclasses.replace(measured, size=size)
    channels = data.inputs.shape[1]
    if {len(mean), len(std)} - {1, channels}:
        raise UsageError(
            f"expected 1 or {channels} numbers as mean and as standard deviation, as the data have "
            f"channels, got {len(mean)} and {len(std)}"
        )
    if min(std) <= 0:
        raise UsageError(f"expected standard deviations above 0, got {std}")
    return Preprocess(
        mean=mean * (channels // len(mean)), std=std * (channels // len(std)), size=size
    )
