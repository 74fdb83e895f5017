"""What `assay models` was asked, and what it reads."""

import enum
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from assay.audits.models import ENCODER_SETTINGS, Delivery, ModelsSettings
from assay.audits.models.language import TextSettings
from assay.audits.models.respond import named
from assay.audits.models.vision_text import VisionTextSettings
from assay.errors import InputError, UsageError
from assay.fitting import Preprocess, behind, logits_of
from assay.randomness import Seed, child, isolated
from assay.records import record
from assay.reports.text import NAME, plain
from assay.samples import Rows, Samples
from assay.storage import data as datasets
from assay.storage.huggingface import Processor
from assay.storage.models import LoadedModel, load_model
from assay.storage.runs import Input

from .task import absolute, importable, preprocess, settings_of


class ModelKind(enum.StrEnum):
    """What delivered models do."""

    IMAGE = "image"
    """They classify images."""
    ENCODER = "encoder"
    """They give features of images."""
    TEXT = "text"
    """They are causal language models: they continue prompts."""
    VISION_TEXT = "vision-text"
    """They answer a prompt about an image with text."""


@record
class ModelsJob:
    """Everything that decides what a models audit finds."""

    models: tuple[str, ...]
    clean: str
    seed: int
    device: str
    alpha: float
    memory_mb: int
    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    size: int | None
    repair: str | None = None
    """Where repaired copies of the flagged models go."""
    task: str = ModelKind.IMAGE.value
    """A value of `ModelKind`."""
    prompt: str | None = None
    """What models of images and texts are asked; None for the default."""

    def settings(self) -> dict[str, Any]:
        """Lay out every setting, those of the method included."""
        methods = {
            ModelKind.ENCODER: ENCODER_SETTINGS,
            ModelKind.TEXT: TextSettings(),
            ModelKind.VISION_TEXT: VisionTextSettings(),
        }
        return settings_of(self, methods.get(ModelKind(self.task), ModelsSettings()))


@runtime_checkable
class Digested(Protocol):
    """Anything that was read, with its hash."""

    @property
    def digest(self) -> str:
        """SHA-256 of what it was read from."""
        ...

    @property
    def origin(self) -> str:
        """The source as the user named it."""
        ...


@runtime_checkable
class Described(Protocol):
    """Anything that was read, with what its own processor says of images."""

    @property
    def mean(self) -> tuple[float, ...] | None:
        """One a channel, of images in [0, 1]."""
        ...

    @property
    def std(self) -> tuple[float, ...] | None:
        """One a channel."""
        ...

    @property
    def size(self) -> int | None:
        """Height and width, in pixels."""
        ...


@record
class LoadedModels:
    """What a job reads."""

    deliveries: tuple[Delivery, ...]
    clean: Samples
    inputs: Mapping[str, Input]


class Reordered(nn.Module):
    """A classifier whose outputs are put into another order."""

    def __init__(self, model: nn.Module, order: Sequence[int]) -> None:
        super().__init__()
        self.model = model
        self.register_buffer("order", torch.tensor(order), persistent=False)

    def forward(self, inputs: Tensor) -> Tensor:
        """Give the logits of the model, in the new order."""
        logits = logits_of(self.model(inputs))
        return logits.index_select(1, self.get_buffer("order"))


