import dataclasses
from collections.abc import Sequence

import pytest
import torch
from scipy.stats import t as student

from assay.audits.models import KINDS, Decision, Kind
from assay.audits.models.survey import Elimination, Survey, _kept, candidates, reference
from assay.randomness import Seed
from assay.triggers import ANY, Candidates, Pool

KIND = next(kind for kind in KINDS if kind.freedom >= 10 and not kind.by_source)
WHOLE = [kind for kind in KINDS if not kind.by_source]


def surveyed(margins: torch.Tensor, *, asked: int | None = None, kind: Kind = KIND) -> Survey:
    count = margins.shape[1]
    return Survey(
        kind=kind,
        asked=asked or count,
        candidates=Candidates(sources=torch.full((count,), ANY), targets=torch.arange(count)),
        margins=margins,
        asr=margins.sigmoid(),
        typical=torch.ones(count, dtype=torch.bool),
    )


def honest(seed: int, *, models: int = 2, count: int = 10) -> torch.Tensor:
    """Margins that depend on the class, on the model, and on chance as between honest models."""
    random = torch.Generator().manual_seed(seed)
    classes = torch.randn(count, generator=random)
    ease = 3 * torch.randn(models, 1, generator=random)
    noise = KIND.between / 2**0.5 * torch.randn(models, count, generator=random)
    return classes + ease + noise


def p_value(margins: torch.Tensor, model: int = 0) -> float:
    found, decision = surveyed(margins), Decision()
    return decision.corrected(decision.against_others(found, model), found, alone=False)


def test_the_width_of_a_task_is_learnt_over_all_kinds():
    """Where honest models lie twice as far apart, an excess twice as large is as rare."""
    usual = [surveyed(honest(seed, models=3)) for seed in range(5)]
    wide = [dataclasses.replace(s, margins=2 * s.margins) for s in usual]
    decision = Decision()
    widths = [decision.width(s, 0) for s in (usual, wide)]
    assert widths[1].between == pytest.approx(2 * widths[0].between, rel=1e-4)
    assert widths[1].within == pytest.approx(2 * widths[0].within, rel=1e-4)
    excess = [
        decision.against_others(found[0], 0, width).excess
        for found, width in zip((usual, wide), widths, strict=True)
    ]
    assert torch.allclose(*excess, rtol=1e-3)


def test_one_kind_with_a_backdoor_does_not_widen_the_others():
    surveys = [surveyed(honest(seed)) for seed in range(5)]
    planted = surveys[0].margins.clone()
    planted[0, :4] += 20
    odd = [dataclasses.replace(surveys[0], margins=planted), *surveys[1:]]
    widths = [Decision().width(s, 0).between for s in (surveys, odd)]
    assert widths[1] < 1.5 * widths[0]


def test_identical_deliveries_have_no_excess():
    found = surveyed(honest(0)[:1].expand(2, 10).clone())
    decision = Decision()
    width = decision.width([found], 0)
    standing = decision.against_others(found, 0, width)
    assert decision.corrected(standing, found, alone=False) > 0.5


def test_a_class_that_is_easy_on_all_models_does_not_stand_out():
    margins = honest(1)
    margins[:, 4] += 5 * KIND.within
    assert p_value(margins) > 0.5


def test_the_backdoor_of_the_other_model_does_not_make_one_stand_out():
    alarms = 0
    for seed in range(200):
        margins = honest(seed)
        margins[1, 3] += 15
        alarms += p_value(margins) <= 0.05
    assert alarms <= 4


def test_the_weights_of_the_kinds_share_one_budget():
    assert sum(kind.weight for kind in KINDS) == pytest.approx(1)


def test_honest_models_are_rarely_flagged():
    level = 0.05 * KIND.weight * (1 - Decision().alone_share) * (1 - Decision().together_share)
    alarms = sum(p_value(honest(seed)) <= 0.05 for seed in range(400))
    assert alarms <= 400 * level + 3 * (400 * level) ** 0.5


def test_what_makes_a_class_or_a_model_easy_to_lead_is_taken_out():
    margins = honest(1)
    moved = margins + torch.randn(10, generator=torch.Generator().manual_seed(2))
    moved[0] += 5
    assert p_value(moved) == pytest.approx(p_value(margins), rel=1e-3)


def test_a_candidate_that_one_model_alone_answers_to_stands_out():
    margins = honest(3, models=3)
    margins[1, 7] += 5
    found, decision = surveyed(margins), Decision()
    standing = decision.against_others(found, 1)
    assert int(standing.p_values.argmin()) == 7
    assert p_value(margins, 1) < 0.01
    assert p_value(margins, 0) > 0.5


