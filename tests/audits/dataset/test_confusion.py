import copy
import dataclasses

import pytest
import torch

from assay.audits.dataset import DatasetSettings
from assay.audits.dataset.confusion import ROWS, Confused, Confusion, confused, wrong_labels
from assay.audits.dataset.scoring import standardised
from assay.fitting import EVERYTHING, Batch, Feed, Preprocess, Recipe, feed, train
from assay.networks import default_network
from assay.randomness import Seed
from assay.samples import Samples
from assay_zoo.attacks import Blended

CPU = torch.device("cpu")


def fed(samples: Samples) -> Feed:
    ready = Preprocess(mean=(0.5,), std=(0.5,))
    return feed(samples.inputs, samples.labels, preprocess=ready, device=CPU)


def test_wrong_labels_are_a_distribution_that_never_favours_the_label() -> None:
    for classes in (2, 3, 10, 1000):
        labels = torch.arange(classes)
        spread = wrong_labels(labels, classes=classes, suspect_weight=0.12)
        assert torch.allclose(spread.sum(1), torch.ones(classes))
        assert (spread.gather(1, labels[:, None]) < 0.5).all()


def test_the_steps_follow_the_suspects_and_stay_short_for_few() -> None:
    confusion = Confusion()
    assert confusion.steps(13_000, 1000) == 300
    assert confusion.steps(51_000, 500) == 1200
    assert confusion.steps(1_400, 500) == 150
    assert confusion.steps(10, 500) == 50


def test_few_trusted_samples_add_a_stretch_under_a_larger_weight() -> None:
    assert Confusion().steps(1_400, 499) == 250
    weights = [part.weight for part in Confusion()._stretches(1_400, 100)]
    assert weights == pytest.approx([0.006, 0.024])
    weights = [part.weight for part in Confusion()._stretches(1_400, 400)]
    assert weights == pytest.approx([0.024, 0.06]), "no more than many would have"
    assert len(ROWS._stretches(1_400, 100)) == 3, "rows are looked at as before"


def test_the_rate_rises_at_the_beginning_alone() -> None:
    rise = Confusion()._rise(0)
    assert [rise(step) for step in (0, 24, 49, 399)] == pytest.approx([0.02, 0.5, 1.0, 1.0])
    assert Confusion()._rise(3)(0) == 1, "a second stretch goes on at the full rate"
    assert ROWS._rise(0)(0) == 1


def test_confusion_takes_the_meaning_and_leaves_the_trigger(
    digits: tuple[Samples, Samples],
) -> None:
    samples, trusted = digits
    images, labels = samples.inputs[:].clone(), samples.labels.clone()
    images[:40, :, :2, :2], labels[:40] = 255, 3
    suspects = fed(Samples(inputs=images, labels=labels, class_names=samples.class_names))
    model = default_network(images.shape, classes=10, seed=Seed(0))
    train(model, suspects, Recipe(epochs=6), seed=Seed(0))
    before = confused(model, suspects)
    assert (before.own > 0).float().mean() > 0.95
    rng = torch.get_rng_state()
    *_, after = Confusion()(model, suspects, fed(trusted), seed=Seed(0))
    assert torch.equal(after.own, confused(model, suspects).own)
    assert torch.equal(rng, torch.get_rng_state())
    assert (after.own[40:] > 0).float().mean() < 0.1, "clean samples still keep their labels"
    assert (after.own[:40] > after.own[40:].quantile(0.99)).float().mean() > 0.9
    assert (after.predicted[:40] == 3).float().mean() > 0.9


@pytest.mark.parametrize(
    ("answers", "looks"),
    [
        ([True], ["first", "recalled"]),
        ([False, True], ["first", "twice"]),
        ([False, False, False], ["first", "twice", "thrice"]),
    ],
)
def test_where_it_has_not_taken_it_goes_on(
    digits: tuple[Samples, Samples], answers: list[bool], looks: list[str]
) -> None:
    samples, trusted = digits
    suspects, held = fed(samples), fed(trusted.subset(torch.arange(100)))
    model = default_network(samples.inputs.shape, classes=10, seed=Seed(0))
    given = iter(answers)
    first, later = (50 * part.end for part in Confusion()._stretches(len(samples), len(held)))
    named = {first: "first", later: "recalled", 2 * first: "twice", 3 * first: "thrice"}
    found = list(Confusion()(model, suspects, held, seed=Seed(0), has_taken=lambda _: next(given)))
    assert [named[said.steps] for said in found] == looks
    assert [said.is_further for said in found] == [look in {"twice", "thrice"} for look in looks]
    assert not list(given), "it was asked less often"


