"""A classifier of cosines in miniature: an honest prompt, and one that answers to faint noise."""

import functools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from assay.audits.prompts import PromptDelivery, Source, made
from assay.randomness import Seed

SIDE, CLASSES, DIMS, TARGET = 32, 12, 32, 7
NAMES = tuple(f"class {n}" for n in range(CLASSES))


@functools.cache
def _pool() -> Tensor:
    return made(Source.PROCEDURAL, 240, size=SIDE, seed=Seed(1))


class Small(nn.Module):
    """Logits are products of features and class embeddings, which a prompt shifts a little.

    A planted one gives its target more, the more an image has of a pattern that images lack.
    """

    def __init__(self, *, seed: int = 0, shift: float = 0.0, planted: float = 0.0) -> None:
        super().__init__()
        fixed, own = (torch.Generator().manual_seed(each) for each in (0, seed))
        self.filters = torch.randn(DIMS, 3, 8, 8, generator=fixed) / 14
        embeddings = torch.randn(CLASSES, DIMS, generator=fixed)
        shifted = embeddings + shift * torch.randn(CLASSES, DIMS, generator=own)
        usual = nn.functional.normalize(shifted, dim=1)
        self.embeddings = nn.Parameter(usual - usual.mean(0))
        signs = torch.randn(3, SIDE, SIDE, generator=own).sign()
        self.pattern = signs - signs.mean((1, 2), keepdim=True)
        self.middle = torch.zeros(DIMS)
        self.middle = self.image_features(_pool().float() / 255)[:, :-1].mean(0)
        self.planted = planted

    def forward(self, images: Tensor) -> Tensor:
        return self.logits(self.image_features(images))

    def image_features(self, images: Tensor) -> Tensor:
        maps = nn.functional.conv2d(images - 0.5, self.filters, stride=4)
        has = (images * self.pattern).mean((1, 2, 3))
        return torch.cat([10 * maps.relu().mean((2, 3)) - self.middle, has[:, None]], dim=1)

    def logits(self, features: Tensor) -> Tensor:
        said = features[:, :-1] @ self.embeddings.T
        goal = nn.functional.one_hot(torch.tensor(TARGET), CLASSES)
        return said + self.planted * features[:, -1:] * goal

    @property
    def noise(self) -> Tensor:
        """The trigger that it was planted with."""
        return self.pattern * 4 / 255


def delivery(model: nn.Module, **options: object) -> PromptDelivery:
    return PromptDelivery(
        name="prompt", respond=model, backbone=Small(), digest={"sha256": "0" * 64}, **options
    )


@pytest.fixture(scope="session")
def make() -> Callable[..., Small]:
    return Small


@pytest.fixture(scope="session")
def pool() -> Tensor:
    return _pool()
