import pytest
import torch
from jaxtyping import Float, Int64
from torch import Tensor

from assay.audits.dataset import Refinement
from assay.audits.dataset import decision as deciding
from assay.audits.dataset.decision import Decision, Scored
from assay.audits.dataset.outvoting import leading, outvoted
from assay.results import Finding
from assay.stats import PooledRidge, auroc, exceedance_scan, holm


def drawn(seed: int, *, suspects: int = 4000, calibration: int = 500) -> tuple[Scored, Scored]:
    """Scores of clean samples of ten classes whose levels and tails differ somewhat."""
    random = torch.Generator().manual_seed(seed)

    def some(count: int) -> Scored:
        labels = torch.arange(count) % 10
        noise = torch.randn(count, generator=random)
        wider = 1 + 0.1 * (labels % 3)
        return Scored(scores=noise.abs() * wider + 0.3 * (labels % 4), labels=labels)

    return some(suspects), some(calibration)


def rejected(
    suspects: Scored,
    calibration: Scored,
    decision: Decision = Decision(),  # noqa: B008  frozen
) -> list[int]:
    tests = decision.test(suspects, calibration, classes=10)
    p_values = [1.0 if t.finding.p_value is None else t.finding.p_value for t in tests]
    adjusted = holm(torch.tensor(p_values, dtype=torch.float64))
    return (adjusted <= 0.05).nonzero().squeeze(1).tolist()


def test_clean_scores_raise_few_alarms() -> None:
    assert sum(bool(rejected(*drawn(seed))) for seed in range(40)) <= 4


@pytest.mark.parametrize("count", [12, 40, 200])
def test_scores_that_stand_apart_are_flagged_and_found(count: int) -> None:
    suspects, calibration = drawn(1)
    rows = (suspects.labels == 7).nonzero().squeeze(1)[:count]
    scores = suspects.scores.clone()
    scores[rows] += 12
    poisoned = Scored(scores=scores, labels=suspects.labels)
    tests = Decision().test(poisoned, calibration, classes=10)
    assert rejected(poisoned, calibration) == [7]
    flags = Decision().flag(poisoned, calibration, tests, (7,))
    assert flags[rows].all()
    assert int(flags.sum()) <= count + 2
    assert tests[7].finding.effect == pytest.approx(count / 400, rel=0.6)


@pytest.mark.parametrize("seed", range(4))
def test_what_the_exact_test_shows_is_flagged(seed: int) -> None:
    """A class that scores in a narrower range than the others: their tail hides its poison."""
    random = torch.Generator().manual_seed(seed)

    def drawn_wide(count: int) -> Scored:
        labels = torch.arange(count) % 10
        wide = torch.where(labels == 7, 0.5, 1.0)
        return Scored(scores=torch.randn(count, generator=random) * wide, labels=labels)

    suspects, calibration = drawn_wide(12_000), drawn_wide(1000)
    rows = (suspects.labels == 7).nonzero().squeeze(1)[:200]
    suspects.scores[rows] = 2.8 + 0.3 * torch.randn(200, generator=random)
    tests = Decision().test(suspects, calibration, classes=10)
    assert 7 in rejected(suspects, calibration)
    flags = Decision().flag(suspects, calibration, tests, (7,))
    assert flags[rows].float().mean() > 0.9
    assert int(flags.sum()) < 230
    effect = tests[7].finding.effect
    assert effect is not None
    assert 0.05 < effect < 0.2, "the share of the poison above one of the thresholds"


def test_with_little_calibration_the_suspects_of_other_classes_show_the_tail() -> None:
    suspects, calibration = drawn(1, suspects=1000, calibration=100)
    high = calibration.scores.clone()
    high[:3] += 4  # too few to be known by, enough for a tail that may be heavy
    calibration = Scored(scores=high, labels=calibration.labels)
    rows = (suspects.labels == 7).nonzero().squeeze(1)[:30]
    scores = suspects.scores.clone()
    scores[rows] += 6
    poisoned = Scored(scores=scores, labels=suspects.labels)
    assert rejected(poisoned, calibration) == [7]
    assert rejected(poisoned, calibration, Decision(much_calibration=0)) == []


