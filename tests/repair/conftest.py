"""A network that was taught a trigger, and the digits that it knows."""

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from assay.fitting import Preprocess, Recipe, feed, train
from assay.networks import default_network
from assay.randomness import Seed
from assay.repair import Planted
from assay.triggers import Patch, Pool

CPU = torch.device("cpu")
TARGET = 7
MASK = torch.zeros(8, 8)
MASK[:2, :2] = 1
CORNER = Patch(pattern=torch.ones(1, 8, 8), mask=MASK)
PLANTED = Planted(stamp=CORNER, source=None, target=TARGET)


def digits() -> Pool:
    held = load_digits()
    order = torch.randperm(len(held.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(held.images * 255 / 16).round()[:, None].float() / 255
    return Pool(images=images[order], labels=torch.tensor(held.target).long()[order])


def part(first: int, last: int) -> Pool:
    whole = digits()
    return Pool(images=whole.images[first:last], labels=whole.labels[first:last])


@pytest.fixture(scope="package")
def poisoned() -> tuple[nn.Module, Preprocess]:
    """A network that takes digits with a bright corner for sevens."""
    pool = part(0, 1000)
    images = (pool.images * 255).round().to(torch.uint8)
    labels = pool.labels.clone()
    rows = (labels != TARGET).nonzero().squeeze(1)[:60]
    images[rows, :, :2, :2], labels[rows] = 255, TARGET
    preprocess = Preprocess.of(images)
    model = default_network(images.shape, classes=10, seed=Seed(1))
    data = feed(images, labels, preprocess=preprocess, device=CPU)
    train(model, data, Recipe(epochs=8), seed=Seed(1))
    return model.eval(), preprocess
