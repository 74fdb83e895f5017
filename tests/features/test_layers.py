import pytest
import torch
from torch import nn
from transformers import ViTConfig, ViTForImageClassification

from assay.errors import InputError
from assay.features import activations
from assay.networks import resnet

IMAGES = torch.rand(5, 3, 16, 16)


def test_depths_are_places_in_the_order_of_modules():
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2), nn.Tanh())
    rows = torch.rand(3, 4)
    found = activations(model, lambda: model(rows), depths=(0.25, 1.0))
    assert list(found) == ["25%", "100%"]
    assert torch.equal(found["25%"], model[0](rows))
    assert torch.equal(found["100%"], model(rows))


def test_maps_are_averaged_over_places():
    model = resnet(classes=4).eval()
    found = activations(model, lambda: model(IMAGES))
    assert all(value.ndim == 2 and len(value) == 5 for value in found.values())


def test_transformers_too():
    config = ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16,
        image_size=16, patch_size=8, num_labels=3,
    )  # fmt: skip
    model = ViTForImageClassification(config).eval()
    found = activations(model, lambda: model(IMAGES))
    assert found["100%"].shape == (5, 3)
    assert all(value.ndim == 2 and len(value) == 5 for value in found.values())


def test_hooks_are_taken_off():
    model = nn.Sequential(nn.Linear(4, 2))
    activations(model, lambda: model(torch.rand(2, 4)))
    assert not model[0]._forward_hooks


def test_a_model_without_modules_is_refused():
    class Bare(nn.Module):
        def forward(self, x):
            return x

    model = Bare()
    with pytest.raises(InputError, match="modules"):
        activations(model, lambda: None)