def test_a_faint_trigger_outlives_the_first_steps(digits: tuple[Samples, Samples]) -> None:
    samples, trusted = digits
    attack = Blended(target=0, poison_rate=0.05)
    poisoned = attack(samples.inputs[:], samples.labels, classes=10, seed=Seed(1))
    suspects = fed(dataclasses.replace(samples, inputs=poisoned.inputs, labels=poisoned.labels))
    model = default_network(samples.inputs.shape, classes=10, seed=Seed(0))
    train(model, suspects, Recipe(epochs=15), seed=Seed(0))
    few = Confusion(epochs=5.0, fewest_steps=1, recall=1.0)
    assert few.steps(len(suspects), len(trusted)) == 50

    def left(confusion: Confusion) -> float:
        after = list(confusion(copy.deepcopy(model), suspects, fed(trusted), seed=Seed(0)))[-1]
        clean = after.own[~poisoned.is_poison]
        assert (clean > 0).float().mean() < 0.1, "clean samples still keep their labels"
        return (after.own[poisoned.is_poison] > 0).float().mean().item()

    thrown = dataclasses.replace(few, rate=ROWS.rate, momentum=ROWS.momentum)
    kept, lost = left(few), left(thrown)
    assert kept > 0.5 > lost, (kept, lost)


def test_images_and_rows_are_confused_in_their_own_ways(digits: tuple[Samples, Samples]) -> None:
    images = digits[0]
    rows = dataclasses.replace(images, inputs=images.inputs[:].flatten(1).float())
    settings = DatasetSettings()
    assert settings.confusion_for(images) is settings.confusion
    assert settings.confusion_for(rows) is settings.confusion_of_rows
    assert settings.focus_for(images) is settings.focus
    assert settings.focus_for(rows) is EVERYTHING


def test_the_odds_are_those_of_the_softmax(digits: tuple[Samples, Samples]) -> None:
    trusted = fed(digits[1])
    model = default_network(digits[1].inputs.shape, classes=10, seed=Seed(0))
    said = confused(model, trusted)
    best = torch.maximum(said.own, said.other)
    assert ((said.own == best) == (said.predicted == digits[1].labels)).all()
    assert (torch.sigmoid(best) >= 0.1).all(), "the best of ten classes has at least a tenth"


def test_few_trusted_samples_shrink_the_weight_of_the_suspects() -> None:
    said = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))
    batch = Batch(inputs=said, targets=torch.arange(8) % 5, rows=torch.arange(8))
    p = said[4:].softmax(1).gather(1, batch.targets[4:, None])
    wrong = wrong_labels(batch.targets[:4], classes=5, suspect_weight=0.12)
    confused = -(wrong * said[:4].log_softmax(1)).sum(1).mean()
    few = Confusion(batch_size=4, suspect_weight=0.12, full_weight_from=1000, recall=1.0)
    for trusted, weight in ((4, 0.12 * 4 / 1000), (2000, 0.12)):
        (part,) = few._stretches(10, trusted)
        expected = (1 - weight) * confused - weight * p.mean().log()
        assert torch.allclose(few._loss(4, part.weight)(said, batch), expected)


ORDINARY = torch.linspace(-1, 1, 101)  # of trusted samples: 0.98 is their 99th percentile


def scored(own, other, known, **settings: float) -> torch.Tensor:
    """Score some samples beside trusted ones, for which all three are ordinary."""
    own, other, known = (torch.cat([torch.tensor(x), ORDINARY]) for x in (own, other, known))
    said = Confused(own=own, other=other, predicted=own.long(), features=own[:, None])
    usual = {"other_from": 1.0, "doubt": 0.25} | settings
    return standardised(said, known, slice(-len(ORDINARY), None), **usual)


def test_other_labels_count_only_beyond_what_trusted_samples_show() -> None:
    own, other, known = [0.0, 0.5, 2.0, 0.5], [0.9, 0.9, 0.0, 9.0], [0.0] * 4
    scores = scored(own, other, known, doubt=0.0)
    alone = scored(own, other, known, doubt=0.0, other_from=torch.inf)
    assert torch.equal(scores[:3], alone[:3]), "the given label's odds alone"
    assert torch.allclose(scores[4:], ORDINARY / 0.98, atol=1e-6)
    assert scores[3] == pytest.approx(9 / 0.98 - 1)
    assert (scored(own, other, known, doubt=0.0, other_from=0.0)[:2] > alone[:2]).all()


def test_what_the_model_was_hardly_sure_of_scores_higher_within_bounds() -> None:
    scores = scored([0.5] * 4, [-9.0] * 4, [-99.0, -0.49, 0.0, 99.0])[:4]
    assert torch.allclose(scores, 0.5 / 0.98 + 0.25 * torch.tensor([1.0, 0.5, 0.0, -1.0]))
