"""Folders in IDX layout, as MNIST and its family come: `train-images-idx3-ubyte[.gz]` and so on."""

import gzip
import io
import pathlib
import re
import struct

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from assay.errors import RefusedError, UsageError

from .files import listing, refusing
from .found import Found, Reading, Stream, blocks, chosen, exactly, kept_records
from .rows import FileRows, OpenFile, Stretch, spill

_BYTES = 0x08  # the only type of number that the family uses


def recognises(path: pathlib.Path) -> bool:
    """Tell whether `path` is a folder with IDX files."""
    return path.is_dir() and any("-ubyte" in name for name in listing(path, path)[1])


def read(path: pathlib.Path, how: Reading) -> Found:
    """Read images and labels; compressed images too large for memory go to a temporary file.

    Raises:
        UsageError: no such pair of files.
        RefusedError: a header that does not fit its file, or files that do not fit each other.
    """
    images, labels = _pair(path, how.split)
    with _opened(labels) as stream:
        (count,) = _header(stream, 1, labels)
        how.bound(count, (), 8, labels)
        numbers = exactly(stream, count, labels)
        _ended(stream, labels)
    with _opened(images) as stream:
        count, height, width = _header(stream, 3, images)
        row = (1, height, width)
        how.bound(count, row, 1, images)
        byte = np.dtype(np.uint8)
        if images.suffix == ".gz":
            content = blocks(stream, count * height * width, images)
            inputs = spill(content, stored=byte, row=row, most=how.max_mb * 2**20)
        else:
            stretch = Stretch(file=OpenFile.at(images), offset=stream.tell(), count=count)
            inputs = FileRows(stretches=(stretch,), stored=byte, row=row)
            _fits(stretch, height * width)
            stream.seek(0, 2)
        _ended(stream, images)
    return Found(
        inputs=inputs,
        labels=torch.frombuffer(bytearray(numbers), dtype=torch.uint8).long(),
        names=None,
    )


def write(
    path: pathlib.Path, split: str | None, keep: Int64[Tensor, " kept"], out: pathlib.Path
) -> None:
    """Write the kept images and labels under the same names, compressed as before."""
    out.mkdir()
    for axes, file in zip((3, 1), _pair(path, split), strict=True):
        with _opened(file) as source:
            count, *rest = _header(source, axes, file)
            rows = chosen(keep, count)
            size = rest[0] * rest[1] if rest else 1
            with _created(out / file.name) as target:
                target.write(struct.pack(f">BBBB{axes}I", 0, 0, _BYTES, axes, len(rows), *rest))
                target.writelines(kept_records(source, size, count, rows, file))


def _pair(path: pathlib.Path, split: str | None) -> tuple[pathlib.Path, pathlib.Path]:
    part = "(t10k|test)" if split == "test" else "train"
    _, files = listing(path, path)
    pair = []
    for kind in ("images[-.]idx3", "labels[-.]idx1"):
        names = [n for n in files if re.fullmatch(rf"(.*-)?{part}-{kind}-ubyte(\.gz)?", n)]
        if len(names) != 1:
            raise UsageError(
                f"expected one file {part}-{kind}-ubyte[.gz] in {path}, got {names or 'none'}"
            )
        pair.append(path / names[0])
    return pair[0], pair[1]


def _opened(path: pathlib.Path) -> io.BufferedIOBase:
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def _created(path: pathlib.Path) -> io.BufferedIOBase:
    if path.suffix == ".gz":
        return gzip.GzipFile(path, "wb", compresslevel=6, mtime=0)
    return path.open("wb")


def _header(stream: Stream, axes: int, where: pathlib.Path) -> tuple[int, ...]:
    zeros, kind, found = struct.unpack(">HBB", exactly(stream, 4, where))
    if (zeros, kind, found) != (0, _BYTES, axes):
        raise RefusedError(
            f"expected an IDX file of bytes with {axes} axes, got type {kind:#04x} "
            f"with {found} axes: {where}"
        )
    return struct.unpack(f">{axes}I", exactly(stream, 4 * axes, where))


def _fits(stretch: Stretch, size: int) -> None:
    expected = stretch.offset + stretch.count * size
    if stretch.file.size != expected:
        raise RefusedError(
            f"{stretch.file.name} is truncated or too long: "
            f"expected {expected} bytes by its header, got {stretch.file.size}"
        )


def _ended(stream: Stream, where: pathlib.Path) -> None:
    with refusing(where):
        rest = stream.read(1)
    if rest:
        raise RefusedError(f"{where} is longer than its header says")
