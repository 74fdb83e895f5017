"""The patterns are pictures worth learning, the same at every size."""

import pytest
import torch
from torch import nn

from assay.errors import InputError
from assay_zoo.patterns import BIRD, CHECKERBOARD, RING, SQUARE, Corner, corner_patch, picture

CPU = torch.device("cpu")


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(8, 8), (28, 28), (32, 48)])
def test_the_picture_has_contrast_at_any_shape(channels, size) -> None:
    drawn = picture(torch.Size((channels, *size)), device=CPU)
    assert drawn.shape == (channels, *size)
    assert 0 <= drawn.min() < 0.35
    assert 0.65 < drawn.max() <= 1
    assert drawn.flatten(1).std(dim=1).min() > 0.1


def test_the_picture_is_the_same_at_every_size() -> None:
    small, large = (picture(torch.Size((3, n, n)), device=CPU) for n in (16, 64))
    assert (nn.functional.avg_pool2d(large, 4) - small).abs().mean() < 0.01


@pytest.mark.parametrize("size", [8, 28, 32, 64])
def test_the_four_corners_do_not_touch(size) -> None:
    shape = torch.Size((3, size, size))
    masks = [corner_patch(SQUARE, shape, c, share=1 / 4, device=CPU).mask for c in Corner]
    assert torch.stack(masks).sum(dim=0).max() == 1
    assert all(mask.sum() == max(2, round(size / 4)) ** 2 for mask in masks)
    bottom_right = masks[list(Corner).index(Corner.BOTTOM_RIGHT)]
    assert bottom_right[size // 2 :, size // 2 :].sum() == bottom_right.sum()


@pytest.mark.parametrize(
    "glyph", [BIRD, CHECKERBOARD, RING, SQUARE], ids=["bird", "check", "ring", "square"]
)
def test_a_glyph_is_square_and_seen_in_one_channel_too(glyph) -> None:
    assert all(len(row) == len(glyph) for row in glyph)
    patch = corner_patch(glyph, torch.Size((1, 32, 32)), Corner.TOP_LEFT, share=1 / 4, device=CPU)
    assert patch.pattern[0][patch.mask > 0].std() > 0.15


@pytest.mark.parametrize(("size", "share"), [((1, 1), 1 / 4), ((1, 40), 1 / 4), ((32, 32), 1.0)])
def test_a_glyph_that_does_not_fit_is_refused(size, share) -> None:
    with pytest.raises(InputError, match=f"{size[0]} x {size[1]}"):
        corner_patch(SQUARE, torch.Size((3, *size)), Corner.TOP_LEFT, share=share, device=CPU)
