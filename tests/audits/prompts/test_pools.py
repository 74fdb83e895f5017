import pytest
import torch

from assay.audits.prompts import Source, made
from assay.randomness import Seed

every_source = pytest.mark.parametrize("source", Source)


@every_source
def test_images_are_many_and_differ(source):
    images = made(source, 300, size=24, seed=Seed(0))
    assert images.shape == (300, 3, 24, 24)
    assert images.dtype == torch.uint8
    assert len({image.numpy().tobytes() for image in images}) == 300
    assert images.float().std() > 30


@every_source
def test_the_seed_alone_decides(source):
    before = torch.get_rng_state()
    first = made(source, 20, size=16, seed=Seed(3))
    assert torch.equal(before, torch.get_rng_state()), "the global generator was used"
    assert torch.equal(first, made(source, 20, size=16, seed=Seed(3)))
    assert not torch.equal(first, made(source, 20, size=16, seed=Seed(4)))


@every_source
def test_more_images_begin_with_the_same(source):
    few, many = (made(source, count, size=16, seed=Seed(0)) for count in (256, 300))
    assert torch.equal(few, many[:256])


@every_source
def test_the_spectrum_falls_as_that_of_photographs_does(source):
    images = made(source, 64, size=32, seed=Seed(0)).double()
    spectrum = (
        torch.fft.rfft2(images - images.mean((2, 3), keepdim=True)).abs().square().mean((0, 1))
    )
    assert spectrum[1:3, 1:3].mean() > 20 * spectrum[12:16, 12:16].mean()
