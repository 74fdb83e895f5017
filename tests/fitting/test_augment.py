import pytest
import torch

from assay.fitting import Augment
from assay.randomness import Seed, generator

CPU = torch.device("cpu")
IMAGES = torch.arange(4 * 8 * 6 * 3).reshape(4, 8, 6, 3).to(torch.uint8)
ROWS = torch.tensor([2, 0, 2, 1, 3] * 40)


def test_without_shift_the_rows_are_picked() -> None:
    picked = Augment(shift=0.0)(IMAGES, ROWS, generator=generator(Seed(1), CPU))
    assert torch.equal(picked, IMAGES[ROWS])


def test_every_image_is_a_reflected_shift_of_its_source() -> None:
    picked = Augment(shift=0.25)(IMAGES, ROWS, generator=generator(Seed(1), CPU))
    padded = torch.nn.functional.pad(IMAGES.permute(0, 3, 1, 2).float(), (1, 1, 2, 2), "reflect")
    found = set()
    for image, row in zip(picked, ROWS.tolist(), strict=True):
        offsets = [
            (down, right)
            for down in range(5)
            for right in range(3)
            if torch.equal(
                padded[row, :, down : down + 8, right : right + 6].permute(1, 2, 0), image
            )
        ]
        assert offsets, "no shift of the source gives this image"
        found.update(offsets)
    assert len(found) == 15, "not every shift occurs in 200 draws"


def test_mirrored_images_are_mirrored_and_others_are_not() -> None:
    picked = Augment(shift=0.0, mirror=True)(IMAGES, ROWS, generator=generator(Seed(1), CPU))
    source = IMAGES[ROWS]
    flipped = (picked == source.flip(2)).flatten(1).all(1)
    same = (picked == source).flatten(1).all(1)
    assert (flipped ^ same).all()
    assert 60 < int(flipped.sum()) < 140


@pytest.mark.parametrize(("share", "fewest", "most"), [(0.0, 0, 0), (0.5, 60, 130)])
def test_only_a_share_is_shifted(share: float, fewest: int, most: int) -> None:
    augment = Augment(shift=0.5, share=share)
    picked = augment(IMAGES, ROWS, generator=generator(Seed(1), CPU))
    moved = (picked != IMAGES[ROWS]).flatten(1).any(1).sum()
    assert fewest <= moved <= most
