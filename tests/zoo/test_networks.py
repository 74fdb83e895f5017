import inspect

import pytest
import torch

from assay.fitting import logits_of
from assay_zoo.networks import NETWORKS


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_images_in_logits_out(name: str, channels: int) -> None:
    make = NETWORKS[name]
    known = {"classes": 7, "channels": channels, "size": 32}
    taken = {k: v for k, v in known.items() if k in inspect.signature(make).parameters}
    model = make(**taken).eval()
    images = torch.rand(4, channels, 32, 32)
    assert logits_of(model(images)).shape == (4, 7)
    weights = sum(parameter.numel() for parameter in model.parameters())
    assert weights < 1_000_000
