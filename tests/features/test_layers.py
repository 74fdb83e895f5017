import torch
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

from assay.features import activations
from assay.networks import resnet

IMAGES = torch.rand(5, 3, 16, 16)


def test_depths_are_places_in_the_order_of_modules():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2), nn.Tanh())
    rows = torch.rand(3, 4)
    found = activations(model, lambda: model(rows), samples=3, depths=(0.25, 1.0))
    assert list(found) == ["25%", "100%"]
    assert torch.equal(found["25%"], model[0](rows))
    assert torch.equal(found["100%"], model(rows))


def test_maps_are_averaged_over_places():
    model = resnet(classes=4).eval()
    found = activations(model, lambda: model(IMAGES), samples=5)
    assert all(value.ndim == 2 and len(value) == 5 for value in found.values())


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
