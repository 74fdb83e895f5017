import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from assay.errors import InputError
from assay.fitting import Preprocess
from assay.randomness import Seed
from assay_zoo.semi_supervised import UNKNOWN, FixMatch, few_labels, moved, strongly

PLAIN = Preprocess(mean=(0.0,), std=(1.0,))


def digits():
    data = load_digits()
    images = (torch.tensor(data.images)[:, None] / 16 * 255).round().to(torch.uint8)
    return images, torch.tensor(data.target).long()


def linear(seed=0):
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    random = torch.Generator().manual_seed(seed)
    nn.init.normal_(model[1].weight, std=0.01, generator=random)
    nn.init.zeros_(model[1].bias)
    return model


def taught(labels, images, *, seed=3, **settings):
    model = linear()
    method = FixMatch(**{"steps": 150, "sure": 0.8, "peak_rate": 0.02} | settings)
    method(model, PLAIN, images, labels, seed=Seed(seed))
    return model.requires_grad_(requires_grad=False)


def test_few_labels_are_of_every_class_and_of_allowed_images_only() -> None:
    _, labels = digits()
    allowed = torch.arange(len(labels)) % 2 == 0
    kept = few_labels(labels, allowed, each=7, seed=Seed(1))
    known = kept != UNKNOWN
    assert kept[known].bincount().tolist() == [7] * 10
    assert torch.equal(kept[known], labels[known])
    assert allowed[known].all()
    other = few_labels(labels, allowed, each=7, seed=Seed(2))
    assert not torch.equal(kept, other)


def test_a_classifier_learns_from_few_labels() -> None:
    images, labels = digits()
    few = few_labels(labels, labels >= 0, each=10, seed=Seed(1))
    model = taught(few, images)
    assert (model(images.float() / 255).argmax(1) == labels).double().mean() > 0.75
    assert not model.training


def test_it_is_taught_by_images_without_labels_where_it_is_sure() -> None:
    images, labels = digits()
    few = few_labels(labels, labels >= 0, each=10, seed=Seed(1))
    alone = taught(few, images, weight=0.0)[1].weight
    assert torch.equal(taught(few, images, sure=1.1)[1].weight, alone), "it is never that sure"
    assert not torch.equal(taught(few, images)[1].weight, alone)


def test_the_seed_alone_decides() -> None:
    images, labels = digits()
    few = few_labels(labels, labels >= 0, each=10, seed=Seed(1))
    first = FixMatch(steps=3)
    models = [linear() for _ in range(3)]
    state = torch.get_rng_state()
    for model, seed in zip(models, (3, 3, 4), strict=True):
        first(model, PLAIN, images, few, seed=Seed(seed))
    assert torch.equal(state, torch.get_rng_state()), "the global generator was used"
    same, again, other = (model[1].weight for model in models)
    assert torch.equal(same, again)
    assert not torch.equal(same, other)


def test_two_labels_are_needed() -> None:
    images, labels = digits()
    few = torch.full_like(labels, UNKNOWN)
    for known in (0, 1):
        few[:known] = labels[:known]
        with pytest.raises(InputError, match=f"at least 2 labels, got {known}"):
            taught(few, images, steps=1)


def test_weak_augmentation_moves_and_strong_augmentation_hides() -> None:
    random = torch.Generator().manual_seed(0)
    images = torch.full((50, 1, 16, 16), 0.9)
    assert torch.allclose(moved(images, random), images, atol=1e-5)
    ramp = torch.arange(16.0).div(16).expand(50, 1, 16, 16)
    apart = (moved(ramp, random) - ramp).abs().amax((1, 2, 3))
    assert apart.max() > 0.05
    assert (moved(ramp, random)[:, 0, 8, 8] - ramp[:, 0, 8, 8]).abs().max() < 0.14
    seen = strongly(images, random)
    grey = (seen == 0.5).double().mean((1, 2, 3))
    assert grey.max() <= 0.26
    assert grey.min() > 0.04
    assert 0 <= seen.min() < seen.max() <= 1
