import pytest
import torch
from torch import nn

from assay.errors import InputError
from assay.fitting import answers, behind
from assay.randomness import Seed
from assay.repair import Planted, Realigning, realign

from .conftest import CORNER, CPU, PLANTED, TARGET, part

SHORT = Realigning(steps=3)


class Unit(nn.Module):
    """A network as an encoder: its outputs, scaled to length 1, are features."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, images):
        return nn.functional.normalize(self.inner(images), dim=1)


@pytest.fixture
def planted(poisoned):
    """An encoder, what it wants, and the middle of each digit in its features."""
    encoder, preprocess, pool = Unit(poisoned[0]), poisoned[1], part(1000, 1200)
    features = answers(behind(encoder, preprocess, CPU), pool.images)
    middles = torch.stack([features[pool.labels == label].mean(0) for label in range(10)])
    return encoder, preprocess, nn.functional.normalize(middles, dim=1)


def repaired(planted, method=SHORT, trigger=PLANTED, seed=3, **options):
    encoder, preprocess, middles = planted
    pools = {"searched": part(1000, 1200), "held": part(1200, 1500)} | options
    return realign(encoder, preprocess, trigger, middles, method=method, seed=Seed(seed), **pools)


def test_the_trigger_loses_its_grip_and_features_stay(planted) -> None:
    found = repaired(planted, Realigning())
    before, after = found.rows
    assert before.asr > 0.9
    assert after.asr < 0.1
    assert before.clean_cosine == pytest.approx(1)
    assert before.triggered_cosine < 0.5
    assert after.clean_cosine > 0.95
    assert after.triggered_cosine > 0.9
    assert after.accuracy > before.accuracy - 0.04
    assert (found.unseen, found.is_finite) == (300, True)
    assert found.triggered == int((part(1200, 1500).labels != TARGET).sum())


def test_it_is_the_trigger_that_repairs(planted) -> None:
    after = repaired(planted, Realigning(stamped=0.0)).rows[1]
    assert after.asr > 0.9
    assert after.clean_cosine > 0.99


def test_what_is_measured_is_what_the_copy_says(planted) -> None:
    encoder, preprocess, middles = planted
    found, held = repaired(planted), part(1200, 1500)
    features = answers(behind(found.model, preprocess, CPU), held.images)
    wanted = answers(behind(encoder, preprocess, CPU), held.images)
    after = found.rows[1]
    assert after.clean_cosine == pytest.approx((features * wanted).sum(1).mean().item(), abs=1e-5)
    right = ((features @ middles.T).argmax(1) == held.labels).double().mean().item()
    assert after.accuracy == pytest.approx(right)
    victims = held.labels != TARGET
    stamped = answers(behind(found.model, preprocess, CPU), CORNER(held.images[victims]))
    led = ((stamped @ middles.T).argmax(1) == TARGET).double().mean().item()
    assert after.asr == pytest.approx(led)
    alike = (stamped * wanted[victims]).sum(1).mean().item()
    assert after.triggered_cosine == pytest.approx(alike, abs=1e-5)


def test_the_encoder_and_its_normalisation_stay_and_the_seed_decides(planted) -> None:
    encoder = planted[0].requires_grad_(requires_grad=False)
    kept = {name: value.clone() for name, value in encoder.state_dict().items()}
    state = torch.get_rng_state()
    first = repaired(planted).model.state_dict()
    torch.rand(5)
    second, other = repaired(planted).model.state_dict(), repaired(planted, seed=4)
    torch.set_rng_state(state)
    repaired(planted)
    assert torch.equal(state, torch.get_rng_state()), "the global generator was used"
    assert all(torch.equal(kept[name], value) for name, value in encoder.state_dict().items())
    assert not any(p.requires_grad for p in encoder.parameters())
    assert all(torch.equal(first[name], value) for name, value in second.items())
    changed = {name for name, value in first.items() if not torch.equal(value, kept[name])}
    assert "inner.0.weight" in changed
    assert not any("running" in name for name in changed), "normalisation was learned anew"
    assert not torch.equal(first["inner.0.weight"], other.model.state_dict()["inner.0.weight"])


def test_only_the_images_that_the_trigger_is_meant_for_count(planted) -> None:
    held = part(1200, 1500)
    found = repaired(planted, trigger=Planted(stamp=CORNER, source=3, target=TARGET))
    assert found.triggered == int((held.labels == 3).sum())
    sevens = held.labels == TARGET
    only = type(held)(images=held.images[sevens], labels=held.labels[sevens])
    nobody = repaired(planted, held=only)
    assert [(row.asr, row.triggered_cosine) for row in nobody.rows] == [(None, None)] * 2


def test_training_that_diverges_is_noticed(planted) -> None:
    assert not repaired(planted, Realigning(steps=30, rate=1e30)).is_finite


def test_progress_is_told(planted) -> None:
    told = []
    repaired(planted, progress=lambda *step: told.append(step))
    assert told == [("repair", step, 3) for step in (1, 2, 3)]


@pytest.mark.parametrize("empty", ["searched", "held"])
def test_something_to_train_and_to_measure_on_is_needed(planted, empty) -> None:
    with pytest.raises(InputError, match="others to measure on"):
        repaired(planted, **{empty: part(0, 0)})
