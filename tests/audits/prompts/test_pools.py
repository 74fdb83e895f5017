import pytest
import torch

from assay.audits.prompts import Source, made
from assay.errors import InputError
from assay.randomness import Seed

every_source = pytest.mark.parametrize("source", Source)


def task(size, count=60):
    """Smooth images of noise, of which no two are the same."""
    coarse = torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    smooth = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bicubic")
    return (127 + 60 * smooth).clamp(0, 255).to(torch.uint8)


@every_source
def test_images_are_many_and_differ(source):
    images = made(source, 300, size=24, seed=Seed(0), task=task(24))
    assert images.shape == (300, 3, 24, 24)
    assert images.dtype == torch.uint8
    assert len({image.numpy().tobytes() for image in images}) == 300
    assert images.float().std() > 30


@every_source
def test_the_seed_alone_decides(source):
    before = torch.get_rng_state()
    first = made(source, 20, size=16, seed=Seed(3), task=task(16))
    assert torch.equal(before, torch.get_rng_state()), "the global generator was used"
    assert torch.equal(first, made(source, 20, size=16, seed=Seed(3), task=task(16)))
    assert not torch.equal(first, made(source, 20, size=16, seed=Seed(4), task=task(16)))


@every_source
def test_more_images_begin_with_the_same(source):
    few, many = (made(source, count, size=16, seed=Seed(0), task=task(16)) for count in (256, 300))
    assert torch.equal(few, many[:256])


@every_source
def test_the_spectrum_falls_as_that_of_photographs_does(source):
    images = made(source, 64, size=32, seed=Seed(0), task=task(32)).double()
    spectrum = (
        torch.fft.rfft2(images - images.mean((2, 3), keepdim=True)).abs().square().mean((0, 1))
    )
    assert spectrum[1:3, 1:3].mean() > 20 * spectrum[12:16, 12:16].mean()


def test_every_piece_of_a_mosaic_stays_where_it_was():
    images = torch.arange(50, dtype=torch.uint8)[:, None, None, None].expand(50, 3, 10, 10).clone()
    images[..., :2, :2] += 100
    found = made(Source.MOSAICS, 40, size=10, seed=Seed(0), task=images)
    assert (found[..., :2, :2] >= 100).all(), "a corner lies elsewhere"
    assert (found[..., 2:, :] < 50).all()
    pieces = [found[:, 0, y, x] for y in (0, 2, 5, 7) for x in (0, 2, 5, 7)]
    assert all(len(piece.unique()) > 15 for piece in pieces)
    assert all(not torch.equal(pieces[0] % 100, other) for other in pieces[1:]), (
        "one image a mosaic"
    )


@pytest.mark.parametrize("images", [None, task(16, count=49)])
def test_mosaics_want_images_to_be_cut_from(images):
    with pytest.raises(InputError, match="expected 50 images of the task"):
        made(Source.MOSAICS, 20, size=16, seed=Seed(0), task=images)
