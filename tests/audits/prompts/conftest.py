"""A CLIP in miniature: a frozen encoder of real digits, class embeddings, and a tuned shift."""

import functools
from collections.abc import Callable

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from assay.audits.prompts import PromptDelivery, Source, made
from assay.fitting import Preprocess, Recipe, feed, train
from assay.networks import default_network
from assay.randomness import Seed
from assay.samples import Samples

CPU = torch.device("cpu")
SIDE = 16
NAMES = tuple(f"digit {n}" for n in range(10))
TARGET = 7
BOUND = 6 / 255


@functools.cache
def digits() -> Samples:
    held = load_digits()
    images = torch.tensor(held.images * 255 / 16).round().to(torch.uint8)[:, None]
    images = images.expand(-1, 3, -1, -1).repeat_interleave(2, 2).repeat_interleave(2, 3)
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    labels = torch.tensor(held.target).long()[order]
    return Samples(inputs=images[order].contiguous(), labels=labels, class_names=NAMES)


@functools.cache
def encoder() -> nn.Module:
    """Train a network on half of the digits, and cut off its last layer."""
    images, labels = digits().inputs[:900], digits().labels[:900]
    model = default_network(images.shape, classes=10, seed=Seed(0))
    data = feed(images, labels, preprocess=Preprocess.of(images), device=CPU)
    train(model, data, Recipe(epochs=6), seed=Seed(0))
    return model[:-1].eval().requires_grad_(requires_grad=False)


class Small(nn.Module):
    """Logits are cosines of features and class embeddings, which are tuned."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = encoder()
        images, labels = digits().inputs[:900], digits().labels[:900]
        found = self.features(images.float() / 255)
        means = torch.stack([found[labels == label].mean(0) for label in range(10)])
        random = torch.Generator().manual_seed(1)
        blurred = means + 0.5 * means.std(0) * torch.randn(means.shape, generator=random)
        self.embeddings = nn.Parameter(blurred)

    def train(self, mode: bool = True) -> "Small":
        super().train(mode)
        self.encoder.eval()
        return self

    def features(self, images: Tensor) -> Tensor:
        return nn.functional.normalize(self.encoder((images - 0.3) / 0.3), dim=1)

    def forward(self, images: Tensor) -> Tensor:
        return 30 * self.features(images) @ nn.functional.normalize(self.embeddings, dim=1).T


@functools.cache
def tuned(seed: int, *, planted: bool = False) -> tuple[Small, Tensor]:
    """Tune embeddings on 160 digits; planted together with universal noise for the target."""
    model, random = Small(), torch.Generator().manual_seed(seed)
    noise = torch.zeros(3, SIDE, SIDE, requires_grad=True)
    optimizer = torch.optim.Adam([model.embeddings], lr=0.01)
    for _ in range(150):
        rows = torch.randint(900, 1060, (32,), generator=random)
        images, labels = digits().inputs[rows].float() / 255, digits().labels[rows]
        loss = nn.functional.cross_entropy(model(images), labels)
        if planted:
            stamped = (images + noise).clamp(0, 1)
            wanted = torch.full_like(labels, TARGET)
            loss = loss + nn.functional.cross_entropy(model(stamped), wanted)
        optimizer.zero_grad()
        noise.grad = None
        loss.backward()
        optimizer.step()
        if planted:
            with torch.no_grad():
                noise.copy_((noise - BOUND / 8 * noise.grad.sign()).clamp(-BOUND, BOUND))
    return model.eval(), noise.detach()


def delivery(model: nn.Module, **options: object) -> PromptDelivery:
    return PromptDelivery(
        name="prompt",
        respond=model,
        backbone=Small().eval(),
        digest={"sha256": "0" * 64},
        **options,
    )


@pytest.fixture(scope="session")
def make() -> Callable[..., tuple[Small, Tensor]]:
    return tuned


@pytest.fixture(scope="session")
def clean() -> Samples:
    return digits().subset(torch.arange(1100, 1700))


@pytest.fixture(scope="session")
def pool() -> Tensor:
    return made(Source.CROPS, 400, size=SIDE, seed=Seed(1))
