import pytest
import torch
from torch import nn

from assay.errors import InputError
from assay.randomness import Seed
from assay.similarity import Zest, zest_distances

ZEST = Zest(images=4, side=3, masks=40)


class _Corner(nn.Module):
    """Looks at one corner of an image and at nothing else."""

    def __init__(self, *, right: bool) -> None:
        super().__init__()
        self.right = right

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        corner = images[:, :, :4, -4:] if self.right else images[:, :, :4, :4]
        mean = corner.mean((1, 2, 3))
        return torch.stack([mean, -mean], 1)


def _images() -> torch.Tensor:
    return torch.rand(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def test_models_that_look_elsewhere_are_far_apart() -> None:
    images, seed = _images(), Seed(0)
    left, right = _Corner(right=False), _Corner(right=True)
    found = zest_distances(
        torch.stack([ZEST.signature(m, images, seed=seed) for m in (left, left, right)])
    )
    assert found[0, 1] == 0
    assert found[0, 2] > 0.5
    assert torch.equal(found, found.T)


def test_coefficients_are_those_of_a_linear_model() -> None:
    rows = torch.tensor([[1.0, 2.0, 4.0], [3.0, 1.0, 5.0]])
    model = nn.Linear(3, 2, bias=False)
    signature = Zest(images=2, side=2, masks=40).signature(model, rows, seed=Seed(0))
    assert signature.abs().max() < 1e-6, "a hidden column shows its own mean, which it is"


def test_sequences_are_described_by_which_tokens_matter() -> None:
    class First(nn.Module):
        def forward(self, tokens: torch.Tensor) -> torch.Tensor:
            return nn.functional.one_hot(tokens[:, :1].expand(-1, tokens.shape[1]), 5).float()

    tokens = torch.tensor([[3, 1, 2, 4], [2, 2, 2, 2]])
    signature = Zest(images=2, side=2, masks=40).signature(First(), tokens, seed=Seed(0))
    first = signature.reshape(2, 4, 5)[0]
    assert first[0].abs().max().item() == pytest.approx(1.0, abs=1e-6)
    assert first[1:].abs().max() < 1e-6


def test_the_global_generator_is_left_alone() -> None:
    before = torch.get_rng_state()
    ZEST.signature(_Corner(right=True), _images(), seed=Seed(0))
    assert torch.equal(before, torch.get_rng_state())


def test_too_few_masks_are_refused() -> None:
    with pytest.raises(InputError, match="masks"):
        Zest(images=4, side=3, masks=5).signature(_Corner(right=True), _images(), seed=Seed(0))
