"""Out-of-distribution images that are made on the spot, for a user who has none."""

import enum
import itertools
import math

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from assay.errors import InputError
from assay.randomness import Seed, child, generator

_CPU = torch.device("cpu")
_SHAPES = 4  # of one image
_SMALLEST, _LARGEST = 0.15, 1.0  # side of a crop, as a share of the photograph's shorter side
_PIECES = 4  # a side of a mosaic
_FEWEST_TO_CUT = 50


class Source(enum.StrEnum):
    """Where images that are made on the spot come from."""

    PROCEDURAL = "procedural"
    """Coloured noise of all scales, waves and shapes."""
    CROPS = "crops"
    """Crops of the two photographs that come with scikit-learn: a temple, a flower."""
    MOSAICS = "mosaics"
    """Pieces of images of the task, put together anew."""


def made(
    source: Source,
    count: int,
    *,
    size: int,
    seed: Seed,
    task: UInt8[Tensor, "images 3 {size} {size}"] | None = None,
) -> UInt8[Tensor, "count 3 {size} {size}"]:
    """Make images that belong to no class in particular.

    Args:
        source: what they are made of.
        count: how many.
        size: side, in pixels.
        seed: decides all of them.
        task: images that mosaics are cut from; the other sources need none.

    Returns:
        RGB images.

    Raises:
        InputError: there are no images to cut mosaics from, or too few.
    """
    if source is Source.MOSAICS:
        given = 0 if task is None else len(task)
        if task is None or given < _FEWEST_TO_CUT:
            raise InputError(
                f"expected {_FEWEST_TO_CUT} images of the task or more to cut mosaics from, got "
                f"{given}; use other out-of-distribution images"
            )
        return mosaics(task, count, seed=child(seed, source.value))
    make = procedural if source is Source.PROCEDURAL else crops
    parts = [
        make(min(256, count - first), size=size, seed=child(seed, source.value, first))
        for first in range(0, count, 256)
    ]
    return (torch.cat(parts) * 255).round().to(torch.uint8)


def beside_mosaics(
    name: str,
    images: UInt8[Tensor, "_ 3 height width"],
    task: UInt8[Tensor, "_ 3 height width"] | None,
    *,
    most: int,
    seed: Seed,
) -> dict[str, UInt8[Tensor, "_ 3 height width"]]:
    """Lay out the pools of an audit: what the user chose, and mosaics of images of the task.

    Args:
        name: of what the user chose.
        images: out-of-distribution images.
        task: images of the task; without them, or with fewer than 50, there are no mosaics.
        most: mosaics.
        seed: decides them.
    """
    pools = {name: images}
    if task is not None and len(task) >= _FEWEST_TO_CUT and name != Source.MOSAICS:
        pools[Source.MOSAICS.value] = mosaics(task, most, seed=child(seed, Source.MOSAICS.value))
    return pools


