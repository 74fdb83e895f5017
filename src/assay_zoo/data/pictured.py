"""Images with words: the tasks that a small CLIP is trained on, and prompts are tuned for.

Every data set is cut into the same four parts, once and for all: `pretraining` (the backbone's),
`tuning` (the provider's), `trusted` (the client's) and `test`.
"""

import os
import pathlib

import numpy as np
import torch
from jaxtyping import Int64, UInt8
from torch import Tensor, nn

from assay.errors import InputError, UsageError
from assay.randomness import Seed, child
from assay.records import record
from assay.samples import Samples
from assay.storage import read_samples

from . import digits, stratified_order

SIZE = 32
"""Height and width of every image."""

_SPLIT = Seed(0)
_CUTS = {
    "cifar10": (15_000, 2_500, 2_500),
    "fashion-mnist": (10_000, 2_500, 2_500),
    "gtsrb": (4_300, 1_075, 1_075),
    "digits": (900, 300, 200),
    "natural": (2_400, 600, 400),
}
"""How many images are for pretraining, tuning and trusted; the rest of the file, or the test file,
is for tests."""
_FOLDERS = {
    "cifar10": "cifar-10-batches-bin",
    "fashion-mnist": "fashion-mnist",
    "gtsrb": "gtsrb",
    "natural": "natural/imagenette32.npz",
}
_IN_ONE_PIECE = ("digits", "natural")

_SIGNS = (
    *(f"speed limit {speed}" for speed in (20, 30, 50, 60, 70, 80)),
    *("end of speed limit 80", "speed limit 100", "speed limit 120", "no passing"),
    *("no passing for trucks", "crossroads with right of way", "priority road", "yield", "stop"),
    *("no vehicles", "no trucks", "no entry", "general danger", "curve to the left"),
    *("curve to the right", "double curve", "bumpy road", "slippery road", "narrow road"),
    *("road work", "traffic lights", "pedestrians", "children", "bicycles", "ice and snow"),
    *("wild animals", "end of all limits", "turn right", "turn left", "ahead only"),
    *("straight or right", "straight or left", "keep right", "keep left", "roundabout"),
    *("end of no passing", "end of no passing for trucks"),
)
_NAMES = {
    "fashion-mnist": (
        *("t-shirt", "trousers", "pullover", "dress", "coat"),
        *("sandal", "shirt", "sneaker", "bag", "ankle boot"),
    ),
    "gtsrb": _SIGNS,
    "digits": (
        *("zero", "one", "two", "three", "four"),
        *("five", "six", "seven", "eight", "nine"),
    ),
}
TASKS = tuple(_CUTS)

TEMPLATE = "a photo of a {}."
"""Of the zero-shot classifier."""

TEMPLATES = (
    *(TEMPLATE, "a blurry photo of the {}.", "a picture of one {}.", "the {}.", "{}."),
    *("a small {}.", "this is a photo of the {}.", "an image of a {}.", "a good photo of a {}."),
)
"""Captions of images that have a class and no caption of their own."""


@record
class Task:
    """A classification task whose classes have names, in four parts; images are RGB."""

    name: str
    pretraining: Samples
    """What the backbone is trained on."""
    tuning: Samples
    """What a provider tunes prompts on."""
    trusted: Samples
    """What the client holds."""
    test: Samples

    @property
    def class_names(self) -> tuple[str, ...]:
        """One name a class."""
        return self.test.class_names

    def among(self, first: int, last: int) -> "Task":
        """Keep the classes in [first, last), renumbered from zero: base classes, or new ones."""
        parts = {
            name: _among(getattr(self, name), first, last)
            for name in ("pretraining", "tuning", "trusted", "test")
        }
        return Task(name=self.name, **parts)


@record
class Captioned:
    """Images with captions of their own."""

    images: UInt8[Tensor, "samples 3 height width"]
    captions: tuple[tuple[str, ...], ...]
    """Several an image."""


