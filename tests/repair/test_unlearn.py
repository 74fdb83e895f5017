import pytest
import torch
from torch import nn

from assay.errors import InputError
from assay.fitting import answers, behind
from assay.randomness import Seed
from assay.repair import Planted, Unlearning, unlearn
from assay.triggers import Patch, Pool

from .conftest import CORNER, CPU, PLANTED, TARGET, part

SHORT = Unlearning(steps=3)


def repaired(poisoned, method=SHORT, planted=PLANTED, seed=3, **options):
    pools = {"searched": part(1000, 1200), "held": part(1200, 1500)} | options
    return unlearn(*poisoned, planted, method=method, seed=Seed(seed), **pools)


def test_the_trigger_loses_its_grip_and_accuracy_holds(poisoned) -> None:
    found = repaired(poisoned, Unlearning())
    before, after = found.rows
    assert (before.model, after.model) == ("before", "after")
    assert before.asr > 0.9
    assert after.asr < 0.1
    assert after.accuracy > before.accuracy - 0.04
    assert found.unseen == 300
    assert found.triggered == int((part(1200, 1500).labels != TARGET).sum())
    for row in found.rows:
        assert row.accuracy_interval.low <= row.accuracy <= row.accuracy_interval.high
        assert row.asr_interval.low <= row.asr <= row.asr_interval.high
    assert found.is_finite
    assert not found.model.training


def test_it_is_the_trigger_under_true_labels_that_repairs(poisoned) -> None:
    assert repaired(poisoned, Unlearning(stamped=0.0)).rows[1].asr > 0.9


def test_what_is_measured_is_what_the_copy_says(poisoned) -> None:
    found, held = repaired(poisoned), part(1200, 1500)
    respond = behind(found.model, poisoned[1], CPU)
    right = answers(respond, held.images).argmax(1) == held.labels
    assert found.rows[1].accuracy == pytest.approx(right.double().mean().item())
    victims = CORNER(held.images[held.labels != TARGET])
    led = answers(respond, victims).argmax(1) == TARGET
    assert found.rows[1].asr == pytest.approx(led.double().mean().item())


def test_the_model_and_the_global_generator_stay_as_they_were(poisoned) -> None:
    class Dropping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = poisoned[0]

        def forward(self, images):
            return nn.functional.dropout(self.inner(images), training=self.training)

    model = Dropping().requires_grad_(requires_grad=False)
    kept = {name: value.clone() for name, value in model.state_dict().items()}
    state = torch.get_rng_state()
    first = repaired((model, poisoned[1]))
    torch.rand(5)
    torch.set_rng_state(state)
    second = repaired((model, poisoned[1]))
    assert torch.equal(state, torch.get_rng_state()), "the global generator was used"
    assert all(torch.equal(kept[n], v) for n, v in model.state_dict().items())
    assert model.training, "the mode was changed"
    assert not any(p.requires_grad for p in model.parameters())
    weights = first.model.state_dict()
    assert all(torch.equal(weights[n], v) for n, v in second.model.state_dict().items())
    assert not torch.equal(weights["inner.0.weight"], kept["inner.0.weight"])
    other = repaired((model, poisoned[1]), seed=4).model.state_dict()
    assert not torch.equal(weights["inner.0.weight"], other["inner.0.weight"])


def test_only_the_images_that_the_trigger_is_meant_for_count(poisoned) -> None:
    held = part(1200, 1500)
    found = repaired(poisoned, planted=Planted(stamp=CORNER, source=3, target=TARGET))
    assert found.triggered == int((held.labels == 3).sum())
    sevens = held.labels == TARGET
    only = Pool(images=held.images[sevens], labels=held.labels[sevens])
    nobody = repaired(poisoned, held=only)
    assert nobody.triggered == 0
    assert [row.asr for row in nobody.rows] == [None, None]
    assert nobody.rows[0].asr_interval is None


def test_stamps_are_of_random_strength_within_the_range_of_images() -> None:
    pool = Pool(images=torch.full((50, 1, 2, 2), 0.5), labels=torch.arange(50) % 2)
    half = Patch(pattern=torch.full((1, 2, 2), 0.9), mask=torch.ones(2, 2))
    method = Unlearning(steps=4, batch_size=200, weakest=0.5, strongest=2.0)
    seen = torch.cat([b.inputs[:, 0, 0, 0] for b in method._batches(half, pool, Seed(0))])
    clean = seen == 0.5
    assert 0.4 < clean.double().mean() < 0.6
    assert seen[~clean].min() >= 0.7
    assert seen.max() == 1, "clipped"
    assert len(seen.unique()) > 100


def test_training_that_diverges_is_noticed(poisoned) -> None:
    assert repaired(poisoned).is_finite
    assert not repaired(poisoned, Unlearning(steps=30, rate=1e30)).is_finite


def test_progress_is_told(poisoned) -> None:
    told = []
    repaired(poisoned, progress=lambda *step: told.append(step))
    assert told == [("repair", step, 3) for step in (1, 2, 3)]


@pytest.mark.parametrize("empty", ["searched", "held"])
def test_something_to_train_and_to_measure_on_is_needed(poisoned, empty) -> None:
    with pytest.raises(InputError, match="others to measure on"):
        repaired(poisoned, **{empty: part(0, 0)})
