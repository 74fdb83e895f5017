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
from assay.fitting import Recipe
from assay.randomness import Seed, generator
from assay.samples import Samples
from assay.stats import auroc
from assay_zoo.attacks import BadNets
from assay_zoo.data import Split, load
from assay_zoo.poison import Poisoned

CPU = torch.device("cpu")
SMALL = PublishedConfusionTraining(scale=0.02)
TINY = PublishedConfusionTraining(
    ratios=(0.5, 0.1),
    floors=(0.02, 0.02),
    lambdas=(20.0, 20.0, 15.0),
    rates=(0.01, 0.01, 0.01),
    iterations=(10, 10, 10),
    pretrain_epochs=(1, 1, 1),
    first=Recipe(epochs=1),
)


def narrow() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 64), nn.BatchNorm1d(64), nn.ReLU(), nn.Linear(64, 10)
    )


@pytest.fixture(scope="module")
def split() -> Split:
    return load("digits", train=1000, trusted=200, test=10, seed=Seed(0))


@pytest.fixture(scope="module")
def poisoned(split: Split) -> Poisoned:
    train = split.train
    attack = BadNets(poison_rate=0.05)
    return attack(train.inputs[:], train.labels, classes=10, seed=Seed(1))


@pytest.fixture(scope="module")
def suspects(poisoned: Poisoned, split: Split) -> Samples:
    names = split.train.class_names
    return Samples(inputs=poisoned.inputs, labels=poisoned.labels, class_names=names)


def test_poison_stands_out_from_digits(suspects, split, poisoned) -> None:
    found = SMALL(suspects, split.trusted, network=narrow, seed=Seed(0), device=CPU)
    assert auroc(found.scores, poisoned.is_poison) > 0.9


def test_the_seed_alone_decides(suspects, split) -> None:
    before = torch.get_rng_state()
    first, again, other = (
        TINY(suspects, split.trusted, network=narrow, seed=Seed(seed), device=CPU)
        for seed in (3, 3, 4)
    )
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(first.scores, again.scores)
    assert torch.equal(first.flagged, again.flagged)
    assert not torch.equal(first.scores, other.scores)


def test_the_passes_are_counted(suspects, split) -> None:
    seen = []

    def counted() -> nn.Module:
        model = narrow()
        model.register_forward_pre_hook(lambda m, given: seen.append(len(given[0]) * m.training))
        return model

    method = dataclasses.replace(TINY, floors=(0.0, 0.0))
    method(suspects, split.trusted, network=counted, seed=Seed(0), device=CPU)
    assert sum(seen) == method.sample_passes(suspects, split.trusted)


def test_the_defaults_are_the_published_ones() -> None:
    method = PublishedConfusionTraining()
    assert method.ratios == (1 / 2, 1 / 5, 1 / 25, 1 / 50, 1 / 100)
    assert method.lambdas == (20, 20, 20, 30, 30, 15)
    assert method.rates == (0.001,) * 3 + (0.01,) * 3
    assert method.iterations == (6000,) * 4 + (2000,) * 2
    assert method.pretrain_epochs == (100, 100, 40, 40, 40, 40)
    assert (method.batch_size, method.batch_factor, method.scale) == (32, 2, 1.0)
    assert (method.momentum, method.pretrain_momentum, method.weight_decay) == (0.7, 0.9, 1e-4)
    assert (method.threshold, method.threshold_of_largest) == (2.0, 1.5)


def test_settings_that_do_not_fit_are_refused(suspects, split) -> None:
    with pytest.raises(InputError, match="one a round"):
        PublishedConfusionTraining(ratios=(0.5,))
    with pytest.raises(InputError, match="scale"):
        PublishedConfusionTraining(scale=0.0)
    few = suspects.subset(torch.arange(20))
    with pytest.raises(InputError, match="at least 200 samples"):
        PublishedConfusionTraining()(few, split.trusted, seed=Seed(0), device=CPU)


def test_the_likelihood_ratio_is_that_of_two_normal_distributions() -> None:
    random = generator(Seed(0), CPU)
    spread = torch.tensor([3.0, 2.0, 0.1, 0.1])
    features = torch.randn((60, 4), generator=random) * spread + 5
    kept = torch.arange(60) < 12
    features[kept, 0] += 6
    points = features.double().numpy()
    points = points - points.mean(0)
    points = points @ np.linalg.svd(points, full_matrices=False)[2][:2].T

    def log_density(of: np.ndarray, group: np.ndarray) -> np.ndarray:
        covariance = np.cov(group.T) + 0.001 * np.eye(2)
        return multivariate_normal.logpdf(of, group.mean(0), covariance)

    alone, others = points[kept.numpy()], points[~kept.numpy()]
    two = log_density(alone, alone).sum() + log_density(others, others).sum()
    expected = np.exp((two - log_density(points, others).sum()) / len(points))
    assert likelihood_ratio(features, kept) == pytest.approx(expected, rel=1e-3)
    assert expected > 1.5
    assert likelihood_ratio(features, torch.arange(60) < 1) == 1
    assert likelihood_ratio(features, torch.arange(60) < 59) == 1


def test_the_best_fits_and_a_share_of_every_class_are_distilled() -> None:
    fits = torch.arange(100, 0, -1).float()
    labels = (torch.arange(100) >= 50).long()
    assert distilled(fits, labels, 0.1, floor=0.0).tolist() == list(range(10))
    assert distilled(fits, labels, 0.1, floor=0.04).tolist() == [*range(10), 50, 51]


def test_rare_classes_weigh_more() -> None:
    weights = class_weights(torch.tensor([0, 0, 0, 1]), 3)
    assert weights.tolist() == pytest.approx([0.751**-0.5, 0.251**-0.5, 0.001**-0.5])