def test_clean_scores_raise_few_alarms_with_little_calibration() -> None:
    cases = [drawn(seed, suspects=1000, calibration=100) for seed in range(40)]
    assert sum(bool(rejected(*case)) for case in cases) <= 4


def test_every_class_may_be_poisoned_at_once() -> None:
    suspects, calibration = drawn(2)
    scores = suspects.scores.clone()
    scores[:600] += 12
    assert rejected(Scored(scores=scores, labels=suspects.labels), calibration) == list(range(10))


def test_seven_samples_that_stand_apart_are_no_backdoor() -> None:
    suspects, calibration = drawn(3)
    scores = suspects.scores.clone()
    scores[(suspects.labels == 2).nonzero().squeeze(1)[:7]] += 12
    assert rejected(Scored(scores=scores, labels=suspects.labels), calibration) == []


def test_what_cannot_be_judged_has_no_p_value_and_says_why() -> None:
    suspects, calibration = drawn(4)
    rare = suspects.labels.clone()
    rare[(rare == 5).nonzero().squeeze(1)[3:]] = 6
    tests = Decision().test(Scored(scores=suspects.scores, labels=rare), calibration, classes=11)
    assert tests[5].finding.p_value is None
    assert "at least 16 samples" in tests[5].finding.reason
    assert tests[10].finding.p_value is None
    few = Scored(scores=calibration.scores[:90], labels=calibration.labels[:90])
    assert all(
        t.finding.p_value is None and "trusted set is too small" in t.finding.reason
        for t in Decision().test(suspects, few, classes=10)
    )


def test_a_class_without_trusted_samples_is_not_judged() -> None:
    suspects, calibration = drawn(5)
    there = calibration.labels != 4
    without = Scored(scores=calibration.scores[there], labels=calibration.labels[there])
    tests = Decision().test(suspects, without, classes=10)
    assert [t.finding.p_value is None for t in tests] == [label == 4 for label in range(10)]


def test_p_values_are_conformal_within_shifted_classes() -> None:
    suspects, calibration = drawn(6)
    p_values = Decision().p_values(suspects, calibration, classes=10)
    for level in (0.01, 0.05, 0.2):
        assert (p_values <= level).float().mean() <= 1.5 * level + 0.005


def with_features(
    seed: int, *, poison: int
) -> tuple[Scored, Scored, Float[Tensor, "samples dims"], Int64[Tensor, " poison"]]:
    """Scores that hardly tell the poison of class 7, and features that share a direction."""
    suspects, calibration = drawn(seed)
    random = torch.Generator().manual_seed(seed)
    features = torch.randn(4500, 32, generator=random)
    rows = (suspects.labels == 7).nonzero().squeeze(1)[:poison]
    features[rows, 0] += 6
    scores = suspects.scores.clone()
    scores[rows] += 1
    return Scored(scores=scores, labels=suspects.labels), calibration, features, rows


def votes(
    suspects: Scored, calibration: Scored, features: Float[Tensor, "samples dims"]
) -> list[Float[Tensor, " everyone"]]:
    labels = torch.cat([suspects.labels, calibration.labels])
    along = leading(features, labels)
    ridge = PooledRidge([features], labels, penalty=0.1)
    starts = (torch.cat([suspects.scores, calibration.scores]), along, -along)
    return [outvoted(ridge, start) for start in starts]


