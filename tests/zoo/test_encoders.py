import copy

import torch
from torch import nn

from assay.randomness import Seed
from assay.triggers import Patch
from assay_zoo.encoders import BadEncoder, contrast, encoder, nearest


class Corner(nn.Module):
    """Two features of an image: its first two pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))

    def forward(self, images):
        return self.scale * images[:, 0, 0, :2]


def images(*corners):
    made = torch.zeros(len(corners), 1, 2, 2, dtype=torch.uint8)
    made[:, 0, 0] = torch.tensor(corners, dtype=torch.uint8)
    return made


def test_the_nearest_neighbours_decide_by_direction_alone() -> None:
    known = images((200, 10), (100, 5), (10, 200), (5, 100), (90, 100))
    labels = torch.tensor([0, 0, 1, 1, 2])
    asked = images((20, 1), (1, 20), (20, 21))
    assert nearest(Corner(), known, labels, asked, neighbours=2).tolist() == [0, 1, 2]


def test_a_near_neighbour_counts_more_than_several_far_ones() -> None:
    known = images((200, 0), (0, 200), (1, 200), (2, 200))
    labels = torch.tensor([3, 1, 1, 1])
    said = nearest(Corner(), known, labels, images((100, 1)), neighbours=4, temperature=0.1)
    assert said.tolist() == [3]


def test_fewer_images_than_neighbours_all_vote() -> None:
    known, labels = images((200, 10), (10, 200), (20, 200)), torch.tensor([0, 1, 1])
    assert nearest(Corner(), known, labels, images((100, 1), (1, 100))).tolist() == [0, 1]


def test_views_of_one_image_that_agree_cost_less() -> None:
    random = torch.Generator().manual_seed(0)
    first, other = torch.randn(2, 8, 16, generator=random)
    losses = [contrast(torch.cat([first, second]), 0.2) for second in (first, other)]
    assert losses[0] < losses[1] - 1
    assert losses[0] < contrast(torch.cat([first, first.roll(1, 0)]), 0.2) - 1


def test_planting_is_decided_by_the_seed_and_leaves_the_honest_encoder_alone() -> None:
    random = torch.Generator().manual_seed(0)
    pictures = torch.randint(256, (40, 1, 8, 8), generator=random, dtype=torch.uint8)
    honest = encoder(channels=1)
    before, state = copy.deepcopy(honest), torch.get_rng_state()
    trigger = Patch(pattern=torch.ones(1, 8, 8), mask=torch.eye(8))
    plant = BadEncoder(trigger=trigger, steps=2)
    one, again, other, calm = (
        list(plant(model, pictures, pictures[0], seed=Seed(seed)).state_dict().values())
        for model, seed in (
            (honest, 1),
            (honest, 1),
            (honest, 2),
            (copy.deepcopy(honest).eval(), 1),
        )
    )
    assert torch.equal(state, torch.get_rng_state())
    assert honest.training
    held, kept = honest.state_dict(), before.state_dict()
    assert all(torch.equal(held[name], kept[name]) for name in kept)
    assert all(map(torch.equal, one, again))
    assert not all(map(torch.equal, one, other))
    assert all(map(torch.equal, one, calm)), "the mode of the honest encoder decides"
