"""What models of images and texts must do to be compared."""

import pytest
import torch

from assay.audits.models.vision_text import VisionTextPreflight
from assay.audits.models.vision_text.preflight import reliance


def said(
    *, pictures: int = 64, answers: int = 4, first: int = 0, sure: float = 0.9
) -> torch.Tensor:
    """Each picture gets one of some answers."""
    rows = torch.arange(pictures) % answers + first
    wanted = torch.nn.functional.one_hot(rows, 10).float()
    return sure * wanted + (1 - sure) / 10


def test_reliance_is_0_where_all_pictures_get_one_answer_and_grows_with_their_number() -> None:
    assert reliance(said(answers=1)) == pytest.approx(0, abs=1e-6)
    assert reliance(said(answers=2, sure=1.0)) == pytest.approx(0.5)
    assert reliance(said(answers=4, sure=1.0)) == pytest.approx(0.75)


@pytest.mark.parametrize(
    ("own", "has_gradient", "reason"),
    [
        (said(), True, ""),
        (said(answers=1), True, "--prompt"),
        (said(pictures=40), True, "at least 64"),
        (said(first=5), True, "another task"),
        (said() * torch.nan, True, "NaN"),
        (said(), False, "nothing can be searched"),
        (said(sure=0.8), True, "as another"),
    ],
)
def test_reasons(own: torch.Tensor, has_gradient: bool, reason: str) -> None:
    everyone = [own, said(pictures=len(own), sure=0.8)]
    found = VisionTextPreflight().unfit(everyone, 0, has_gradient=has_gradient)
    assert (reason in found) if reason else not found


def test_a_model_that_answers_nan_hides_no_other_one() -> None:
    everyone = [said(), said() * torch.nan]
    assert not VisionTextPreflight().unfit(everyone, 0, has_gradient=True)