def test_a_backdoor_that_both_share_shows_within_the_model_only():
    margins = torch.zeros(2, 10) + 0.1 * torch.randn(
        2, 10, generator=torch.Generator().manual_seed(0)
    )
    margins[:, 4] += 5 * KIND.within
    found, decision = surveyed(margins), Decision()
    others, alone = decision.against_others(found, 0), decision.alone(found, 0)
    assert decision.corrected(others, found, alone=False) > 0.5
    assert decision.corrected(alone, found, alone=True) < 0.05
    assert int(alone.p_values.argmin()) == 4


@pytest.mark.parametrize("models", [2, 5])
def test_at_the_threshold_the_corrected_p_value_is_alpha_over_the_models(models):
    found, decision = surveyed(honest(0)), Decision()
    threshold = decision.threshold(0.05, found, models=models)
    standing = decision.against_others(found, 0)
    shift = threshold / standing.excess.max()
    p_values = torch.from_numpy(student.sf((standing.excess * shift).double(), df=KIND.freedom))
    at = dataclasses.replace(standing, p_values=p_values)
    assert decision.corrected(at, found, alone=False) == pytest.approx(0.05 / models, rel=1e-3)


def test_candidates_that_were_only_searched_shortly_count_too():
    few, many = surveyed(honest(0)), surveyed(honest(0), asked=1000)
    decision = Decision()
    standing = decision.against_others(few, 0)
    first, second = (decision.corrected(standing, s, alone=False) for s in (few, many))
    assert second == min(1.0, 100 * first) or second == 1.0


def test_the_reference_is_the_median_of_the_others():
    values = torch.tensor([[9.0], [1.0], [2.0], [5.0]])
    assert reference(values, 0).item() == 2
    assert reference(values[:2], 0).item() == 1


def test_elimination_keeps_what_stands_out_and_some_controls():
    margins = torch.zeros(2, 500)
    margins[0, 123] = 3
    margins[1, 321] = 3
    rule = Elimination(kept=4, controls=6)
    kept, controls = _kept(margins, rule, Seed(0))
    assert {123, 321} <= set(kept.tolist())
    assert int(controls.sum()) == 6
    assert len(kept) <= 2 * (4 + 2) + 6


def test_a_model_that_answers_nan_chooses_nothing_for_the_others():
    margins = torch.zeros(3, 500)
    margins[0, 123] = 3
    margins[2] = torch.nan
    kept, _ = _kept(margins, Elimination(kept=4, controls=6), Seed(0))
    assert 123 in kept.tolist()


def test_elimination_keeps_what_all_models_share():
    margins = torch.zeros(2, 500)
    margins[:, 77] = 3
    kept, _ = _kept(margins, Elimination(kept=4, controls=6), Seed(0))
    assert 77 in kept.tolist()


def test_the_noise_is_that_of_the_controls():
    margins = honest(5, count=60)
    margins[0, :12] += 4  # kept because they stand out
    found = surveyed(margins, asked=1000)
    controls = dataclasses.replace(found, typical=torch.arange(60) >= 12)
    excess = [Decision().against_others(each, 0).excess[:12].mean() for each in (found, controls)]
    assert excess[1] > 1.2 * excess[0]


def test_sources_have_enough_images_in_both_halves():
    images = torch.zeros(30, 1, 2, 2)
    searched = Pool(images=images, labels=torch.arange(3).repeat_interleave(10))
    held = Pool(images=images, labels=torch.tensor([0] * 10 + [1] * 13 + [2] * 7))
    kind = next(kind for kind in KINDS if kind.by_source)
    found = candidates(kind, searched, held, 3, seed=Seed(0))
    assert set(found.sources.tolist()) == {0, 1}
    assert (found.sources != found.targets).all()
    assert len(found) == 4


def in_all_kinds(seed: int, *, count: int = 10) -> list[Survey]:
    """What every kind finds on two honest models, each with the tail that it has."""
    surveys = []
    for place, kind in enumerate(WHOLE):
        random = torch.Generator().manual_seed(100 * seed + place)
        uniform = torch.rand(2, count, generator=random, dtype=torch.float64)
        chance = torch.from_numpy(student.ppf(uniform, df=kind.freedom)).float()
        ease = torch.randn(count, generator=random) * kind.within
        margins = ease + chance * kind.between / 2**0.5
        surveys.append(surveyed(margins, kind=kind))
    return surveys


def together(surveys: list[Survey], model: int = 0) -> float:
    decision = Decision()
    found = decision.together(surveys, model, decision.width(surveys, model))
    assert found is not None
    return decision.corrected_together(found)


def planted(surveys: list[Survey], kinds: Sequence[int], spreads: float) -> list[Survey]:
    """Let a class of the first model stand out in some kinds, by so many of their spreads."""
    moved = []
    for place, found in enumerate(surveys):
        margins = found.margins.clone()
        margins[0, 6] += spreads * found.kind.between * (place in kinds)
        moved.append(dataclasses.replace(found, margins=margins))
    return moved


def test_honest_models_are_rarely_flagged_by_all_kinds_together():
    alarms = sum(together(in_all_kinds(seed)) <= 0.05 for seed in range(400))
    level = 0.05 * (1 - Decision().alone_share) * Decision().together_share
    assert alarms <= 400 * level + 3 * (400 * level) ** 0.5


