import pytest
import torch

from assay.audits.prompts import Preflight
from assay.audits.prompts.preflight import different, shared_images


def answers(count: int = 240, classes: int = 6) -> torch.Tensor:
    return torch.randn(count, classes, generator=torch.Generator().manual_seed(0))


def test_a_usual_pool_passes():
    assert Preflight().pool(answers(), answers(), has_gradient=True) == ""


@pytest.mark.parametrize(
    ("said", "has_gradient", "reason"),
    [
        (answers(classes=3), True, "4 classes"),
        (answers(count=199), True, "200 different out-of-distribution"),
        (answers().index_fill(0, torch.tensor([3]), torch.nan), True, "NaN"),
        (answers()[:1].expand(240, -1), True, "same answer"),
        (answers(), False, "small changes"),
    ],
)
def test_what_carries_no_verdict_is_named(said, has_gradient, reason):
    found = Preflight().pool(said, answers(*said.shape), has_gradient=has_gradient)
    assert reason in found


def test_a_pool_that_the_backbone_takes_for_one_class_overlaps():
    one = answers() + 9 * torch.eye(6)[2]
    assert "overlaps" in Preflight().pool(answers(), one, has_gradient=True)
    assert Preflight().pool(one, answers(), has_gradient=True) == "", "left to the search"


LABELS = torch.arange(200) % 6


def right_on(rows: range) -> torch.Tensor:
    """Give logits that are right on some of 200 samples, and wrong on the others."""
    said = torch.nn.functional.one_hot((LABELS + 1) % 6, 6)
    said[rows] = torch.nn.functional.one_hot(LABELS[rows], 6)
    return said.float()


@pytest.mark.parametrize(
    ("tuned", "by_hand", "reason"),
    [
        (range(120), range(100), ""),
        (range(194), range(194), ""),
        (range(193), range(194), ""),
        (range(6, 200), range(195), ""),
        (range(7, 200), range(200), "no chance"),
        (range(194), range(6, 200), ""),
        (range(179), range(179), "brought nothing"),
        (range(180), range(180), ""),
        (range(110), range(150), "right and a prompt written by hand 150, which is no chance"),
        (range(40), range(30), "gets 40 of 200 clean samples right, which is no better than"),
    ],
)
def test_a_prompt_that_does_not_do_the_task_is_doubted(tuned, by_hand, reason):
    found = Preflight().clean(right_on(tuned), right_on(by_hand), LABELS)
    assert reason in found if reason else found == ""


def test_images_of_the_pool_among_the_clean_ones_are_counted():
    images = torch.randint(0, 256, (9, 3, 4, 4), generator=torch.Generator().manual_seed(0)).byte()
    assert shared_images(images[:6], images[4:]) == 2
    assert shared_images(images[:4], images[4:]) == 0


@pytest.mark.parametrize(
    ("tuned", "by_hand", "doubted"),
    [
        (range(150), range(150), False),
        (range(30), range(150), False),
        (range(150), range(30), False),
        (range(30), range(30), True),
    ],
)
def test_labels_are_doubted_where_they_fit_neither_prompt(tuned, by_hand, doubted):
    assert Preflight().doubts_labels(right_on(tuned), right_on(by_hand), LABELS) is doubted


def test_copies_are_left_out_in_order():
    images = torch.randint(0, 256, (5, 3, 4, 4), generator=torch.Generator().manual_seed(0)).byte()
    assert torch.equal(different(images[[3, 1, 3, 0, 1]]), images[[3, 1, 0]])
    assert different(images) is images
