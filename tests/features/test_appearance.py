import importlib

import pytest
import torch

from assay.features import appearance
from assay.fitting import Preprocess, feed

module = importlib.import_module("assay.features.appearance")
CPU = torch.device("cpu")


def laid_out(inputs: torch.Tensor) -> torch.Tensor:
    plain = Preprocess(mean=(0.0,) * inputs.shape[1], std=(1.0,) * inputs.shape[1])
    labels = torch.zeros(len(inputs)).long()
    return appearance(feed(inputs, labels, preprocess=plain, device=CPU))


def images(*shape: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, shape, generator=random, dtype=torch.uint8)


def test_small_images_are_kept_whole_with_their_contrast() -> None:
    inputs = images(600, 3, 9, 7)  # of more than one batch
    inputs[0, :, 2:5, 2:5] = 90
    found = laid_out(inputs)
    assert found.shape == (600, 4 * 63)
    assert torch.allclose(found[:, :189], inputs.flatten(1) / 255, atol=1e-6)
    contrast = found[0, 189:].view(9, 7)
    assert contrast[2:4, 2:4] == pytest.approx(torch.tensor(0.04).log().expand(2, 2))
    assert contrast[0, 0].exp() > 0.1


@pytest.mark.parametrize("shape", [(5, 3, 64, 48), (5, 1, 200, 40), (5, 12, 40, 40)])
def test_large_images_are_averaged_over_cells(shape: tuple[int, ...]) -> None:
    found = laid_out(images(*shape))
    assert 0 < found.shape[1] <= 4096
    flat = laid_out(torch.full(shape, 51, dtype=torch.uint8))
    pixels = flat.shape[1] * shape[1] // (shape[1] + 1)
    assert torch.allclose(flat[:, :pixels], torch.tensor(0.2))


def test_many_samples_get_larger_cells(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_MOST_VALUES", 100 * 64)
    assert laid_out(images(100, 3, 32, 32)).shape == (100, 4 * 4 * 4)
    assert laid_out(images(9000, 3, 32, 32)[:, :, :2, :2]).shape == (9000, 4)  # never none


def test_one_pixel_has_no_neighbours() -> None:
    assert laid_out(images(4, 2, 1, 1)).isfinite().all()