def load(job: ModelsJob) -> LoadedModels:
    """Read the trusted samples and the models, with classes in the order of the former.

    Raises:
        UsageError: something is not there, options do not go together, or there is one model.
        InputError: something cannot be used or is refused.
    """
    check_count(job)
    clean = datasets.read_samples(job.clean, size=job.size, memory_mb=job.memory_mb // 2)
    if not clean.is_image:
        raise InputError(
            f"expected images in {job.clean}, got rows of {clean.inputs.shape[1]} numbers: only "
            "image classifiers are audited"
        )
    names = unique([pathlib.PurePath(place_of(source)).name for source in job.models])
    loaded = [
        loaded_model(job, source, clean.inputs, classes=clean.classes) for source in job.models
    ]
    refuse_copies(names, loaded)
    return LoadedModels(
        deliveries=tuple(
            _delivery(job, name, model, clean) for name, model in zip(names, loaded, strict=True)
        ),
        clean=clean,
        inputs=inputs_of(job, names, loaded),
    )


def kind_of(task: str) -> ModelKind:
    """Find what the models do.

    Raises:
        UsageError: there is no such task.
    """
    if task not in set(ModelKind):
        raise UsageError(f"expected --task {' or '.join(ModelKind)}, got {task!r}")
    return ModelKind(task)


def check_count(job: ModelsJob) -> None:
    """Check that there is something to compare.

    Raises:
        UsageError: there are fewer than two models.
    """
    if len(job.models) < 2:
        raise UsageError(
            f"expected two models or more, got {len(job.models)}: a model is judged by what the "
            "others of the same task do not do"
        )


def inputs_of(job: ModelsJob, names: Sequence[str], loaded: Sequence[Digested]) -> dict[str, Input]:
    """Name everything that was read, with its hash."""
    models = {
        f"model {name}": Input(path=place_of(model.origin), sha256=model.digest)
        for name, model in zip(names, loaded, strict=True)
    }
    return {**models, "clean": Input(path=job.clean, sha256=datasets.digest(job.clean))}


def place_of(source: str) -> str:
    """Name the file or folder of a model: WEIGHTS of WEIGHTS@FACTORY."""
    is_path = "@" not in source or pathlib.Path(source).exists()
    return source if is_path else source.rpartition("@")[0]


def absolute_model(source: str) -> str:
    """Make where a model lies independent of the working directory."""
    place = place_of(source)
    return absolute(place) + source[len(place) :]


def unique(names: Sequence[str]) -> list[str]:
    """Tell the same names apart: the second gets a (2)."""
    made: list[str] = []
    for name in names:
        made.append(next(n for n in _numbered(name) if n not in made))
    return made


def order_of(said: Sequence[str] | None, wanted: Sequence[str], name: str) -> list[int] | None:
    """Find which output of a model is which class; None where they are in order.

    Args:
        said: what the model calls its outputs, if it does.
        wanted: the classes, in order; numbers where they have no names.
        name: of the model, for an error.

    Raises:
        InputError: the names are others.
    """
    if said is None or tuple(said) == tuple(wanted):
        return None
    if sorted(said) == sorted(wanted):
        return [said.index(one) for one in wanted]
    if _numbers(said) or _numbers(wanted):
        return None
    raise InputError(
        f"expected the classes of the trusted samples, {_some(wanted)}, of the model {name}, "
        f"it has {_some(said)}"
    )


def _numbered(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name} ({number})"
        number += 1


def _numbers(names: Sequence[str]) -> bool:
    return all(name.isdecimal() for name in names)


def _some(names: Sequence[str], most: int = 12) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(plain(name, NAME) for name in names[:most]) + more


def loaded_model(
    job: ModelsJob, source: str, images: Rows, *, encoder: bool = False, **known: int
) -> LoadedModel:
    """Load a model; a factory may draw weights, which are then replaced."""
    known |= {"channels": images.shape[1], "size": job.size or images.shape[-1]}
    seed = child(Seed(job.seed), "load", source)
    with importable(source), isolated(seed, torch.device("cpu")):
        return load_model(source, encoder=encoder, **known)


def preprocess_of(job: ModelsJob, name: str, loaded: Described, images: Rows) -> Preprocess:
    """Take what a model wants from the options or from its folder, or else measure it."""
    asked = Processor(mean=job.mean, std=job.std, size=job.size)
    said = Processor(mean=loaded.mean, std=loaded.std, size=loaded.size)
    return preprocess(asked, said, images, name, spread=True) or Preprocess.of(images)


def refuse_copies(names: Sequence[str], loaded: Sequence[Digested]) -> None:
    """Check that no two models are the same.

    Raises:
        InputError: two are.
    """
    held: dict[str, str] = {}
    for name, model in zip(names, loaded, strict=True):
        if model.digest in held:
            raise InputError(
                f"expected models that differ, {held[model.digest]} and {name} hold the same: a "
                "model shows nothing beside itself"
            )
        held[model.digest] = name


def _delivery(job: ModelsJob, name: str, loaded: LoadedModel, clean: Samples) -> Delivery:
    order = order_of(loaded.class_names, clean.class_names, name)
    delivery = Delivery(
        name=name,
        model=loaded.model if order is None else Reordered(loaded.model, order).eval(),
        preprocess=preprocess_of(job, name, loaded, clean.inputs),
        digest={"sha256": loaded.digest},
    )
    check_takes(delivery, delivery.model, clean.inputs)
    return delivery


def check_takes(delivery: Delivery, model: nn.Module, images: Rows) -> None:
    """Check that a delivery, or what is made of it, takes the images, before anything is run.

    Raises:
        InputError: it does not.
    """
    respond = named(delivery.name, behind(model, delivery.preprocess, torch.device("cpu")))
    with torch.no_grad():
        respond(images[:2].float() / 255)
