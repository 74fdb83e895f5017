"""Encoded images of a party that is not trusted, decoded within bounds."""

import io
import warnings
from collections.abc import Callable, Iterable, Iterator

import numpy as np
from PIL import Image, ImageOps, PpmImagePlugin, TiffImagePlugin

from assay.errors import InputError, RefusedError

from .files import refusing
from .found import Reading
from .rows import FileRows, spill

SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm"}
)
MAX_PIXELS = 50_000_000
MAX_ENCODED = 2**26
"""Bytes of an encoded image."""

_PNG = b"\x89PNG\r\n\x1a\n"
_FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM")
_GREY = frozenset({"1", "L"})
_COLOUR = frozenset({"LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})

Encoded = Callable[[], Iterable[tuple[str, bytes]]]
"""Starts a pass over images, each with the name that errors call it by."""


def decode_all(encoded: Encoded, how: Reading, where: object) -> FileRows:
    """Decode images to a temporary file, in two passes: sizes first, then pixels.

    Images are grey where all of them are, and RGB otherwise; transparency is dropped. With
    `how.size` they are cut to a square around the centre and scaled (bicubic).

    Raises:
        RefusedError: an image is broken, oversized, or of another format.
        InputError: images of different sizes, and no `how.size`.
    """
    sizes: dict[tuple[int, int], str] = {}
    modes, count = set(), 0
    for name, content in encoded():
        with _opened(name, content) as image:
            sizes.setdefault(image.size, name)
            modes.add(image.mode)
        count += 1
        if len(sizes) > 1 and how.size is None:
            (a, first), (b, second) = list(sizes.items())[:2]
            raise InputError(
                f"expected images of one size in {where}, got {a[0]}x{a[1]} ({first}) and "
                f"{b[0]}x{b[1]} ({second}); name the size to scale them to"
            )
    if count == 0:
        raise RefusedError(f"expected images in {where}, got none")
    width, height = (how.size, how.size) if how.size is not None else next(iter(sizes))
    mode = "L" if modes <= _GREY else "RGB"
    row = (height, width, len(mode))
    how.bound(count, row, 1, where)
    return spill(
        _pixels(encoded, mode, how.size),
        stored=np.dtype(np.uint8),
        row=row,
        channels_last=True,
        most=how.max_mb * 2**20,
    )


def _pixels(encoded: Encoded, mode: str, size: int | None) -> Iterator[bytes]:
    for name, content in encoded():
        with refusing(f"image {name}"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of odd metadata
            with _opened(name, content) as image:
                plain = image.convert(mode)
            if size is not None:
                plain = ImageOps.fit(plain, (size, size))
        yield plain.tobytes()


def _opened(name: str, content: bytes) -> Image.Image:
    """Parse an image's header; its pixels are not decoded yet."""
    if len(content) > MAX_ENCODED:
        raise RefusedError(f"expected at most {MAX_ENCODED} bytes, got more: image {name}")
    with refusing(f"image {name}", Image.DecompressionBombError), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sizes are checked here, below Pillow's own bound
        image = Image.open(io.BytesIO(content), formats=_FORMATS)
    wide = _is_wide(image, content)
    if image.width * image.height > MAX_PIXELS or image.mode not in _GREY | _COLOUR or wide:
        raise RefusedError(
            f"expected images of at most {MAX_PIXELS} pixels with 8 bits a channel, "
            f"got {image.width}x{image.height} {image.mode}{wide * ' of 16 bits'}: {name}"
        )
    return image


def _is_wide(image: Image.Image, content: bytes) -> bool:
    """Tell whether channels have 16 bits, which Pillow would cut to 8 in silence."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        bits = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (8,))
        return any(count > 8 for count in bits)
    if isinstance(image, PpmImagePlugin.PpmImageFile):
        args = image.tile[0].args
        return isinstance(args, tuple) and isinstance(args[-1], int) and args[-1] > 255
    return content.startswith(_PNG) and content[24:25] == b"\x10"
