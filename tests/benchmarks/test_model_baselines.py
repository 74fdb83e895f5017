import pytest
import torch

from assay.randomness import Seed
from assay.triggers import Pool
from model_baselines import MmBd, NeuralCleanse

SIDE, CLASSES = 8, 6


def planted(images: torch.Tensor, *, strength: float) -> torch.Tensor:
    """Six bands of the image vote for six classes; the first pixel for class 4, if planted."""
    bands = images.mean((1, 3))[:, :CLASSES] * torch.linspace(4, 5, CLASSES)
    votes = torch.nn.functional.one_hot(torch.tensor(4), CLASSES) * strength
    return bands + images[:, 0, 0, 0, None] * votes


def pool() -> Pool:
    images = torch.rand(200, 1, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    images[:, :, 0, 0] = 0
    return Pool(images=images, labels=planted(images, strength=0).argmax(1))


@pytest.mark.parametrize(
    "method", [NeuralCleanse(steps=160), MmBd(starts=4, steps=40)], ids=["cleanse", "mm-bd"]
)
def test_what_is_planted_stands_out_and_nothing_else_does(method) -> None:
    judged = [
        method(
            lambda images, strength=strength: planted(images, strength=strength),
            pool(),
            classes=CLASSES,
            seed=Seed(0),
        )
        for strength in (0.0, 30.0)
    ]
    assert judged[1].score > judged[0].score
    assert all(type(each.flagged) is bool for each in judged), "a cell stores it as JSON"
    assert judged[1].flagged
    assert judged[1].target == 4
    assert not judged[0].flagged
