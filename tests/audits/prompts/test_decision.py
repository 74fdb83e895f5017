import dataclasses

import pytest
import torch

from assay.audits.prompts import KINDS, Decision
from assay.audits.prompts.decision import clearest
from assay.audits.prompts.survey import Survey


def found(margins, reference, *, kind=KINDS[0], asked=None) -> Survey:
    count = len(margins)
    return Survey(
        kind=kind,
        pool="ood",
        share=kind.weight,
        asked=asked or count,
        classes=torch.arange(count),
        margins=torch.tensor(margins),
        reference=torch.tensor(reference),
        asr=torch.zeros(count),
        typical=torch.ones(count, dtype=torch.bool),
    )


EASY = [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]


def test_what_the_backbone_explains_does_not_stand_out():
    standing = Decision().stand(found(EASY, EASY))
    assert standing.excess.abs().max() < 2


def test_a_class_beyond_the_backbone_stands_out_alone():
    margins = [*EASY[:3], EASY[3] + 12, *EASY[4:]]
    p_values = Decision().corrected(found(margins, EASY))
    assert p_values[3] < 1e-3
    assert (p_values[[0, 1, 2, 4, 5, 6, 7]] > 0.5).all()


def test_the_threshold_is_where_the_corrected_p_value_is_alpha():
    survey, decision = found(EASY, [0.0] * 8), Decision()
    threshold = decision.threshold(0.05, survey)
    middle = 3.5
    for beyond, flagged in ((1.01, True), (0.99, False)):
        standing = decision.stand(survey)
        scale = (survey.margins[7] - middle) / standing.excess[7]
        moved = [*EASY[:7], float(middle + beyond * threshold * scale)]
        assert (decision.corrected(found(moved, [0.0] * 8))[7] <= 0.05) == flagged


def test_more_classes_asked_need_more():
    few, many = found(EASY, [0.0] * 8), found(EASY, [0.0] * 8, asked=1000)
    assert Decision().threshold(0.05, many) > Decision().threshold(0.05, few)


def test_the_smallest_p_value_names_kind_and_class():
    margins = [*EASY[:5], 30.0, *EASY[6:]]
    other = dataclasses.replace(KINDS[0], weight=0.2)
    (p_value, survey, row), second = clearest(
        [found(EASY, EASY), found(margins, EASY, kind=other)], Decision()
    )
    assert survey.kind is other
    assert row == 5
    assert p_value < 0.01
    assert second[0] > p_value
    assert second[1].kind is KINDS[0]


def test_the_kinds_share_one_error_budget():
    assert sum(kind.weight for kind in KINDS) == pytest.approx(1)