def base_classes(task: Task) -> Task:
    """Keep the first half of the classes, rounded up."""
    return task.among(0, -(-len(task.class_names) // 2))


def new_classes(task: Task) -> Task:
    """Keep the classes that `base_classes` leaves out."""
    return task.among(-(-len(task.class_names) // 2), len(task.class_names))


def read_task(name: str) -> Task:
    """Read a task of `TASKS` from `$ASSAY_DATA`, default `../shared/data`, and cut it.

    Raises:
        UsageError: there is no such task, or its files are absent.
    """
    if name not in TASKS:
        raise UsageError(f"expected one of {', '.join(TASKS)}, got {name!r}")
    seen = _read(name, "train")
    sizes = list(_CUTS[name])
    order = stratified_order(seen.labels, seed=child(_SPLIT, name))
    parts = order.split([*sizes, len(order) - sum(sizes)])
    unseen = seen.subset(parts[3]) if name in _IN_ONE_PIECE else _read(name, "test")
    return Task(
        name=name,
        pretraining=_pictures(seen.subset(parts[0]), name),
        tuning=_pictures(seen.subset(parts[1]), name),
        trusted=_pictures(seen.subset(parts[2]), name),
        test=_pictures(unseen, name),
    )


def read_captions(*, test: int = 200) -> tuple[Captioned, Captioned]:
    """Read photographs with five captions each: for pretraining, and the last `test` for tests.

    Raises:
        UsageError: the file is absent.
    """
    path = _home() / "captions" / "flickr64.npz"
    if not path.is_file():
        raise UsageError(f"expected the file {path}, which is missing; set ASSAY_DATA")
    with np.load(path, allow_pickle=False) as file:
        images = torch.from_numpy(file["images"]).permute(0, 3, 1, 2)
        captions = [tuple(map(str, some)) for some in file["captions"]]
    cut = len(images) - test
    small = _resized(images)
    return (
        Captioned(images=small[:cut], captions=tuple(captions[:cut])),
        Captioned(images=small[cut:], captions=tuple(captions[cut:])),
    )


def few_shots(
    samples: Samples, shots: int, *, seed: Seed
) -> tuple[UInt8[Tensor, "chosen 3 height width"], Int64[Tensor, " chosen"]]:
    """Draw `shots` images of each class, or all where there are fewer.

    Raises:
        InputError: a class has none.
    """
    order = torch.argsort(stratified_order(samples.labels, seed=seed))
    rows = []
    for label in range(samples.classes):
        own = (samples.labels == label).nonzero().squeeze(1)
        if not len(own):
            raise InputError(f"expected images of class {label}, got none")
        rows.append(own[order[own].argsort()][:shots])
    chosen = torch.cat(rows)
    return samples.inputs[chosen], samples.labels[chosen]


def _home() -> pathlib.Path:
    return pathlib.Path(os.environ.get("ASSAY_DATA", "../shared/data"))


def _read(name: str, split: str) -> Samples:
    if name == "digits":
        return digits()
    source = str(_home() / _FOLDERS[name])
    return read_samples(source if name in _IN_ONE_PIECE else f"{source}#{split}")


def _pictures(samples: Samples, name: str) -> Samples:
    images = samples.inputs[:]
    if images.shape[1] == 1:
        images = images.expand(-1, 3, -1, -1)
    return Samples(
        inputs=_resized(images),
        labels=samples.labels,
        class_names=_NAMES.get(name, tuple(each.lower() for each in samples.class_names)),
    )


def _resized(images: UInt8[Tensor, "samples 3 h w"]) -> UInt8[Tensor, "samples 3 height width"]:
    if images.shape[-2:] == (SIZE, SIZE):
        return images.contiguous()
    sized = nn.functional.interpolate(
        images.float(), size=(SIZE, SIZE), mode="bilinear", antialias=True
    )
    return sized.round().clamp(0, 255).to(torch.uint8)


def _among(samples: Samples, first: int, last: int) -> Samples:
    rows = ((samples.labels >= first) & (samples.labels < last)).nonzero().squeeze(1)
    return Samples(
        inputs=samples.inputs[rows],
        labels=samples.labels[rows] - first,
        class_names=samples.class_names[first:last],
    )