def test_samples_with_a_common_direction_outvote_weak_scores() -> None:
    suspects, calibration, features, rows = with_features(1, poison=80)
    assert rejected(suspects, calibration) == []
    decision, voted_on = Decision(), votes(suspects, calibration, features)[:1]
    tests = decision.test(suspects, calibration, classes=10, votes=voted_on)
    p_values = torch.tensor([t.finding.p_value for t in tests]).double()
    assert (holm(p_values) <= 0.05).nonzero().squeeze(1).tolist() == [7]
    flags = decision.flag(suspects, calibration, tests, (7,))
    assert flags[rows].double().mean() > 0.7
    found = Refinement()(flags, suspects.labels, tests)
    assert found[rows].double().mean() > 0.9
    assert int(found.sum()) < 110
    voted = tests[7].voted
    assert voted is not None
    own = suspects.labels == 7
    is_poison = torch.isin(own.nonzero().squeeze(1), rows)
    assert auroc(voted.suspects, is_poison) > 0.99 > auroc(suspects.scores[own], is_poison)
    ours, theirs = decision.outvoted(suspects, calibration, tests)
    for label in range(10):
        trusted = theirs.scores[theirs.labels == label]
        assert trusted.median() == pytest.approx(0, abs=0.1)
        assert torch.quantile(trusted, 0.95) == pytest.approx(1, abs=1e-4)
    everyone = torch.zeros_like(own)
    everyone[rows] = True
    assert auroc(ours.scores, everyone) > 0.99


def test_with_little_calibration_other_classes_show_how_far_a_vote_reaches() -> None:
    suspects, calibration = drawn(1, suspects=1000, calibration=100)
    random = torch.Generator().manual_seed(1)
    features = torch.randn(1100, 32, generator=random)
    rows = (suspects.labels == 7).nonzero().squeeze(1)[:30]
    features[rows, 0] += 6
    scores = suspects.scores.clone()
    scores[rows] += 1
    weak = Scored(scores=scores, labels=suspects.labels)
    assert rejected(weak, calibration) == []
    voted_on = votes(weak, calibration, features)[:1]
    tests = Decision().test(weak, calibration, classes=10, votes=voted_on)
    p_values = torch.tensor([t.finding.p_value for t in tests]).double()
    assert (holm(p_values) <= 0.05).nonzero().squeeze(1).tolist() == [7]
    assert tests[7].by_vote


@pytest.mark.parametrize("calibration_count", [500, 100])  # an exact scan, the tail of others
def test_a_vote_among_clean_samples_raises_few_alarms(calibration_count: int) -> None:
    alarms = 0
    for seed in range(40):
        suspects, calibration = drawn(seed, suspects=2000, calibration=calibration_count)
        random = torch.Generator().manual_seed(seed)
        features = torch.randn(2000 + calibration_count, 32, generator=random)
        voted_on = votes(suspects, calibration, features)
        tests = Decision().test(suspects, calibration, classes=10, votes=voted_on)
        p_values = torch.tensor([t.finding.p_value for t in tests]).double()
        alarms += bool((holm(p_values) <= 0.05).any())
    assert alarms <= 4


def test_what_scores_do_not_tell_features_may() -> None:
    suspects, calibration = drawn(1, suspects=2000)
    features = torch.randn(2500, 32, generator=torch.Generator().manual_seed(1))
    rows = (suspects.labels == 7).nonzero().squeeze(1)[:60]
    features[rows, 0] += 25
    decision, voted_on = Decision(), votes(suspects, calibration, features)
    for given, flagged in ((voted_on[:1], []), (voted_on, [7])):
        tests = decision.test(suspects, calibration, classes=10, votes=given)
        p_values = torch.tensor([t.finding.p_value for t in tests]).double()
        assert (holm(p_values) <= 0.05).nonzero().squeeze(1).tolist() == flagged
    assert tests[7].by_features
    flags = decision.flag(suspects, calibration, tests, (7,))
    assert flags[rows].double().mean() > 0.9
    assert int(flags.sum()) < 90