def test_a_class_that_stands_out_a_little_in_every_kind_is_seen_together():
    surveys = planted(in_all_kinds(1), range(len(WHOLE)), 4)
    decision = Decision()
    width = decision.width(surveys, 0)
    each = [
        decision.corrected(decision.against_others(found, 0, width), found, alone=False)
        for found in surveys
    ]
    found = decision.together(surveys, 0, width)
    assert together(surveys) < 0.01 < min(each)
    assert found is not None
    assert found.targets[found.standing.p_values.argmin()] == 6


def test_a_class_that_stands_out_in_one_kind_alone_is_not_flagged_by_all_together():
    surveys = planted(in_all_kinds(1), [0], 6)
    decision = Decision()
    found, width = surveys[0], decision.width(surveys, 0)
    excess = decision.against_others(found, 0, width).excess
    assert excess[6] > 3
    assert together(surveys) > 0.05


def test_kinds_with_a_heavy_honest_tail_need_more_excess():
    heavy, light = (
        dataclasses.replace(surveyed(honest(0)), kind=dataclasses.replace(KIND, freedom=freedom))
        for freedom in (3.0, 15.0)
    )
    thresholds = [Decision().threshold(0.05, found, models=2) for found in (heavy, light)]
    assert thresholds[0] > 2 * thresholds[1]


def test_at_their_threshold_all_kinds_together_have_alpha_over_the_models():
    surveys, decision = in_all_kinds(2), Decision()
    found = decision.together(surveys, 0)
    assert found is not None
    threshold = decision.threshold_together(0.05, found, models=2)
    p_values = torch.from_numpy(student.sf([threshold] * 10, df=decision.together_freedom))
    at = dataclasses.replace(found, standing=dataclasses.replace(found.standing, p_values=p_values))
    assert decision.corrected_together(at) == pytest.approx(0.025, rel=1e-3)


def test_kinds_are_taken_together_where_all_of_them_searched_a_target():
    surveys = planted(in_all_kinds(3, count=60), range(len(WHOLE)), 5)
    rows = [torch.arange(60)[torch.arange(60) != place] for place in range(len(WHOLE))]
    some = [
        dataclasses.replace(
            found,
            asked=1000,
            candidates=found.candidates.subset(kept),
            margins=found.margins[:, kept],
            asr=found.asr[:, kept],
            typical=kept >= 20,
        )
        for found, kept in zip(surveys, rows, strict=True)
    ]
    found = Decision().together(some, 0)
    assert found is not None
    assert found.asked == 1000
    assert found.targets.tolist() == list(range(len(WHOLE), 60))
    assert found.targets[found.standing.excess.argmax()] == 6
    for place, target in zip(found.best, found.targets.tolist(), strict=True):
        assert some[place[0]].candidates.targets[place[1]] == target


def test_kinds_of_one_sort_count_once_together():
    """The same kind again, or on images of one class, adds to its own sort alone."""
    patch = next(kind for kind in WHOLE if kind.sort == "patch")
    others = [found for found in in_all_kinds(1) if found.kind is not patch]
    own = planted([surveyed(honest(4), kind=patch)], [0], 6)[0]
    pairs = torch.cartesian_prod(torch.arange(10), torch.arange(10))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    by_source = dataclasses.replace(
        own,
        kind=dataclasses.replace(patch, by_source=True),
        candidates=Candidates(sources=pairs[:, 0], targets=pairs[:, 1]),
        margins=own.margins[:, pairs[:, 1]],
        asr=own.asr[:, pairs[:, 1]],
        typical=torch.ones(len(pairs), dtype=torch.bool),
    )
    few = dataclasses.replace(by_source, candidates=by_source.candidates.subset(pairs[:, 0] < 3))
    once, again, too_few, split = (
        Decision().together([own, *more, *others], 0).standing.excess
        for more in ([], [own] * 3, [few], [by_source])
    )
    torch.testing.assert_close(again, once)
    torch.testing.assert_close(too_few, once)
    torch.testing.assert_close(split, once, atol=0.3, rtol=0.1)  # 90 candidates, another noise


def test_what_is_shown_of_all_kinds_together_works_best():
    surveys = in_all_kinds(1)
    works = [place for place, found in enumerate(surveys) if found.kind.shown][1]
    asr = surveys[works].asr.clone()
    asr[0, 6] = 1.0
    surveys[works] = dataclasses.replace(surveys[works], asr=asr)
    found = Decision().together(planted(surveys, [0], 30), 0)
    assert found is not None
    assert found.best[6] == (works, 6)
    assert all(surveys[place].kind.shown for place, _ in found.best)


def test_one_kind_is_not_taken_together():
    assert Decision().together([surveyed(honest(0))], 0) is None
    assert Decision(together_share=0.0).together(in_all_kinds(0), 0) is None
