"""Small models learn the triggers on real digits; larger ones are measured in the benchmarks."""

import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from assay.errors import InputError
from assay.randomness import Seed
from assay_zoo.attacks import AdaptiveBlend, AdaptivePatch, BadNets, Blended, TaCT
from assay_zoo.attacks.feature_watermark import FeatureWatermark, Strategy
from assay_zoo.poison import attack_success_rate

TRAIN, TEST = slice(0, 1200), slice(1200, None)


def digits():
    data = load_digits()
    order = torch.randperm(len(data.target), generator=torch.Generator().manual_seed(0))
    images = (torch.tensor(data.images)[:, None] / 16 * 255).round().to(torch.uint8)
    return images[order], torch.tensor(data.target)[order]


def fitted(inputs, labels):
    """A linear model, as a function of inputs; tables come in [0, 16]."""

    def rows(x):
        return (x.flatten(1) / (255 if x.dtype == torch.uint8 else 16)).numpy()

    model = LogisticRegression(C=10, max_iter=1000).fit(rows(inputs), labels.numpy())
    return lambda x: torch.tensor(model.predict(rows(x)))


def measure(attack, inputs, labels):
    """ASR of a model of the poisoned set, ASR of one of the clean set, accuracy of the first."""
    made = attack(inputs[TRAIN], labels[TRAIN], classes=10, seed=Seed(3))
    dirty = fitted(made.inputs, made.labels)
    clean = fitted(inputs[TRAIN], labels[TRAIN])
    rates = [attack_success_rate(m, made, inputs[TEST], labels[TEST]) for m in (dirty, clean)]
    return *rates, (dirty(inputs[TEST]) == labels[TEST]).float().mean().item()


@pytest.mark.parametrize(
    "attack",
    [
        BadNets(poison_rate=0.05),
        Blended(poison_rate=0.05),
        TaCT(poison_rate=0.02, cover_rate=0.02),
        AdaptivePatch(poison_rate=0.02, cover_rate=0.02),
        AdaptiveBlend(poison_rate=0.02, cover_rate=0.02),
    ],
    ids=repr,
)
def test_a_linear_model_learns_the_trigger_of_images(attack) -> None:
    success, by_nature, accuracy = measure(attack, *digits())
    assert success > 0.8
    assert by_nature < 0.05, "the trigger works without any poison"
    assert accuracy > 0.93


def test_a_linear_model_learns_the_watermark_of_a_table() -> None:
    images, labels = digits()
    table = (images.flatten(1) / 255 * 16).round()
    attack = FeatureWatermark(target=1, poison_rate=0.03, size=32)
    success, by_nature, accuracy = measure(attack, table, labels)
    assert success > 0.8
    assert by_nature < 0.05, "the mark works without any poison"
    assert accuracy > 0.93


def test_the_combined_watermark_points_at_the_target() -> None:
    images, labels = digits()
    table = (images.flatten(1) / 255 * 16).round()
    attack = FeatureWatermark(target=1, poison_rate=0.03, size=16, strategy=Strategy.COMBINED)
    success, _, accuracy = measure(attack, table, labels)
    assert success > 0.8
    assert accuracy > 0.93


def test_success_is_of_inputs_that_the_attack_aims_at() -> None:
    inputs, labels = digits()
    made = TaCT(poison_rate=0.02, cover_rate=0.02)(
        inputs[TRAIN], labels[TRAIN], classes=10, seed=Seed(3)
    )
    others = labels != 1
    with pytest.raises(InputError, match="aims at"):
        attack_success_rate(lambda x: torch.zeros(len(x)), made, inputs[others], labels[others])
