"""What the attacks that train a network promise, with training too short to work."""

import dataclasses

import pytest
import torch

from assay.errors import InputError
from assay.fitting import Recipe
from assay.randomness import Seed
from assay_zoo.attacks.clean_label import CleanLabel
from assay_zoo.attacks.input_aware import InputAware
from assay_zoo.attacks.issba import Issba

CLASSES, SAMPLES = 4, 120
every_attack = pytest.mark.parametrize(
    "attack",
    [
        CleanLabel(
            target=1,
            poison_rate=0.05,
            steps=2,
            surrogate=Recipe(epochs=1, batch_size=32),
            surrogate_images=40,
        ),
        InputAware(target=1, poison_rate=0.05, mask_steps=1, pattern_steps=2, images=40),
        Issba(target=1, poison_rate=0.05, bits=4, steps=2, images=40),
    ],
    ids=lambda attack: type(attack).__name__,
)


def noise(channels=1, height=8, width=8):
    random = torch.Generator().manual_seed(0)
    size = (SAMPLES, channels, height, width)
    return torch.randint(0, 256, size, generator=random, dtype=torch.uint8)


def poison(attack, inputs, seed=3):
    return attack(inputs, torch.arange(SAMPLES) % CLASSES, classes=CLASSES, seed=Seed(seed))


@every_attack
def test_the_seed_alone_decides(attack) -> None:
    inputs, before = noise(), torch.get_rng_state()
    first = poison(attack, inputs)
    assert torch.equal(before, torch.get_rng_state()), "the global generator was used"
    torch.rand(5)
    again, other = poison(attack, inputs), poison(attack, inputs, seed=4)
    assert torch.equal(first.inputs, again.inputs)
    assert torch.equal(first.trigger(inputs), again.trigger(inputs))
    assert not torch.equal(first.is_poison, other.is_poison)


@every_attack
def test_only_victims_change_and_get_the_attackers_label(attack) -> None:
    inputs, truth = noise(), torch.arange(SAMPLES) % CLASSES
    kept = inputs.clone()
    made = poison(attack, inputs)
    assert torch.equal(inputs, kept)
    changed = (made.inputs != inputs).flatten(1).any(dim=1)
    assert torch.equal(changed, made.is_poison)
    assert made.is_poison.sum() == 0.05 * SAMPLES
    assert not made.is_cover.any()
    assert (made.labels[made.is_poison] == 1).all()
    assert torch.equal(made.labels[~made.is_poison], truth[~made.is_poison])
    assert (truth[made.is_poison] == 1).all() == isinstance(attack, CleanLabel)


@every_attack
def test_any_size_and_number_of_channels(attack) -> None:
    inputs = noise(channels=3, height=13, width=10)
    made = poison(attack, inputs)
    stamped = made.trigger(inputs)
    assert stamped.shape == inputs.shape
    assert stamped.dtype == torch.uint8
    assert (stamped != inputs).flatten(1).any(dim=1).all()


@every_attack
def test_a_trigger_treats_each_image_alone(attack) -> None:
    inputs = noise()
    trigger = poison(attack, inputs).trigger
    apart = torch.cat([trigger(one) for one in inputs[:5].split(1)])
    assert (trigger(inputs)[:5].int() - apart.int()).abs().max() <= 1


@every_attack
def test_no_images_are_triggered_to_no_images(attack) -> None:
    inputs = noise()
    assert poison(attack, inputs).trigger(inputs[:0]).shape == inputs[:0].shape


@every_attack
@pytest.mark.parametrize("target", [-1, CLASSES])
def test_a_target_that_is_no_class_is_refused(attack, target) -> None:
    with pytest.raises(InputError, match=r"target in \[0, 4\)"):
        poison(dataclasses.replace(attack, target=target), noise())
