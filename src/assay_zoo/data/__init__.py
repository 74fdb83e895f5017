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

FOLDERS = {"cifar10": "cifar-10-batches-bin", "fashion-mnist": "fashion-mnist", "gtsrb": "gtsrb"}
"""Data sets on disk, in two files: training samples come from one, test samples from the other."""

CLUSTERED = ("gtsrb",)
"""Data sets whose two files show different things (signs, in many frames each). Their trusted
samples come from the file of the training samples, those of others from that of the test."""

TABLES = ("digits-table", "breast-cancer")
"""Those of the bundled that are tables; the first has the pixels of the digits as columns."""

BUNDLED = ("digits", *TABLES)
"""Data sets that come with scikit-learn, in one piece."""

DATA_SETS = (*FOLDERS, *BUNDLED)


@record
class Split:
    """Three disjoint parts of a data set, each with the class shares of the file it is from."""

    train: Samples
    """What an attack may poison."""
    trusted: Samples
    """What the client holds."""
    test: Samples
    """What models are measured on; neither an attack nor an audit sees it."""


def load(name: str, *, train: int, trusted: int, test: int, seed: Seed) -> Split:
    """Draw stratified random parts of a data set; the seed alone decides.

    Args:
        name: one of `DATA_SETS`. Those of `FOLDERS` lie in the folder that the environment variable
            `ASSAY_DATA` names, or else in `../shared/data`.
        train: how many samples to train on.
        trusted: how many trusted samples.
        test: how many test samples.
        seed: decides which.

    Raises:
        UsageError: there is no such data set, or its folder is absent.
        InputError: it holds fewer samples than asked for.
    """
    if name in BUNDLED:
        sizes = {"train": train, "trusted": trusted, "test": test}
        return Split(**_parts(_bundled(name), sizes, seed))
    if name not in FOLDERS:
        raise UsageError(f"expected one of {', '.join(DATA_SETS)}, got {name!r}")
    folder = pathlib.Path(os.environ.get("ASSAY_DATA", "../shared/data")) / FOLDERS[name]
    seen = read_samples(f"{folder}#train")
    unseen = read_samples(f"{folder}#test")
    if name in CLUSTERED:
        return Split(
            **_parts(seen, {"train": train, "trusted": trusted}, child(seed, "train")),
            **_parts(unseen, {"test": test}, child(seed, "test")),
        )
    return Split(
        **_parts(seen, {"train": train}, child(seed, "train")),
        **_parts(unseen, {"trusted": trusted, "test": test}, child(seed, "test")),
    )


def _parts(samples: Samples, sizes: dict[str, int], seed: Seed) -> dict[str, Samples]:
    if sum(sizes.values()) > len(samples):
        raise InputError(f"expected parts of {len(samples)} samples, got {sizes}")
    order = stratified_order(samples.labels, seed=seed)
    cuts = order[: sum(sizes.values())].split(list(sizes.values()))
    return {name: samples.subset(rows) for name, rows in zip(sizes, cuts, strict=True)}


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
    digits = _digits()
    if name == "digits":
        return digits
    return Samples(
        inputs=digits.inputs[:].flatten(1).float(),
        labels=digits.labels,
        class_names=digits.class_names,
    )


def _digits() -> Samples:
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
