"""What `assay dataset` was asked, and what it reads."""

import contextlib
import functools
import importlib.util
import itertools
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from assay.audits.dataset import DatasetSettings
from assay.errors import InputError, UsageError
from assay.fitting import Preprocess
from assay.records import record
from assay.repair import held_out
from assay.samples import Samples
from assay.storage import data as datasets
from assay.storage import huggingface
from assay.storage.huggingface import Processor
from assay.storage.models import load_factory
from assay.storage.runs import Input

from .task import SILENT, importable, preprocess, settings_of


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
        return settings_of(self, DatasetSettings())


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
    inputs = _inputs(job)
    data = datasets.read_samples(job.data, size=job.size, memory_mb=job.memory_mb // 2)
    clean = datasets.read_samples(
        job.clean,
        class_names=data.class_names,
        columns=data.columns,
        size=job.size,
        memory_mb=job.memory_mb // 2,
    )
    check_unchanged(job, inputs)
    wanted, got = tuple(data.inputs.shape[1:]), tuple(clean.inputs.shape[1:])
    if wanted != got:
        advice = "--size scales encoded images"
        if len(wanted) == len(got) == 3 and wanted[0] != got[0]:
            advice = (
                "channels come first here: save both with the same number of them (a folder has "
                "three where one of its images is in colour, has a palette or is transparent)"
            )
        raise InputError(
            f"expected trusted samples of the shape of the data, {wanted}, got {got}; {advice}"
        )
    return Loaded(
        data=data,
        clean=clean,
        network=_network(job, data),
        preprocess=_preprocess(job, data),
        unseen=held_out(clean, data) if job.prove else None,
        inputs=inputs,
    )


def check_places(job: DatasetJob, run: pathlib.Path) -> None:
    """Check, before anything is read, where results are to go.

    Raises:
        UsageError: into the data, to something that exists or has no folder, to the run itself, or
            under a name that says it is another kind of file.
    """
    places = [run] if job.cleanse is None else [run, pathlib.Path(job.cleanse)]
    for place, source in itertools.product(places, (job.data, job.clean)):
        if place.resolve().is_relative_to(_place_of(source).resolve()):
            raise UsageError(f"expected a path outside {source}, which is not changed, got {place}")
    if job.cleanse is None:
        return
    out, data = pathlib.Path(job.cleanse), _place_of(job.data)
    if run.resolve().is_relative_to(out.resolve()):
        raise UsageError(f"expected the cleansed data beside the run {run}, got {out}")
    if os.path.lexists(out):
        raise UsageError(f"expected a new path for the cleansed data, {out} exists")
    if not out.parent.is_dir():
        raise UsageError(f"expected an existing folder for the cleansed data, got {out.parent}")
    if data.is_file() and out.suffix != data.suffix:
        raise UsageError(
            f"expected {data.suffix} at the end of the cleansed data's name, got {out}"
        )


def _place_of(source: str) -> pathlib.Path:
    """Find the file or folder of a source, without a kind before it, or what follows # and @."""
    place = source.removeprefix("hf:")
    for mark in "#@":
        if not pathlib.Path(place).exists():
            place = place.rpartition(mark)[0] or place
    return pathlib.Path(place)


def check_unchanged(job: DatasetJob, inputs: Mapping[str, Input]) -> None:
    """Check that the data are still those that were hashed.

    Raises:
        InputError: they are not.
    """
    if datasets.digest(job.data) != inputs["data"].sha256:
        raise InputError(f"expected {job.data} to stay as it is, it has changed: run again")


def _inputs(job: DatasetJob) -> dict[str, Input]:
    sources = {"data": job.data, "clean": job.clean}
    model = None if job.model is None else _code(job.model)
    if model is not None:
        sources["model"] = model
    return {n: Input(path=s, sha256=datasets.digest(s)) for n, s in sources.items()}


def _code(model: str) -> str | None:
    """Find the folder or the file that decides the network; None where there is none."""
    if pathlib.Path(model).is_dir():
        return model
    with importable(model), contextlib.suppress(ImportError, ValueError):
        found = importlib.util.find_spec(model.partition(":")[0])
        if found is not None and found.origin and pathlib.Path(found.origin).is_file():
            return found.origin
    return None


def _network(job: DatasetJob, data: Samples) -> Callable[[], nn.Module] | None:
    if job.model is None:
        return None
    with importable(job.model):
        make = load_factory(job.model)
    shape = data.inputs.shape[1:]
    if not data.is_image:
        return functools.partial(make, classes=data.classes, dims=shape[0])
    size = job.size or shape[-1]
    return functools.partial(make, classes=data.classes, channels=shape[0], size=size)


def _preprocess(job: DatasetJob, data: Samples) -> Preprocess | None:
    is_folder = job.model is not None and pathlib.Path(job.model).is_dir()
    said = huggingface.processor(pathlib.Path(str(job.model))) if is_folder else SILENT
    asked = Processor(mean=job.mean, std=job.std, size=job.size)
    return preprocess(asked, said, data.inputs)
