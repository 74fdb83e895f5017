import pytest
import torch
from sklearn.datasets import load_digits

from assay.fitting import Recipe, train
from assay.networks import default_network
from assay.randomness import Seed
from assay_zoo.attacks.clean_label import CleanLabel, four_corners, perturb
from assay_zoo.learned import some_of

RECIPE = Recipe(epochs=4, batch_size=64)


@pytest.fixture(scope="module")
def digits():
    bunch = load_digits()
    images = (torch.from_numpy(bunch.images).float() * 255 / 16).round().to(torch.uint8)
    return images[:, None], torch.from_numpy(bunch.target).long()


def test_perturbing_lowers_the_confidence_in_the_true_class_within_the_bound(digits) -> None:
    inputs, labels = digits
    model = default_network(inputs.shape, classes=10, seed=Seed(1))
    train(model, some_of(inputs, labels, most=1000, seed=Seed(2)), RECIPE, seed=Seed(3))
    model.eval()
    images, truth = inputs[:100].float() / 255, labels[:100]
    kept = images.clone()
    changed = perturb(model, images, truth, bound=0.2, steps=10)
    before, after = (
        model(x).softmax(dim=1)[torch.arange(100), truth].mean() for x in (images, changed)
    )
    assert before > 0.8
    assert after < before / 2
    assert (changed - images).abs().max() <= 0.2 + 1e-6
    assert 0 <= changed.min() <= changed.max() <= 1
    assert torch.equal(images, kept)
    assert not images.requires_grad


def test_victims_change_within_the_bound_and_show_the_patches(digits) -> None:
    inputs, labels = digits
    attack = CleanLabel(
        target=3, poison_rate=0.02, surrogate=RECIPE, surrogate_images=300, steps=10
    )
    made = attack(inputs, labels, classes=10, seed=Seed(0))
    assert torch.equal(made.labels, labels)
    assert (labels[made.is_poison] == 3).all()
    patch = four_corners(inputs.shape[1:], device=inputs.device)
    covered = patch.mask.bool()
    shown, was = made.inputs[made.is_poison][:, 0], inputs[made.is_poison][:, 0]
    outside = (shown.int() - was.int())[:, ~covered].abs()
    assert 0 < outside.max() <= 16
    assert (shown[:, covered] == (255 * patch.pattern[0, covered]).to(torch.uint8)).all()


def test_the_trigger_is_the_patches_alone(digits) -> None:
    inputs, labels = digits
    attack = CleanLabel(poison_rate=0.01, surrogate=RECIPE, surrogate_images=64, steps=1)
    made = attack(inputs, labels, classes=10, seed=Seed(0))
    covered = four_corners(inputs.shape[1:], device=inputs.device).mask.bool()
    assert torch.equal(made.trigger(inputs)[..., ~covered], inputs[..., ~covered])


@pytest.mark.parametrize("side", [8, 28, 32, 64])
def test_the_patches_are_the_same_from_every_side(side) -> None:
    patch = four_corners(torch.Size([1, side, side]), device=torch.device("cpu"))
    assert patch.mask.max() == 1
    assert 0 < patch.mask.mean() <= 0.25
    for turned in (patch.mask.flip(0), patch.mask.flip(1)):
        assert torch.equal(turned, patch.mask)
