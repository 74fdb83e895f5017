"""What the audits' commands share: a task is a job, what it reads, and how it is performed."""

import contextlib
import dataclasses
import math
import pathlib
import secrets
import sys
import time
from collections.abc import Iterator, Mapping
from typing import Any, Protocol, TypeVar, runtime_checkable

from rich.table import Table
from rich.text import Text

from assay.errors import InputError, UsageError
from assay.fitting import Preprocess
from assay.randomness import Seed
from assay.records import record
from assay.results import Findings, Progress
from assay.samples import Rows
from assay.storage.huggingface import Processor
from assay.storage.runs import Input, RunFolder

_J = TypeVar("_J")

SILENT = Processor(mean=None, std=None, size=None)
"""A model that says nothing of what it wants to be done to its inputs."""


@runtime_checkable
class Job(Protocol):
    """What an audit was asked: stored with the run, so that it can be asked again."""

    @property
    def seed(self) -> int:
        """Decides everything that is drawn by chance."""
        ...

    @property
    def device(self) -> str:
        """Where to compute, as torch names it."""
        ...

    @property
    def alpha(self) -> float:
        """The family-wise false alarm rate."""
        ...

    def settings(self) -> dict[str, Any]:
        """Lay out every setting, those of the method included."""
        ...


@record
class Done:
    """What a run ended in."""

    findings: Findings
    subject: str
    """What each subject of the findings is."""
    table: str
    """The file that holds all of them."""
    more: tuple[Table | Text, ...] = ()
    """What else a person is told."""


@runtime_checkable
class Task(Protocol):
    """A job with everything that it reads, ready to be performed in a run."""

    @property
    def audit(self) -> str:
        """The audit's name in `run.json`."""
        ...

    @property
    def job(self) -> Job:
        """What was asked."""
        ...

    @property
    def inputs(self) -> Mapping[str, Input]:
        """What it reads, by name."""
        ...

    @property
    def everything(self) -> str:
        """What gets no verdict where the audit is not finished."""
        ...

    def perform(self, run: RunFolder, show: Progress) -> Done:
        """Audit and record, with findings last; goes on with what an earlier attempt left."""
        ...


def create(task: Task, out: pathlib.Path) -> RunFolder:
    """Start the run of a task.

    Raises:
        UsageError: `out` is not empty.
    """
    return RunFolder.create(
        out,
        audit=task.audit,
        settings=task.job.settings(),
        seed=Seed(task.job.seed),
        inputs=task.inputs,
        command=("assay", *sys.argv[1:]),
    )


def resume(task: Task, path: pathlib.Path) -> RunFolder:
    """Take up a run that was interrupted, if its inputs still hold what they held.

    Raises:
        UsageError: it is completed, was asked something else, or another process works in it.
    """
    return RunFolder.resume(
        path,
        audit=task.audit,
        settings=task.job.settings(),
        seed=Seed(task.job.seed),
        inputs=task.inputs,
    )


def fresh_folder(kind: str) -> pathlib.Path:
    """Choose a folder for a run that nobody named: `runs/KIND-DATE-TIME-XXXX`.

    The last digits are drawn, so that runs that start in the same second do not meet.
    """
    return pathlib.Path("runs") / f"{time.strftime(f'{kind}-%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}"


def absolute(source: str) -> str:
    """Make a path independent of the working directory; what is no path stays as it is."""
    kind, place = ("hf:", source[3:]) if source.startswith("hf:") else ("", source)
    is_path = pathlib.Path(place).exists() or any(
        pathlib.Path(place.split(mark)[0]).exists() for mark in "#@"
    )
    return f"{kind}{pathlib.Path(place).absolute()}" if is_path else source


def settings_of(job: Any, method: object) -> dict[str, Any]:
    """Lay out the fields of a job, with the method and its settings."""
    fields = {field.name: getattr(job, field.name) for field in dataclasses.fields(job)}
    return {**fields, "method": repr(method)}


def job_of(kind: type[_J], settings: Mapping[str, Any]) -> _J:
    """Undo `settings_of`.

    Raises:
        InputError: the settings are not those of such a job.
    """
    held = {name: value for name, value in settings.items() if name != "method"}
    lists = {name: tuple(value) for name, value in held.items() if isinstance(value, list)}
    try:
        return kind(**{**held, **lists})
    except TypeError as error:
        raise InputError(f"the run was made by another version of assay: {error}") from error


@contextlib.contextmanager
def importable(source: str) -> Iterator[None]:
    """Let a factory be imported from the working directory, after all that is installed.

    Only a factory, which is code of the user. While anything else is loaded, libraries look for
    optional ones by name, and files of these names may have been delivered there.
    """
    place = str(pathlib.Path.cwd())
    if ":" not in source or pathlib.Path(source).exists() or place in sys.path:
        yield
        return
    sys.path.append(place)
    try:
        yield
    finally:
        sys.path.remove(place)


def preprocess(
    asked: Processor, said: Processor, inputs: Rows, whose: str = "", *, spread: bool = False
) -> Preprocess | None:
    """Take what the options say, or else the model's own processor; measure what is missing.

    Args:
        asked: what the options say.
        said: what the model's own processor says.
        inputs: what the model will be shown.
        whose: the model, for an error.
        spread: whether a model of three channels may see grey inputs, three times the same.

    Returns:
        What to do to inputs; None where nobody says anything.

    Raises:
        UsageError: the options do not fit each other or the inputs.
        InputError: the processor's numbers do not.
    """
    if (asked.mean is None) != (asked.std is None):
        raise UsageError("expected --mean and --std together, got one of them")
    mean, std, size = asked.mean or said.mean, asked.std or said.std, asked.size or said.size
    if mean is None or std is None:
        return None if size is None else dataclasses.replace(Preprocess.of(inputs), size=size)
    channels = inputs.shape[1]
    if spread and channels == 1 and 3 in {len(mean), len(std)}:
        channels = 3
    if {len(mean), len(std)} - {1, channels}:
        several = f"1 or {channels} numbers" if channels > 1 else "one number"
        told = f"expected {several} as mean and as standard deviation, one for all channels or "
        told += f"one each, got {len(mean)} and {len(std)}{whose and f' for {whose}'}"
        raise UsageError(told) if asked.mean else InputError(f"{told}; see --mean and --std")
    if not all(map(math.isfinite, (*mean, *std))) or min(std) <= 0:
        raise UsageError(f"expected finite means, and deviations above 0, got {mean} and {std}")
    return Preprocess(
        mean=mean * (channels // len(mean)), std=std * (channels // len(std)), size=size
    )
