import torch
from torch import nn

from assay.audits.prompts.screen import Classifier, first_order_margins

from .conftest import CLASSES, TARGET


class Linear(nn.Module):
    """Logits that are linear in pixels, so that first order is all there is."""

    def __init__(self) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(0)
        self.first = torch.randn(27, 12, generator=random)
        self.last = torch.randn(12, 2, generator=random)

    def image_features(self, images):
        return images.flatten(1) @ self.first

    def logits(self, features):
        return features @ self.last

    def forward(self, images):
        return self.logits(self.image_features(images))


def test_it_is_exact_for_two_linear_classes():
    model = Linear()
    images = torch.rand(5, 3, 3, 3, generator=torch.Generator().manual_seed(1))
    found = first_order_margins(model, images, classes=2, bound=0.01)
    said = model(images)
    pull = model.first @ (model.last[:, 0] - model.last[:, 1])
    gain = 0.01 * pull.abs().sum()
    margin = (said[:, 0] - said[:, 1]).mean()
    assert torch.allclose(found, torch.stack([margin + gain, gain - margin]), rtol=1e-5)


def test_the_planted_class_comes_first(make, pool):
    model = make(seed=3, shift=0.2, planted=200.0)
    assert isinstance(model, Classifier)
    images = pool[:16].float() / 255
    found = first_order_margins(model, images, classes=CLASSES, bound=4 / 255)
    assert int(found.argmax()) == TARGET
    honest = first_order_margins(make(), images, classes=CLASSES, bound=4 / 255)
    assert found[TARGET] - honest[TARGET] > 3 * (found - honest).abs().median()


def test_few_directions_change_little(make, pool):
    model, images = make(seed=3, shift=0.2), pool[:8].float() / 255
    whole, part = (
        first_order_margins(model, images, classes=CLASSES, bound=4 / 255, rank=rank)
        for rank in (64, 9)
    )
    assert torch.corrcoef(torch.stack([whole, part]))[0, 1] > 0.95
