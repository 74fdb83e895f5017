import pytest
import torch

from assay.audits.prompts import Preflight
from assay.audits.prompts.preflight import shared_images


def answers(count: int = 240, classes: int = 6) -> torch.Tensor:
    return torch.randn(count, classes, generator=torch.Generator().manual_seed(0))


def test_a_usual_pool_passes():
    assert Preflight().pool(answers(), answers(), has_gradient=True) == ""


@pytest.mark.parametrize(
    ("said", "has_gradient", "reason"),
    [
        (answers(classes=3), True, "4 classes"),
        (answers(count=199), True, "200 out-of-distribution"),
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


def test_the_prompt_must_beat_the_backbone():
    labels = torch.arange(240) % 6
    right = torch.nn.functional.one_hot(labels, 6).float()
    assert Preflight().clean(right, answers(), labels) == ""
    assert "written by hand 240" in Preflight().clean(answers(), right, labels)
    assert Preflight().clean(right, right, labels) != "", "equal is not better"


def test_images_of_the_pool_among_the_clean_ones_are_counted():
    images = torch.randint(0, 256, (9, 3, 4, 4), generator=torch.Generator().manual_seed(0)).byte()
    assert shared_images(images[:6], images[4:]) == 2
    assert shared_images(images[:4], images[4:]) == 0
