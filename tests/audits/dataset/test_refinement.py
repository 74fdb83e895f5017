import pytest
import torch

from assay.audits.dataset import Refinement, decision
from assay.audits.dataset.decision import Scored, Voted
from assay.audits.dataset.outvoting import outvoted
from assay.results import Finding
from assay.samples import Samples
from assay.stats import PooledRidge

CLEAN, POISON, CALIBRATION = 240, 80, 80


def pixels(images: torch.Tensor) -> torch.Tensor:
    return images.flatten(1).float()


@pytest.fixture(scope="module")
def case(digits: tuple[Samples, Samples]):
    """Real digits under two labels, some of the first stamped; a confused model's scores overlap.

    A third of the poison scores as clean samples do, and a tenth of the clean ones as poison.
    """
    images = digits[0].inputs[:][: CLEAN + POISON + CALIBRATION].clone()
    is_poison = torch.zeros(len(images), dtype=torch.bool)
    is_poison[:POISON] = True
    images[is_poison, :, -3:, -3:] = images[is_poison, :, -3:, -3:] // 2 + 100
    random = torch.Generator().manual_seed(0)
    high = torch.where(
        is_poison,
        torch.rand(len(images), generator=random) > 1 / 3,
        torch.rand(len(images), generator=random) < 0.1,
    )
    scores = torch.rand(len(images), generator=random) + high
    cut = CLEAN + POISON
    labels = (torch.arange(len(images)) % 4 == 3).long()
    labels[is_poison] = 0
    suspects = Scored(scores=scores[:cut], labels=labels[:cut])
    calibration = Scored(scores=scores[cut:], labels=labels[cut:])
    return suspects, calibration, pixels(images), is_poison[:cut]


def refined(suspects, calibration, features, flags):
    labels = torch.cat([suspects.labels, calibration.labels])
    scores = torch.cat([suspects.scores, calibration.scores])
    everyone, tests = outvoted(PooledRidge([features], labels, penalty=0.1), scores), []
    for label in range(2):
        own = labels == label
        is_suspect = torch.arange(len(labels))[own] < len(suspects.labels)
        said = everyone[own]
        voted = Voted(
            suspects=said[is_suspect],
            calibration=said[~is_suspect],
            threshold=0.0,
            effect=0.1,
            p_value=0.01,
        )
        finding = Finding(question="?", samples=int(own.sum()), effect=0.1, p_value=0.01)
        tests.append(decision.Tested(finding=finding, threshold=0.0, voted=voted))
    return Refinement()(flags, suspects.labels, tests)


def test_poison_that_shares_a_trigger_is_found_and_clean_samples_are_let_go(case):
    suspects, calibration, features, is_poison = case
    flags = suspects.scores >= 1
    assert flags[is_poison].double().mean() < 0.75
    assert flags[~is_poison].double().mean() > 0.05
    found = refined(suspects, calibration, features, flags)
    assert found[is_poison].double().mean() > 0.95
    assert found[~is_poison].double().mean() < 0.05


def test_flags_that_share_nothing_stay(case):
    suspects, calibration, features, _ = case
    random = torch.Generator().manual_seed(1)
    features = torch.randn(features.shape, generator=random)
    flags = suspects.scores >= 1
    assert torch.equal(refined(suspects, calibration, features, flags), flags)


def test_a_class_with_little_calibration_is_refined_only_where_groups_stand_apart(case):
    suspects, calibration, features, is_poison = case
    few = Scored(scores=calibration.scores[:49], labels=calibration.labels[:49])
    features = features[: len(suspects.labels) + 49]
    flags = suspects.scores >= 1
    apart = refined(suspects, few, features, flags)
    assert apart[is_poison].double().mean() > 0.95
    reached = features.clone()
    reached[len(suspects.labels)] = features[:POISON].mean(0)  # one of the calibration joins them
    assert torch.equal(refined(suspects, few, reached, flags), flags)
    random = torch.Generator().manual_seed(0)
    blurred = features + 60 * torch.randn(features.shape, generator=random)
    assert torch.equal(refined(suspects, few, blurred, flags), flags)


def test_classes_without_a_flag_are_left_alone(case):
    suspects, calibration, features, _ = case
    labels = torch.arange(len(suspects.labels)) % 2
    other = Scored(scores=suspects.scores, labels=labels)
    flags = (suspects.scores >= 1) & (labels == 0)
    assert not refined(other, calibration, features, flags)[labels == 1].any()


def test_nothing_flagged_stays_nothing(case):
    suspects, calibration, features, is_poison = case
    nothing = torch.zeros_like(is_poison)
    assert not refined(suspects, calibration, features, nothing).any()


def test_all_samples_of_a_class_flagged_stay(case):
    suspects, calibration, features, is_poison = case
    low = Scored(scores=calibration.scores + 9, labels=calibration.labels)
    everything = torch.ones_like(is_poison)
    assert refined(suspects, low, features, everything).all()


def test_flags_stay_where_two_kinds_of_clean_samples_stand_apart(case):
    suspects, calibration, features, is_poison = case
    labels = torch.cat([suspects.labels, calibration.labels])
    features = features.clone()
    kind = torch.arange(len(labels)) % 8 == 1  # of class 0, calibration too
    features[kind, :20] += 40 * features.std()
    scores = torch.where(kind, 1.0, 0.0)[: len(suspects.labels)]
    high = Scored(scores=scores + 0.01 * suspects.scores, labels=suspects.labels)
    low = Scored(
        scores=torch.where(kind, 1.0, 0.0)[len(suspects.labels) :] + 0.01 * calibration.scores,
        labels=calibration.labels,
    )
    flags = torch.zeros_like(is_poison)
    flags[kind[: len(flags)].nonzero().squeeze(1)[:20]] = True
    assert torch.equal(refined(high, low, features, flags), flags)
