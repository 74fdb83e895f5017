import dataclasses

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import nn

from assay.audits.dataset.published import (
    PublishedConfusionTraining,
    class_weights,
    distilled,
    likelihood_ratio,
)
from assay.errors import InputError
from assay.randomness import Seed, child, generator
from assay.samples import Samples
from assay.stats import auroc
from assay_zoo.attacks import BadNets
from assay_zoo.data import Split, load
from assay_zoo.poison import Poisoned

CPU = torch.device("cpu")
SMALL = PublishedConfusionTraining(scale=0.03)
TINY = PublishedConfusionTraining(scale=0.001, ratios=(0.5, 0.1), floors=(0.02, 0.02))


def narrow() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10)
    )


@pytest.fixture(scope="module")
def split() -> Split:
    return load("digits", train=1200, trusted=300, test=10, seed=Seed(0))


@pytest.fixture(scope="module")
def poisoned(split: Split) -> Poisoned:
    train = split.train
    attack = BadNets(poison_rate=0.05)
    return attack(train.inputs[:], train.labels, classes=10, seed=Seed(1))


def suspects(poisoned: Poisoned, split: Split) -> Samples:
    return Samples(
        inputs=poisoned.inputs, labels=poisoned.labels, class_names=split.train.class_names
    )


def test_it_separates_badnets(split, poisoned) -> None:
    found = SMALL(suspects(poisoned, split), split.trusted, seed=Seed(0), device=CPU)
    print(
        auroc(found.scores, poisoned.is_poison),
        found.flagged.sum(),
        poisoned.is_poison.sum(),
        (found.flagged & poisoned.is_poison).sum(),
    )
    assert auroc(found.scores, poisoned.is_poison) > 0.9
