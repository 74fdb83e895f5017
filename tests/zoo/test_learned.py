import pytest
import torch
from torch import nn

from assay.errors import InputError
from assay.randomness import Seed
from assay_zoo.learned import UNet, in_pieces, minimise, some_of


def test_some_images_are_drawn_as_they_are() -> None:
    inputs = torch.arange(40, dtype=torch.uint8).reshape(10, 1, 2, 2)
    labels = torch.arange(10)
    data = some_of(inputs, labels, most=4, seed=Seed(1))
    (batch,) = data.ordered()
    assert len(batch.targets) == 4
    assert torch.equal(batch.inputs, inputs[batch.targets].float() / 255)
    assert len(some_of(inputs, labels, most=99, seed=Seed(1))) == 10


def test_an_objective_is_minimised_and_told_how_far_it_is() -> None:
    model, shares = nn.Linear(4, 1), []
    data = some_of(
        torch.full((8, 1, 2, 2), 255, dtype=torch.uint8),
        torch.zeros(8, dtype=torch.long),
        most=8,
        seed=Seed(1),
    )

    def objective(batch, done):
        shares.append(done)
        return (model(batch.inputs.flatten(1)).float() - 3).square().mean()

    minimise(model, data, objective, steps=200, peak_rate=0.1, seed=Seed(2))
    assert model(torch.ones(1, 4)).item() == pytest.approx(3, abs=0.1)
    assert shares == [step / 200 for step in range(200)]
    assert not model.training


def test_pieces_are_small_and_keep_no_gradients() -> None:
    seen = []

    def stamp(images):
        seen.append(len(images))
        return images + torch.ones(1, requires_grad=True)

    images = torch.rand(3, 1, 400, 400)
    stamped = in_pieces(stamp)(images)
    assert torch.equal(stamped, images + 1)
    assert not stamped.requires_grad
    assert seen == [1, 1, 1]


@pytest.mark.parametrize("size", [(2, 2), (8, 8), (13, 10), (28, 28)])
def test_a_u_net_keeps_the_size_and_sees_the_whole_image(size) -> None:
    images = torch.rand(2, 3, *size, requires_grad=True)
    drawn = UNet(3, 2, size=size)(images)
    assert drawn.shape == (2, 2, *size)
    drawn[0, 0, 0, 0].backward()
    assert images.grad[0, :, -1, -1].abs().max() > 0
    assert images.grad[1].abs().max() == 0


def test_one_image_is_too_few_to_learn_from() -> None:
    one = some_of(
        torch.zeros((1, 1, 2, 2), dtype=torch.uint8), torch.zeros(1).long(), most=1, seed=Seed(1)
    )
    with pytest.raises(InputError, match="at least two"):
        minimise(nn.Linear(4, 1), one, lambda batch, _: batch.inputs.sum(), steps=1, seed=Seed(2))


def test_no_images_are_stamped_to_no_images() -> None:
    none = torch.zeros(0, 1, 4, 4)
    assert in_pieces(lambda images: images + 1)(none).shape == none.shape