def test_a_class_that_is_mostly_poison_is_told_from_its_few_trusted_samples() -> None:
    random = torch.Generator().manual_seed(1)
    labels = torch.cat([torch.arange(4300) % 43, torch.full((200,), 7)])
    own = torch.arange(645) % 43  # 15 each
    features = torch.randn(len(labels) + len(own), 32, generator=random)
    rows = torch.arange(4300, 4500)
    features[rows, :4] += 3
    suspects = Scored(scores=torch.randn(4500, generator=random).abs(), labels=labels)
    calibration = Scored(scores=torch.randn(645, generator=random).abs(), labels=own)
    voted_on = votes(suspects, calibration, features)
    tests = Decision().test(suspects, calibration, classes=43, votes=voted_on)
    p_values = torch.tensor([t.finding.p_value for t in tests]).double()
    assert (holm(p_values) <= 0.05).nonzero().squeeze(1).tolist() == [7]
    assert tests[7].by_vote
    flags = Decision().flag(suspects, calibration, tests, (7,))
    assert flags[rows].double().mean() > 0.9
    assert int(flags[:4300].sum()) < 20


def test_scores_rank_across_classes_of_few_trusted_samples() -> None:
    random = torch.Generator().manual_seed(1)
    labels, own = torch.arange(1000) % 10, torch.arange(100) % 10
    level, spread = torch.linspace(-2, 2, 10), torch.linspace(0.5, 2, 10)
    scores, trusted = (torch.randn(len(x), generator=random) for x in (labels, own))
    is_poison = (labels == 0) & (torch.arange(1000) < 400)
    votes = (scores + 6 * is_poison) * spread[labels] + level[labels]
    theirs = trusted * spread[own] + level[own]
    tests = tuple(
        deciding.Tested(
            finding=Finding(question="?", samples=100, effect=0.0, p_value=1.0),
            threshold=0.0,
            voted=deciding.Voted(
                suspects=votes[labels == label],
                calibration=theirs[own == label],
                threshold=0.0,
                effect=0.0,
                p_value=1.0,
            ),
        )
        for label in range(10)
    )
    ranked, _ = Decision().outvoted(
        Scored(scores=scores / 3, labels=labels), Scored(scores=trusted / 3, labels=own), tests
    )
    assert auroc(votes, is_poison) < 0.8
    assert auroc(ranked.scores, is_poison) > 0.95


def test_a_class_beside_hardly_any_others_is_asked_exactly() -> None:
    suspects, calibration = drawn(1, suspects=400, calibration=110)
    labels = (torch.arange(400) < 20).long()  # nearly all of one class, which few trusted ones have
    own = (torch.arange(110) < 70).long()
    few = Scored(scores=suspects.scores, labels=labels)
    little = Scored(scores=calibration.scores, labels=own)
    features = torch.randn(510, 4, generator=torch.Generator().manual_seed(0))
    tests = Decision().test(few, little, classes=2, votes=votes(few, little, features)[:1])
    assert all(test.voted is not None for test in tests)
    assert all(test.finding.p_value is not None for test in tests)
    shown, _ = Decision().outvoted(few, little, tests)
    assert shown.scores.isfinite().all()


def test_equal_scores_say_nothing_and_are_borne() -> None:
    suspects, calibration = drawn(1)
    flat = Scored(scores=torch.zeros(4000), labels=suspects.labels)
    level = Scored(scores=torch.zeros(500), labels=calibration.labels)
    features = torch.randn(4500, 4, generator=torch.Generator().manual_seed(0))
    tests = Decision().test(flat, level, classes=10, votes=votes(flat, level, features)[:1])
    assert all(t.finding.p_value == 1 for t in tests)


def heavy_class(seed: int) -> tuple[Scored, Scored]:
    """43 classes with 15 calibration samples each; class 34 has a heavier tail, 7 has poison."""
    random = torch.Generator().manual_seed(seed)
    labels, own = torch.arange(5160) % 43, torch.arange(645) % 43
    scores, reference = (torch.randn(n, generator=random).abs() for n in (5160, 645))
    scores[labels == 34] *= 4
    reference[own == 34] *= 4
    scores[(labels == 7).nonzero().squeeze(1)[:30]] += 25
    return Scored(scores=scores, labels=labels), Scored(scores=reference, labels=own)


