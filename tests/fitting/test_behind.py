import sys

import pytest
import torch
from torch import nn

from assay.fitting import Behind, Preprocess, answers, behind

CPU = torch.device("cpu")


class Seen(nn.Module):
    """Answers with the mean of each channel, and remembers the size of what it saw."""

    def forward(self, images):
        self.size = tuple(images.shape[-2:])
        return images.mean((2, 3))


def test_images_are_standardised_and_resized_as_the_model_wants() -> None:
    model = Seen()
    respond = behind(model, Preprocess(mean=(0.5, 0.25), std=(0.5, 0.25), size=6), CPU)
    images = torch.ones(3, 2, 8, 8)
    assert torch.allclose(respond(images), torch.tensor([[1.0, 3.0]]).expand(3, 2))
    assert model.size == (6, 6)


def test_images_keep_their_size_and_gradients_where_nothing_is_said() -> None:
    model = Seen()
    images = torch.rand(2, 1, 8, 4).requires_grad_()
    behind(model, Preprocess(mean=(0.0,), std=(0.5,)), CPU)(images).sum().backward()
    assert model.size == (8, 4)
    assert torch.allclose(images.grad, torch.full_like(images, 2 / 32))


def test_the_module_trains_the_model_behind_it() -> None:
    inner = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    whole = Behind(inner, Preprocess(mean=(0.5,), std=(0.5,)), CPU)
    images = torch.rand(3, 1, 2, 2)
    assert torch.equal(whole(images), inner((images - 0.5) / 0.5))
    assert {id(p) for p in whole.parameters()} == {id(p) for p in inner.parameters()}
    whole.train()
    assert inner.training


def test_answers_are_the_same_in_batches() -> None:
    images = torch.rand(7, 2, 3, 3)
    respond = behind(Seen(), Preprocess(mean=(0.0, 0.0), std=(1.0, 1.0)), CPU)
    assert torch.equal(answers(respond, images, batch=3), respond(images))


class Counting(nn.Module):
    """Answers with the mean of each channel, and remembers how many images came at once."""

    def __init__(self) -> None:
        super().__init__()
        self.counts: list[int] = []

    def forward(self, images):
        self.counts.append(len(images))
        return images.mean((2, 3))


def test_many_large_images_are_asked_about_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["assay.fitting.behind"], "_PIXELS", 4 * 8**2)
    model, images = Counting(), torch.rand(10, 1, 8, 8)
    respond = behind(model, Preprocess(mean=(0.0,), std=(1.0,)), CPU)
    with torch.no_grad():
        assert torch.allclose(respond(images), images.mean((2, 3)))
    assert model.counts == [4, 4, 2]
    model.counts.clear()
    respond(images.requires_grad_()).sum().backward()
    assert model.counts == [10], "a search divides its candidates itself"


@pytest.mark.parametrize("shape", [(4, 16), (16, 4)])
def test_both_sides_count_in_the_size_of_a_part(
    monkeypatch: pytest.MonkeyPatch, shape: tuple[int, int]
) -> None:
    monkeypatch.setattr(sys.modules["assay.fitting.behind"], "_PIXELS", 4 * 8**2)
    model = Counting()
    with torch.no_grad():
        behind(model, Preprocess(mean=(0.0,), std=(1.0,)), CPU)(torch.rand(10, 1, *shape))
    assert model.counts == [4, 4, 2]


def test_grey_images_are_shown_three_times_to_a_model_of_three_channels() -> None:
    model = Counting()
    ready = Preprocess(mean=(0.0, 0.5, 1.0), std=(1.0, 1.0, 1.0))
    said = behind(model, ready, CPU)(torch.ones(2, 1, 4, 4))
    assert torch.allclose(said, torch.tensor([[1.0, 0.5, 0.0]]).expand(2, 3))
