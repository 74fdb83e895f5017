import torch
from torch import nn

from assay_zoo.encoders import nearest


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
