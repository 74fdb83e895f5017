"""Small real models of real handwritten digits: honest ones, and one with a planted trigger."""

import functools
from collections.abc import Callable

import pytest
import torch
from sklearn.datasets import load_digits

from assay.audits.models import Delivery
from assay.fitting import Preprocess, Recipe, feed, train
from assay.networks import default_network
from assay.randomness import Seed
from assay.samples import Samples

CPU = torch.device("cpu")
NAMES = tuple(f"digit {n}" for n in range(10))
TARGET = 7


def _digits() -> tuple[torch.Tensor, torch.Tensor]:
    held = load_digits()
    images = torch.tensor(held.images * 255 / 16).round().to(torch.uint8)[:, None]
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    return images[order], torch.tensor(held.target).long()[order]


@functools.cache
def delivered(seed: int, *, poison: int = 0) -> Delivery:
    """Train on 1,200 digits, so many of them with a bright corner and the target's label."""
    images, labels = (part[:1200].clone() for part in _digits())
    rows = (labels != TARGET).nonzero().squeeze(1)[:poison]
    images[rows, :, :2, :2] = 255
    labels[rows] = TARGET
    model = default_network(images.shape, classes=10, seed=Seed(seed))
    preprocess = Preprocess.of(images)
    data = feed(images, labels, preprocess=preprocess, device=CPU)
    train(model, data, Recipe(epochs=10), seed=Seed(seed))
    name = f"{'poisoned' if poison else 'honest'} {seed}"
    return Delivery(name=name, model=model, preprocess=preprocess, digest={"sha256": "0" * 64})


@pytest.fixture(scope="session")
def make() -> Callable[..., Delivery]:
    return delivered


@pytest.fixture(scope="session")
def clean() -> Samples:
    images, labels = (part[1200:1600] for part in _digits())
    return Samples(inputs=images, labels=labels, class_names=NAMES)
