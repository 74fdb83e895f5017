"""Rows that are read from disk when they are asked for, so that memory does not grow with data."""

import itertools
import math
import os
import pathlib
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from assay.errors import RefusedError
from assay.records import record
from assay.samples import Rows

from .files import existing

BLOCK = 8 * 2**20
"""How many bytes are read, converted or copied at once."""

MAX_ROW = 2**28
"""How many bytes one sample may have."""


class OpenFile:
    """A file that can be read at any place by any thread, and closes itself."""

    def __init__(self, handle: int, name: str) -> None:
        self.name = name
        self.size = os.fstat(handle).st_size
        self._handle = handle
        weakref.finalize(self, os.close, handle)

    @classmethod
    def at(cls, path: pathlib.Path) -> "OpenFile":
        """Open the regular file at `path`."""
        return cls(os.open(existing(path), os.O_RDONLY | os.O_CLOEXEC), str(path))

    def read(self, offset: int, count: int) -> bytearray:
        """Read exactly `count` bytes.

        Raises:
            RefusedError: the file ends before.
        """
        if not 0 <= offset <= offset + count <= self.size:
            raise RefusedError(
                f"{self.name} is truncated: expected {offset + count} bytes, got {self.size}"
            )
        content = bytearray(count)
        view, done = memoryview(content), 0
        while done < count:
            got = os.preadv(self._handle, [view[done:]], offset + done)
            if got == 0:
                raise RefusedError(f"{self.name} became shorter while it was read")
            done += got
        return content


@record
class Stretch:
    """Records of equal size, one after the other in a file."""

    file: OpenFile
    offset: int
    """Where the payload of the first record starts, in bytes."""
    count: int


@record
class FileRows:
    """Rows of fixed size in one or several files; satisfies `assay.samples.Rows`.

    Only the rows that are asked for are read, neighbours in one go and at most `BLOCK` bytes at
    once; nothing is mapped into memory.
    """

    stretches: tuple[Stretch, ...]
    stored: np.dtype[Any]
    """Type of a number in the file; uint8 stays, everything else becomes float32."""
    row: tuple[int, ...]
    """Shape of a row in the file: (height, width, channels), (height, width) or (dims,)."""
    stride: int | None = None
    """Bytes from one record to the next, or None where nothing lies between them."""
    channels_last: bool = False
    """Whether the channels of a stored row come last."""

    @property
    def shape(self) -> torch.Size:
        """Samples first: (samples, channels, height, width) or (samples, dims)."""
        count = sum(stretch.count for stretch in self.stretches)
        row = (self.row[-1], *self.row[:-1]) if self.channels_last else self.row
        return torch.Size((count, *row))

    @property
    def dtype(self) -> torch.dtype:
        """`uint8` for images, `float32` for everything else."""
        return torch.uint8 if self.stored == np.uint8 else torch.float32

    def __len__(self) -> int:
        """Count the rows."""
        return self.shape[0]

    def __getitem__(self, rows: slice | Tensor, /) -> Tensor:
        """Read some rows, by a slice, an index tensor or a mask, into a CPU tensor.

        Raises:
            IndexError: an index is outside the table.
            RefusedError: a file is shorter than it was.
        """
        wanted = self._wanted(rows)
        order = wanted.argsort(kind="stable")
        ascending = wanted[order]
        in_order = bool((order == np.arange(len(order))).all())
        kind = np.uint8 if self.dtype == torch.uint8 else np.float32
        result = np.empty((len(wanted), *self.shape[1:]), kind)
        for start, stop in self._runs(ascending):
            first, last = int(ascending[start]), int(ascending[stop - 1])
            records = self._read(first, last - first + 1)
            if len(records) != stop - start:  # some are wanted twice
                records = records[ascending[start:stop] - first]
            with np.errstate(over="ignore"):
                result[slice(start, stop) if in_order else order[start:stop]] = records
        return torch.from_numpy(result)

    def _wanted(self, rows: slice | Tensor) -> NDArray[np.int64]:
        if isinstance(rows, slice):
            return np.arange(*rows.indices(len(self)))
        index = rows.detach().cpu().numpy()
        if rows.dtype == torch.bool:
            return index.nonzero()[0]
        if len(index) and not -len(self) <= index.min() <= index.max() < len(self):
            raise IndexError(f"expected rows in [0, {len(self)}), got {index.min()}, {index.max()}")
        return np.where(index < 0, index + len(self), index).astype(np.int64)

    def _runs(self, ascending: NDArray[np.int64]) -> Iterator[tuple[int, int]]:
        """Cut rows in ascending order where the next does not follow, and into blocks."""
        if len(ascending) == 0:
            return
        ends = np.cumsum([stretch.count for stretch in self.stretches])
        stretch = np.searchsorted(ends, ascending, side="right")
        cut = (np.diff(ascending) > 1) | (np.diff(stretch) > 0)
        edges = [0, *(cut.nonzero()[0] + 1).tolist(), len(ascending)]
        block = max(1, BLOCK // self._stride)
        for start, stop in itertools.pairwise(edges):
            for piece in range(start, stop, block):
                yield piece, min(piece + block, stop)

    def _read(self, first: int, count: int) -> NDArray[Any]:
        """Read neighbouring rows of one stretch, channels first, as a view of what was read."""
        for stretch in self.stretches:
            if first < stretch.count:
                break
            first -= stretch.count
        payload = math.prod(self.row) * self.stored.itemsize
        span = (count - 1) * self._stride + payload
        raw = stretch.file.read(stretch.offset + first * self._stride, span)
        strides = (self._stride, *self._row_strides())
        table = np.ndarray((count, *self.row), self.stored, raw, strides=strides)
        return np.moveaxis(table, -1, 1) if self.channels_last else table

    @property
    def _stride(self) -> int:
        return self.stride or max(1, math.prod(self.row) * self.stored.itemsize)

    def _row_strides(self) -> tuple[int, ...]:
        sizes = [*self.row[1:], self.stored.itemsize]
        return tuple(math.prod(sizes[axis:]) for axis in range(len(self.row)))


def settle(rows: FileRows, memory_mb: int) -> Rows:
    """Read the rows into memory where they take at most `memory_mb`, and leave them otherwise."""
    fits = rows.shape.numel() * rows.dtype.itemsize <= memory_mb * 2**20
    return rows[:] if fits else rows


def spill(
    chunks: Iterable[bytes],
    *,
    stored: np.dtype[Any],
    row: tuple[int, ...],
    channels_last: bool = False,
    most: int,
) -> FileRows:
    """Write rows that came compressed to a temporary file without a name, and serve them from it.

    Args:
        chunks: whole rows, as they are stored.
        stored: as in `FileRows`.
        row: as in `FileRows`.
        channels_last: as in `FileRows`.
        most: how many bytes may come.

    Raises:
        RefusedError: more came.
    """
    with tempfile.TemporaryFile() as file:
        for chunk in chunks:
            file.write(chunk)
            if file.tell() > most:
                raise RefusedError(f"expected at most {most} bytes when unpacked, got more")
        file.flush()
        kept = OpenFile(os.dup(file.fileno()), "the unpacked copy")
    count = kept.size // max(1, math.prod(row) * stored.itemsize)
    stretch = Stretch(file=kept, offset=0, count=count)
    return FileRows(stretches=(stretch,), stored=stored, row=row, channels_last=channels_last)
