import pytest
import torch
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

from assay.features import activations

IMAGES = torch.rand(5, 3, 16, 16)


def test_depths_are_places_in_the_order_of_modules():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2), nn.Tanh())
    rows = torch.rand(3, 4)
    found = activations(model, lambda: model(rows), samples=3, depths=(0.25, 1.0))
    assert list(found) == ["25%", "100%"]
    assert torch.equal(found["25%"], model[0](rows))
    assert torch.equal(found["100%"], model(rows))


def test_maps_are_averaged_over_places():
    model = nn.Sequential(nn.Conv2d(3, 6, 3, 2), nn.Flatten(2), nn.Linear(49, 4))
    found = activations(model, lambda: model(IMAGES), samples=5, depths=(1 / 3, 1.0))
    with torch.no_grad():
        maps, tokens = model[0](IMAGES), model(IMAGES)
    assert torch.equal(found["33%"], maps.mean((2, 3)))
    assert torch.equal(found["100%"], tokens.mean(1))


class Channels(nn.Module):
    """A convolution and its channels put last, as ConvNeXt does for normalisation."""

    def __init__(self, channels: int):
        super().__init__()
        self.stem = nn.Conv2d(3, channels, 4, 4)
        self.norm, self.back = nn.LayerNorm(channels), nn.Identity()

    def forward(self, images):
        return self.back(self.norm(self.stem(images).permute(0, 2, 3, 1)).permute(0, 3, 1, 2))


def test_channels_that_lie_last_are_no_places():
    model = Channels(6)
    found = activations(model, lambda: model(IMAGES), samples=5, depths=(2 / 3, 1.0))
    with torch.no_grad():
        expected = model(IMAGES).mean((2, 3))
    assert torch.allclose(found["67%"], expected, atol=1e-6)
    assert torch.allclose(found["100%"], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("channels", "size"),
    [(4, (16, 16)), (4, (16, 24)), (6, (16, 24)), (6, (24, 16)), (4, (24, 16))],
)
def test_channels_that_lie_first_stay_there(channels, size):
    model, images = nn.Sequential(nn.Conv2d(3, channels, 4, 4)), torch.rand(5, 3, *size)
    found = activations(model, lambda: model(images), samples=5, depths=(1.0,))
    with torch.no_grad():
        assert torch.equal(found["100%"], model(images).mean((2, 3)))


def test_what_follows_in_place_changes_nothing():
    model, rows = nn.Sequential(nn.Linear(4, 8), nn.ReLU(inplace=True)), torch.rand(3, 4)
    found = activations(model, lambda: model(rows), samples=3, depths=(0.5,))
    with torch.no_grad():
        assert torch.equal(found["50%"], model[0](rows))
        assert found["50%"].min() < 0


def test_transformers_too():
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        image_size=16, patch_size=8, num_labels=3,
    )  # fmt: skip
    model = ViTForImageClassification(config).eval()
    found = activations(model, lambda: model(IMAGES), samples=5)
    assert found["100%"].shape == (5, 3)
    assert all(value.ndim == 2 and len(value) == 5 for value in found.values())


def test_hooks_are_taken_off():
    model = nn.Sequential(nn.Linear(4, 2))
    activations(model, lambda: model(torch.rand(2, 4)), samples=2)
    assert not model[0]._forward_hooks


def test_outputs_with_another_number_of_rows_do_not_count():
    class Windows(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 3), nn.Linear(3, 2)

        def forward(self, rows):
            return self.second(self.first(rows.repeat(2, 1))[::2])

    model = Windows()
    found = activations(model, lambda: model(torch.rand(6, 4)), samples=6, depths=(1.0,))
    assert found["100%"].shape == (6, 2)


def test_nothing_where_too_few_modules_can_be_seen():
    model = nn.Sequential(nn.Linear(4, 2))
    assert activations(model, lambda: model(torch.rand(2, 4)), samples=2) == {}


def test_nothing_of_what_is_not_finite():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2))
    rows = torch.full((3, 4), torch.nan)
    assert activations(model, lambda: model(rows), samples=3) == {}
