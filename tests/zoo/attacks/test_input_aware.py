import pytest
import torch
from sklearn.datasets import load_digits

from assay.randomness import Seed
from assay_zoo.attacks.input_aware import InputAware
from assay_zoo.learned import some_of

DENSITY = 0.1


@pytest.fixture(scope="module")
def learned():
    bunch = load_digits()
    inputs = (torch.from_numpy(bunch.images).float() * 255 / 16).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(bunch.target).long()
    attack = InputAware(density=DENSITY, mask_steps=40, pattern_steps=120)
    data = some_of(inputs[:1400], labels[:1400], most=1400, seed=Seed(1))
    painter, model = attack._learn(data, 10, Seed(2))
    return painter, model, inputs[1400:].float() / 255, labels[1400:]


@torch.no_grad()
def test_every_image_has_its_share_of_pixels_painted_and_they_differ(learned) -> None:
    painter, _, images, _ = learned
    masks, patterns = painter.masks(images), painter.patterns(images)
    shares = (masks > 0.5).flatten(1).float().mean(dim=1)
    assert ((shares - DENSITY).abs() <= 1.5 / 64).all()
    assert ((masks < 0.1) | (masks > 0.9)).float().mean() > 0.9
    assert (masks - masks.roll(1, 0)).abs().mean() > masks.mean() / 2
    assert (patterns - patterns.roll(1, 0)).abs().mean() > 0.1
    untouched = (painter(images) - images).abs()[masks < 0.001]
    assert untouched.max() <= 0.001


@torch.no_grad()
def test_an_image_answers_to_its_own_trigger_and_not_to_another(learned) -> None:
    painter, model, images, labels = learned
    images, labels = images[labels != 0], labels[labels != 0]
    others = images.roll(1, 0)
    assert (model(images).argmax(1) == labels).float().mean() > 0.85
    own = (model(painter(images)).argmax(1) == 0).float().mean()
    foreign = (model(painter.across(images, others)).argmax(1) == 0).float().mean()
    assert own > 0.8
    assert foreign < own / 2


def test_a_last_batch_of_few_images_spoils_no_pattern() -> None:
    random = torch.Generator().manual_seed(0)
    inputs = torch.randint(256, (138, 1, 8, 8), generator=random, dtype=torch.uint8)  # 128 and 10
    attack = InputAware(poison_rate=0.05, mask_steps=2, pattern_steps=2)
    made = attack(inputs, torch.arange(138) % 4, classes=4, seed=Seed(0))
    unpainted = (made.trigger(inputs).int() - inputs.int()).abs() <= 1
    assert unpainted.float().mean() > 0.8
