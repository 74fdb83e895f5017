"""Small real data sets, split for an experiment: training, trusted and test samples."""

import os
import pathlib

import sklearn.datasets
import torch
from jaxtyping import Int64
from torch import Tensor

from assay.errors import InputError, UsageError
from assay.randomness import Seed, child, generator
from assay.records import record
from assay.samples import Samples
from assay.storage import read_samples

from .texts import FILES, Encode, TextEncoder, read_texts

FOLDERS = {"cifar10": "cifar-10-batches-bin", "fashion-mnist": "fashion-mnist", "gtsrb": "gtsrb"}
"""Data sets on disk, in two files: training samples come from one, test samples from the other."""

CLUSTERED = ("gtsrb",)
"""Data sets whose two files show different things (signs, in many frames each). Their trusted
samples come from the file of the training samples, those of others from that of the test."""

BUNDLED = ("digits", "digits-table", "breast-cancer")
"""Data sets that come with scikit-learn, in one piece; the second has the pixels of the first as
columns."""

TEXTS = tuple(FILES)
"""Data sets of texts, in one piece; they are features of a frozen encoder."""

TABLES = (*BUNDLED[1:], *TEXTS)
"""Data sets that are tables."""

DATA_SETS = (*FOLDERS, *BUNDLED, *TEXTS)

ENCODER = TextEncoder()
"""What makes features of texts."""


@record
class TextSplit:
    """The texts that the features of a split are of: an attack poisons texts."""

    train: tuple[str, ...]
    test: tuple[str, ...]
    encode: Encode


@record
class Split:
    """Three disjoint parts of a data set, each with the class shares of the file it is from."""

    train: Samples
    """What an attack may poison."""
    trusted: Samples
    """What the client holds."""
    test: Samples
    """What models are measured on; neither an attack nor an audit sees it."""
    texts: TextSplit | None = None
    """Of a data set of texts."""


def load(name: str, *, train: int, trusted: int, test: int, seed: Seed) -> Split:
    """Draw stratified random parts of a data set; the seed alone decides.

    Args:
        name: one of `DATA_SETS`. Those of `FOLDERS` and `TEXTS` lie in the folder that the
            environment variable `ASSAY_DATA` names, or else in `../shared/data`.
        train: how many samples to train on.
        trusted: how many trusted samples.
        test: how many test samples.
        seed: decides which.

    Raises:
        UsageError: there is no such data set, or its folder or file is absent.
        InputError: it holds fewer samples than asked for.
    """
    sizes = {"train": train, "trusted": trusted, "test": test}
    home = pathlib.Path(os.environ.get("ASSAY_DATA", "../shared/data"))
    if name in TEXTS:
        return _features(name, home / "text", sizes, seed)
    if name in BUNDLED:
        return _split(_parts(_bundled(name), sizes, seed))
    if name not in FOLDERS:
        raise UsageError(f"expected one of {', '.join(DATA_SETS)}, got {name!r}")
    folder = home / FOLDERS[name]
    seen = read_samples(f"{folder}#train")
    unseen = read_samples(f"{folder}#test")
    if name in CLUSTERED:
        return _split(
            _parts(seen, {"train": train, "trusted": trusted}, child(seed, "train"))
            | _parts(unseen, {"test": test}, child(seed, "test"))
        )
    return _split(
        _parts(seen, {"train": train}, child(seed, "train"))
        | _parts(unseen, {"trusted": trusted, "test": test}, child(seed, "test"))
    )


def _split(parts: dict[str, Samples]) -> Split:
    return Split(train=parts["train"], trusted=parts["trusted"], test=parts["test"])


def _parts(samples: Samples, sizes: dict[str, int], seed: Seed) -> dict[str, Samples]:
    if sum(sizes.values()) > len(samples):
        raise InputError(f"expected parts of {len(samples)} samples, got {sizes}")
    order = stratified_order(samples.labels, seed=seed)
    cuts = order[: sum(sizes.values())].split(list(sizes.values()))
    return {name: samples.subset(rows) for name, rows in zip(sizes, cuts, strict=True)}


def _features(name: str, folder: pathlib.Path, sizes: dict[str, int], seed: Seed) -> Split:
    """Encode texts; those that are in no part are what the encoder is fitted to."""
    found = read_texts(name, folder)
    rest = len(found.texts) - sum(sizes.values())
    if rest < 0:
        raise InputError(f"expected parts of {len(found.texts)} texts, got {sizes}")
    order = stratified_order(found.labels, seed=seed)
    train, trusted, test, others = order.split([*sizes.values(), rest])

    def texts(rows: Int64[Tensor, " chosen"]) -> tuple[str, ...]:
        return tuple(found.texts[row] for row in rows.tolist())

    encode = ENCODER(texts(others), seed=child(seed, "encoder"))

    def part(rows: Int64[Tensor, " chosen"]) -> Samples:
        return Samples(
            inputs=encode(texts(rows)), labels=found.labels[rows], class_names=found.class_names
        )

    return Split(
        train=part(train),
        trusted=part(trusted),
        test=part(test),
        texts=TextSplit(train=texts(train), test=texts(test), encode=encode),
    )


def stratified_order(labels: Int64[Tensor, " samples"], *, seed: Seed) -> Int64[Tensor, " samples"]:
    """Shuffle samples such that every stretch has nearly the class shares of the whole."""
    random = generator(seed, torch.device("cpu"))
    shuffled = torch.randperm(len(labels), generator=random)
    place = torch.empty(len(labels), dtype=torch.float64)
    for label in labels.unique():
        rows = shuffled[labels[shuffled] == label]
        start = torch.rand((), generator=random, dtype=torch.float64)
        place[rows] = (torch.arange(len(rows)) + start) / len(rows)
    return place.argsort()


def _bundled(name: str) -> Samples:
    if name == "breast-cancer":
        return _breast_cancer()
    found = digits()
    if name == "digits":
        return found
    return Samples(
        inputs=found.inputs[:].flatten(1).float(),
        labels=found.labels,
        class_names=found.class_names,
    )


def digits() -> Samples:
    """Real handwritten digits, 8x8, grey."""
    found = sklearn.datasets.load_digits()
    pixels = torch.from_numpy(found.images)[:, None] * (255 / 16)
    return Samples(
        inputs=pixels.round().to(torch.uint8),
        labels=torch.from_numpy(found.target).long(),
        class_names=tuple(str(name) for name in found.target_names),
    )


def _breast_cancer() -> Samples:
    found = sklearn.datasets.load_breast_cancer()
    return Samples(
        inputs=torch.from_numpy(found.data).float(),
        labels=torch.from_numpy(found.target).long(),
        class_names=tuple(str(name) for name in found.target_names),
    )