def mosaics(
    images: UInt8[Tensor, "images 3 height width"], count: int, *, seed: Seed
) -> UInt8[Tensor, "{count} 3 height width"]:
    """Put 4 x 4 pieces of different images together, each where it was in its own.

    They show no object, and look like the task's images otherwise: in colour, brightness, grain
    and background, on which it depends whether a trigger works. Those for grey pictures on black
    (BadCLIP, Fashion-MNIST, three learners) led 0 % of colour photographs to their class, 82 to
    96 % of the task's images, and 95 to 98 % of mosaics of these (design note 0013).
    """
    random = generator(seed, _CPU)
    rows = torch.randint(len(images), (count, _PIECES, _PIECES), generator=random)
    height, width = images.shape[2:]
    tops = [height * piece // _PIECES for piece in range(_PIECES + 1)]
    lefts = [width * piece // _PIECES for piece in range(_PIECES + 1)]
    whole = images.new_empty(count, 3, height, width)
    for i, j in itertools.product(range(_PIECES), repeat=2):
        place = (..., slice(tops[i], tops[i + 1]), slice(lefts[j], lefts[j + 1]))
        whole[place] = images[place][rows[:, i, j]]
    return whole


def procedural(count: int, *, size: int, seed: Seed) -> Float[Tensor, "count 3 {size} {size}"]:
    """Mix noise whose spectrum falls as that of photographs does with waves and flat shapes.

    Values lie in [0, 1].

    Source:
        Noise with a power-law spectrum and "dead leaves" of flat shapes: Baradad et al., "Learning
        to see by looking at noise", NeurIPS 2021, arXiv:2106.05963.
    """
    random = generator(seed, _CPU)
    falls = 1 + torch.rand(count, 1, 1, 1, generator=random)
    images = _spectral(torch.randn(count, 3, size, size, generator=random), falls)
    images = images + _waves(count, size, random)
    low, high = images.amin((2, 3), keepdim=True), images.amax((2, 3), keepdim=True)
    images = (images - low) / (high - low).clamp(min=1e-6)
    for _ in range(_SHAPES):
        images = _with_shape(images, random)
    return images.clamp(0, 1)


def crops(count: int, *, size: int, seed: Seed) -> Float[Tensor, "count 3 {size} {size}"]:
    """Cut squares of many sizes out of scikit-learn's two photographs, half of them mirrored.

    Values lie in [0, 1]. Colours are turned at random, so that they tell little.
    """
    from sklearn.datasets import load_sample_images

    photographs = [torch.tensor(image).permute(2, 0, 1) for image in load_sample_images().images]
    random = generator(seed, _CPU)
    drawn = torch.rand(count, 5, generator=random)
    colours = torch.stack([torch.randperm(3, generator=random) for _ in range(count)])
    made_images = torch.empty(count, 3, size, size)
    for row, (which, side, top, left, mirrored) in enumerate(drawn.tolist()):
        photograph = photographs[int(which * len(photographs))]
        height, width = photograph.shape[1:]
        edge = max(8, int((_SMALLEST + (_LARGEST - _SMALLEST) * side) * min(height, width)))
        y, x = int(top * (height - edge)), int(left * (width - edge))
        cut = photograph[colours[row], y : y + edge, x : x + edge].float() / 255
        cut = cut.flip(2) if mirrored < 0.5 else cut
        made_images[row] = nn.functional.interpolate(
            cut[None], size=(size, size), mode="bilinear", antialias=True
        )[0]
    return made_images.clamp(0, 1)


def _spectral(noise: Tensor, falls: Tensor) -> Tensor:
    """Give white noise a spectrum that falls with the frequency, to the power of `falls`."""
    size = noise.shape[-1]
    rows, columns = torch.fft.fftfreq(size)[:, None], torch.fft.rfftfreq(size)[None]
    frequency = (rows**2 + columns**2).sqrt().clamp(min=1 / size)
    shaped = torch.fft.irfft2(torch.fft.rfft2(noise) / frequency**falls, s=(size, size))
    return shaped / shaped.flatten(1).std(1).clamp(min=1e-6).view(-1, 1, 1, 1)


def _waves(count: int, size: int, random: torch.Generator) -> Tensor:
    """Draw one coloured plane wave an image, of a random strength."""
    angle, waves, phase, strength = torch.rand(4, count, 1, 1, 1, generator=random)
    places = torch.linspace(-1, 1, size)
    along = places[:, None] * torch.sin(math.tau * angle) + places * torch.cos(math.tau * angle)
    colour = torch.randn(count, 3, 1, 1, generator=random)
    return 2 * strength * colour * torch.sin(math.pi * (1 + 7 * waves) * along + math.tau * phase)


def _with_shape(images: Tensor, random: torch.Generator) -> Tensor:
    """Put a flat ellipse or box of one colour on half of the images."""
    count, size = len(images), images.shape[-1]
    centre, half = torch.rand(2, 2, count, 1, 1, generator=random)
    places = torch.linspace(0, 1, size)
    apart = [
        (axis - centre[i]).abs() / (0.05 + 0.3 * half[i])
        for i, axis in enumerate((places[:, None], places))
    ]
    is_box, is_there = torch.rand(2, count, 1, 1, generator=random) < 0.5
    inside = torch.where(is_box, torch.maximum(*apart), apart[0].square() + apart[1].square()) < 1
    colour = torch.rand(count, 3, 1, 1, generator=random)
    return torch.where((inside & is_there)[:, None], colour, images)
