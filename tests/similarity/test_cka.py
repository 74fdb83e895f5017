import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from assay.errors import InputError
from assay.randomness import Seed, generator
from assay.similarity import linear_cka


def features(samples: int, dims: int, seed: int = 0) -> torch.Tensor:
    random = generator(Seed(seed), torch.device("cpu"))
    return torch.randn(samples, dims, generator=random, dtype=torch.float64)


def by_kernels(x, y):
    """Eq. 3 of the paper: HSIC of linear kernels, centred by a matrix."""
    centre = torch.eye(len(x), dtype=x.dtype) - 1 / len(x)
    k, m = centre @ x @ x.T @ centre, centre @ y @ y.T @ centre
    return torch.trace(k @ m) / (torch.trace(k @ k) * torch.trace(m @ m)).sqrt()


@pytest.mark.parametrize(("dx", "dy"), [(3, 5), (40, 3), (40, 60)])
def test_agrees_with_the_definition_by_kernels(dx, dy):
    x, y = features(20, dx), features(20, dy, seed=1)
    y[:, 0] += x[:, 0]
    assert linear_cka(x, y).item() == pytest.approx(by_kernels(x, y).item(), abs=1e-9)


@given(st.integers(2, 30), st.integers(1, 40), st.integers(0, 10**6))
def test_is_symmetric_and_in_the_unit_interval(samples, dims, seed):
    x, y = features(samples, dims, seed), features(samples, 7, seed + 1)
    found = linear_cka(x, y).item()
    assert 0 <= found <= 1
    assert found == pytest.approx(linear_cka(y, x).item(), abs=1e-9)


def test_rotation_and_scale_change_nothing():
    x = features(50, 6)
    rotation = torch.linalg.qr(features(6, 6, seed=2)).Q
    assert linear_cka(x, -3 * x @ rotation + 5).item() == pytest.approx(1)


def test_unrelated_features_are_hardly_alike():
    assert linear_cka(features(4000, 5), features(4000, 5, seed=9)).item() < 0.01


def test_features_that_do_not_vary_are_like_nothing():
    assert linear_cka(torch.ones(5, 3), features(5, 3).float()).item() == 0


@pytest.mark.parametrize("samples", [7, 11, 13])
@pytest.mark.parametrize("dims", [5, 40])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equal_rows_do_not_vary_whatever_rounds(samples, dims, dtype):
    same, other = torch.full((samples, 3), 0.1, dtype=dtype), features(samples, dims).to(dtype)
    assert linear_cka(same, torch.full((samples, dims), 0.7, dtype=dtype)).item() == 0
    assert linear_cka(same, other).item() == linear_cka(other, same).item() == 0


def test_one_sample_is_refused():
    with pytest.raises(InputError, match="two samples"):
        linear_cka(torch.ones(1, 3), torch.ones(1, 3))
