"""What `assay prompts` was asked, and what it reads."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor

from assay.audits.prompts import (
    PromptDelivery,
    PromptsSettings,
    Source,
    beside_mosaics,
    deliver,
    made,
)
from assay.errors import InputError, UsageError
from assay.prompting import Position, Prompted
from assay.randomness import Seed, child
from assay.records import record
from assay.samples import Rows, Samples
from assay.storage import data as datasets
from assay.storage.class_names import read_class_names
from assay.storage.files import digest_path
from assay.storage.prompt_learners import LoadedPrompt, load_prompted
from assay.storage.runs import Input

from .task import settings_of

_GIVEN = "images"  # name of a pool that the user brings


@record
class PromptsJob:
    """Everything that decides what a prompts audit finds."""

    backbone: str
    prompt: str
    classes: str
    ood: str
    clean: str | None
    seed: int
    device: str
    alpha: float
    memory_mb: int
    position: str | None = None
    """Of names among context vectors, where the prompt's file does not say."""
    repair: str | None = None
    """Where the repaired prompt goes."""

    def settings(self) -> dict[str, Any]:
        """Lay out every setting, those of the method included."""
        return settings_of(self, PromptsSettings())


@record
class Read:
    """What a job reads."""

    loaded: LoadedPrompt
    class_names: tuple[str, ...]
    pools: Mapping[str, UInt8[Tensor, "_ 3 height width"]]
    clean: Samples | None
    inputs: Mapping[str, Input]

    @property
    def prompted(self) -> Prompted:
        """The CLIP with the prompt."""
        return self.loaded.prompted


def load_prompt(job: PromptsJob) -> Read:
    """Read the backbone, the prompt, the class names and the images.

    Raises:
        UsageError: something is not there, or options do not go together.
        InputError: something cannot be used or is refused.
    """
    names = read_class_names(job.classes)
    at = None if job.position is None else Position(job.position)
    loaded = load_prompted(job.backbone, job.prompt, names, position=at)
    prompted = loaded.prompted.to(torch.device(job.device)).eval()
    prompted.requires_grad_(requires_grad=False)
    size = prompted.backbone.size
    inputs = _inputs(job, loaded)
    if job.ood not in set(Source):
        inputs["pool"] = Input(path=job.ood, sha256=datasets.digest(job.ood))
    clean = None
    if job.clean is not None:
        clean = _clean(job, names, size)
        inputs["clean"] = Input(path=job.clean, sha256=datasets.digest(job.clean))
    pools = _pools(job, size, None if clean is None else clean.inputs[:])
    return Read(loaded=loaded, class_names=names, pools=pools, clean=clean, inputs=inputs)


def delivery_of(job: PromptsJob, read: Read) -> PromptDelivery:
    """Lay out what the audit asks."""
    return deliver(
        read.prompted,
        name=pathlib.PurePath(job.prompt).name,
        digest={"sha256": read.loaded.prompt_digest},
    )


def _inputs(job: PromptsJob, loaded: LoadedPrompt) -> dict[str, Input]:
    """Name the files of the prompt, its backbone and its classes, with what they hold."""
    held = {
        "backbone": Input(path=job.backbone, sha256=loaded.backbone_digest),
        "prompt": Input(path=job.prompt, sha256=loaded.prompt_digest),
        "classes": Input(path=job.classes, sha256=digest_path(pathlib.Path(job.classes))),
    }
    for name, digest in loaded.backbone_settings.items():
        held[f"backbone {name}"] = Input(path=f"{job.backbone}/{name}", sha256=digest)
    if loaded.description_digest is not None:
        beside = pathlib.Path(job.prompt).with_suffix(".json")
        held["description"] = Input(path=str(beside), sha256=loaded.description_digest)
    return held


def _pools(
    job: PromptsJob, size: int, task: Tensor | None
) -> dict[str, UInt8[Tensor, "_ 3 height width"]]:
    """Read out-of-distribution images, or make them; mosaics of the clean ones come along."""
    most, seed = PromptsSettings().most_images, child(Seed(job.seed), "pool")
    if job.ood in set(Source):
        images = made(Source(job.ood), most, size=size, seed=seed, task=task)
        return beside_mosaics(job.ood, images, task, most=most, seed=seed)
    read = datasets.read_images(job.ood, size=size, memory_mb=job.memory_mb // 2)
    return beside_mosaics(_GIVEN, _coloured(read, job.ood)[:], task, most=most, seed=seed)


def _clean(job: PromptsJob, names: tuple[str, ...], size: int) -> Samples:
    """Read labelled samples, with classes in the order of the class list."""
    found = datasets.read_samples(str(job.clean), size=size, memory_mb=job.memory_mb // 2)
    places = torch.tensor(_places(job, found.class_names, names))
    return Samples(
        inputs=_coloured(found.inputs, str(job.clean))[:],
        labels=places[found.labels],
        class_names=names,
    )


def _places(job: PromptsJob, said: Sequence[str], names: Sequence[str]) -> list[int]:
    """Find the classes of clean samples in the class list: by name, or by number from 0."""
    if set(said) <= set(names):
        return [names.index(name) for name in said]
    numbers = [int(name) if name.isdecimal() else -1 for name in said]
    wrong = [n for n, place in zip(said, numbers, strict=True) if not 0 <= place < len(names)]
    if wrong or len(set(numbers)) < len(numbers):
        raise InputError(
            f"expected the classes of {job.classes} in {job.clean}, all by name or all by number "
            f"from 0 to {len(names) - 1}, got {(wrong or list(said))[:5]}; rename them"
        )
    return numbers


def _coloured(images: Rows, source: str) -> Tensor:
    """Give grey images three equal channels."""
    if len(images.shape) != 4 or images.shape[1] not in {1, 3}:
        raise UsageError(f"expected images of one or three channels in {source}")
    return images[:].expand(-1, 3, -1, -1).contiguous()