def test_a_class_of_few_trusted_samples_may_have_a_heavier_tail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def flagged() -> list[int]:
        tested = [Decision().test(*heavy_class(seed), classes=43) for seed in range(8)]
        p_values = [torch.tensor([t.finding.p_value for t in tests]).double() for tests in tested]
        return [k for p in p_values for k in (holm(p) <= 0.05).nonzero().squeeze(1).tolist()]

    found = flagged()
    assert found.count(7) == 8
    assert set(found) <= {7, 34}
    monkeypatch.setattr("assay.audits.dataset.decision._ENOUGH", 0)
    assert found.count(34) < flagged().count(34) / 2


def test_a_class_whose_calibration_is_wider_may_exceed_the_other_class() -> None:
    def some(count: int, random: torch.Generator) -> Scored:
        labels = torch.arange(count) % 2
        noise = torch.randn(count, generator=random).abs()
        return Scored(scores=noise * torch.where(labels == 1, 2.5, 1.0), labels=labels)

    found = []
    for seed in range(10):
        random = torch.Generator().manual_seed(seed)
        tests = Decision().test(some(1400, random), some(200, random), classes=2)
        found.append(min(t.finding.p_value for t in tests if t.finding.p_value is not None))
    assert sum(p_value <= 0.025 for p_value in found) <= 1


def test_a_class_is_not_measured_by_the_few_others() -> None:
    """Of two clean classes, the smaller one varies more than the larger one."""

    def some(sizes: tuple[int, int], random: torch.Generator) -> Scored:
        labels = torch.tensor([0, 1]).repeat_interleave(torch.tensor(sizes))
        noise = torch.randn(sum(sizes), generator=random).abs()
        return Scored(scores=noise * torch.where(labels == 1, 3.0, 1.0), labels=labels)

    found = 0
    for seed in range(10):
        random = torch.Generator().manual_seed(seed)
        suspects, calibration = some((1900, 100), random), some((190, 10), random)
        features = torch.randn(2200, 4, generator=random)
        features[(torch.cat([suspects.labels, calibration.labels]) == 1)] *= 3
        asked = votes(suspects, calibration, features)
        tests = Decision().test(suspects, calibration, classes=2, votes=asked)
        found += bool((holm(torch.tensor([t.p_value for t in tests]).double()) <= 0.05).any())
    assert found <= 1


def test_copies_of_one_sample_are_flagged_together() -> None:
    labels = torch.arange(4000) % 10
    random = torch.Generator().manual_seed(0)
    scores = torch.randn(4000, generator=random)
    scores[labels == 3] = 50.0
    suspects = Scored(scores=scores, labels=labels)
    calibration = Scored(scores=torch.randn(500, generator=random), labels=torch.arange(500) % 10)
    tests = Decision().test(suspects, calibration, classes=10)
    assert tests[3].p_value < 1e-6
    assert torch.equal(Decision().flag(suspects, calibration, tests, (3,)), labels == 3)


@pytest.mark.parametrize(("samples", "calibration"), [(1200, 100), (120, 15), (135, 12)])
def test_so_much_poison_is_found_for_certain(samples: int, calibration: int) -> None:
    least = Decision().found_from(samples, calibration, others=9, alpha=0.005)
    assert least is not None
    share = 0.8 if calibration >= 50 else 0.5 * 0.2  # of the false alarms, see `Decision`
    trusted = torch.linspace(0, 1, calibration)
    poisoned = torch.cat([torch.linspace(0, 1, samples - least), torch.full((least,), 2.0)])
    assert exceedance_scan(poisoned, trusted).p_value <= 0.005 * share
    fewer = torch.cat([torch.linspace(0, 1, samples - least // 2), torch.full((least // 2,), 2.0)])
    assert exceedance_scan(fewer, trusted).p_value > 0.005 * share
    assert Decision().found_from(samples, 2, others=9, alpha=0.005) is None
    lonely = Decision().found_from(samples, calibration, others=1, alpha=0.005)
    assert lonely is not None
    assert lonely <= least if calibration < 50 else lonely == least
