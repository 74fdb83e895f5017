import dataclasses
import os
import pathlib

import pytest
import torch

import experiment
from assay.fitting import Recipe
from assay_zoo.poison import attack_success_rate
from assay_zoo.semi_supervised import UNKNOWN

CASE = experiment.Case(
    data="digits",
    train=600,
    trusted=100,
    test=200,
    scenario="tact",
    seed=3,
    network="default",
    training=Recipe(epochs=4),
    device=torch.device("cpu"),
)


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(experiment, "CACHE", tmp_path)
    experiment.prepare.cache_clear()


def test_poison_from_the_cache_is_the_poison_of_the_attack() -> None:
    first = experiment.prepare(CASE)
    experiment.prepare.cache_clear()
    second = experiment.prepare(CASE)
    clean = first.split.train
    made = CASE.attack(
        clean.inputs[:], clean.labels, classes=clean.classes, seed=CASE.part("attack")
    )
    for prepared in (first, second):
        assert torch.equal(prepared.suspects.inputs[:], made.inputs)
        assert torch.equal(prepared.suspects.labels, made.labels)
        assert torch.equal(prepared.poisoned.is_cover, made.is_cover)
    test = first.split.test

    def bright(inputs: torch.Tensor) -> torch.Tensor:
        return (inputs.flatten(1).float().mean(1) > 80).long()

    expected = attack_success_rate(bright, made, test.inputs[:], test.labels)
    assert attack_success_rate(bright, second.poisoned, test.inputs[:], test.labels) == expected


@pytest.mark.skipif(
    not (
        pathlib.Path(os.environ.get("ASSAY_DATA", "../shared/data")) / "text/agnews.tsv"
    ).is_file(),
    reason="the news are not in $ASSAY_DATA",
)
def test_poisoned_texts_become_features() -> None:
    case = dataclasses.replace(CASE, data="agnews-features", scenario="rare-word")
    assert "encoder" in case.recipe
    assert "encoder" not in CASE.recipe
    for _ in range(2):  # the second time from the cache
        prepared = experiment.prepare(case)
        clean, suspects = prepared.split.train, prepared.suspects
        is_poison = prepared.poisoned.is_poison
        changed = (suspects.inputs[:] != clean.inputs[:]).any(dim=1)
        assert torch.equal(changed, is_poison)
        assert is_poison.sum() == round(0.03 * 600)
        assert (suspects.labels[is_poison] == 0).all()
        assert (clean.labels[is_poison] != 0).all()
        test = prepared.split.test
        aimed = test.inputs[test.labels != 0]
        triggered = prepared.poisoned.trigger(aimed)
        assert triggered.shape == aimed.shape
        assert (triggered != aimed).any(dim=1).all()
        experiment.prepare.cache_clear()


def test_clean_data_have_no_poison_and_no_success_rate() -> None:
    case = dataclasses.replace(CASE, scenario=experiment.CLEAN)
    trained = experiment.undefended(case)
    measured = experiment.accuracy_and_asr(case, trained)
    assert measured["asr"] is None
    assert measured["accuracy"] > 0.3
    assert not experiment.prepare(case).poisoned.is_poison.any()


def test_the_model_from_the_cache_is_the_one_that_was_trained() -> None:
    measured = [experiment.accuracy_and_asr(CASE, experiment.undefended(CASE)) for _ in range(2)]
    assert measured[0] == measured[1]


def test_cover_counts_neither_as_poison_nor_as_clean() -> None:
    poisoned = experiment.prepare(CASE).poisoned
    everything = torch.ones_like(poisoned.is_poison)
    flagged = poisoned.is_poison | poisoned.is_cover
    rates = experiment.rates(poisoned, flagged, flagged.float(), everything)
    assert (rates["tpr"], rates["fpr"], rates["cover_flagged"], rates["auroc"]) == (1, 0, 1, 1)
    half = poisoned.is_poison.cumsum(0) % 2 == 0
    rates = experiment.rates(poisoned, half, None, ~poisoned.is_cover)
    assert rates["cover_flagged"] is None
    assert rates["auroc"] is None
    assert 0 < rates["fpr"] < 1


def test_a_provider_who_matches_delivers_another_model_of_the_same_poison() -> None:
    case = dataclasses.replace(CASE, scenario="badnets")
    matching = dataclasses.replace(case, matching=True)
    assert case.digest != matching.digest
    first, second = (experiment.undefended(each) for each in (case, matching))
    both = zip(first.model.parameters(), second.model.parameters(), strict=True)
    assert not all(torch.equal(one, other) for one, other in both)
    poison = [experiment.prepare(each).suspects.inputs[:] for each in (case, matching)]
    assert torch.equal(*poison)


def test_of_few_labels_none_is_of_a_poisoned_image(monkeypatch) -> None:
    seen = []

    class Noting:
        def __call__(self, model, preprocess, images, labels, *, seed) -> None:
            seen.append((images, labels))

    monkeypatch.setattr(experiment, "FixMatch", Noting)
    case = dataclasses.replace(CASE, scenario="unlabelled-grid", labelled=5)
    experiment.undefended(case)
    prepared = experiment.prepare(case)
    ((images, labels),) = seen
    known = labels != UNKNOWN
    assert labels[known].bincount().tolist() == [5] * 10
    assert not (known & prepared.poisoned.is_poison).any()
    assert torch.equal(labels[known], prepared.split.train.labels[known])
    assert torch.equal(images, prepared.suspects.inputs[:])
    assert case.digest != dataclasses.replace(case, labelled=None).digest
