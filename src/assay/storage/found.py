"""What every form of data set has in common: bounds, labels, and the choice of rows to keep."""

import math
import pathlib
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from torch import Tensor

from assay.errors import InputError, RefusedError
from assay.records import record
from assay.samples import Rows, Samples

from .files import refusing
from .rows import BLOCK, MAX_ROW, FileRows, settle

MAX_CLASSES = 100_000
MAX_CHANNELS = 16
_FROM_ONE = "; labels count from 0: subtract 1 from all of them"


@record
class Reading:
    """How a data set is to be read."""

    split: str | None = None
    """`train`, `test`, or None where the user named none."""
    size: int | None = None
    """Side that encoded images are cut and scaled to, or None to take them as they are."""
    memory_mb: int = 2048
    """What may be held in memory; larger inputs are read from disk when they are asked for."""
    max_mb: int = 65_536
    """What the inputs may take, unpacked."""
    columns: tuple[str, ...] | None = None
    """Those of a table, in order, as another table has them; None to take them as they are."""

    def bound(self, count: int, row: Sequence[int], itemsize: int, where: object) -> None:
        """Check the size that a file declares, before anything is allocated.

        Raises:
            RefusedError: no samples, an empty or oversized sample, or too much in all.
        """
        size = math.prod(row) * itemsize
        if count < 1 or not 0 < size <= MAX_ROW:
            raise RefusedError(
                f"expected samples of 1 to {MAX_ROW} bytes in {where}, "
                f"got {count} of {size} bytes (shape {tuple(row)})"
            )
        if count * size > self.max_mb * 2**20 or count * 8 > self.memory_mb * 2**20:
            raise RefusedError(
                f"expected at most {self.max_mb} MB (max_mb) in {where}, and {self.memory_mb} MB "
                f"(memory_mb) of labels, got {count} samples of {size} bytes"
            )


@record
class Found:
    """What a file holds, before its labels have been judged."""

    inputs: FileRows
    labels: Int64[Tensor, " samples"]
    names: tuple[str, ...] | None
    """Names of the classes, where the source tells them."""
    numbered: bool = True
    """Whether the source itself numbers its classes; if not, numbers follow the names' order."""
    ids: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None
    """Of a table."""


@runtime_checkable
class Stream(Protocol):
    """Anything that bytes can be read from: a plain file, or a compressed one."""

    def read(self, count: int, /) -> bytes:
        """Read at most `count` bytes."""
        ...


@runtime_checkable
class Form(Protocol):
    """A form of data set: a module with these three functions."""

    def recognises(self, path: pathlib.Path, /) -> bool:
        """Tell whether the file or folder is of this form, by its name and what lies in it."""
        ...

    def read(self, path: pathlib.Path, how: Reading, /) -> Found:
        """Read inputs and labels."""
        ...

    def write(
        self,
        path: pathlib.Path,
        split: str | None,
        keep: Int64[Tensor, " kept"],
        out: pathlib.Path,
        /,
    ) -> None:
        """Write the chosen samples, in ascending order, to a new file or folder of this form."""
        ...


def samples_of(
    found: Found, class_names: Sequence[str] | None, how: Reading, where: object
) -> Samples:
    """Judge the labels, check that numbers are finite, and read into memory what fits.

    Raises:
        InputError: fewer than two classes, or classes that are not among `class_names`.
        RefusedError: labels out of range, classes without samples, NaN or infinity.
    """
    labels, names = _classes(found, class_names, where)
    inputs = settle(found.inputs, how.memory_mb)
    check_finite(inputs, where, found.columns)
    return Samples(
        inputs=inputs, labels=labels, class_names=names, ids=found.ids, columns=found.columns
    )


def _classes(
    found: Found, class_names: Sequence[str] | None, where: object
) -> tuple[Int64[Tensor, " samples"], tuple[str, ...]]:
    if len(found.labels) != len(found.inputs):
        raise RefusedError(
            f"expected one label a sample in {where}, "
            f"got {len(found.labels)} labels for {len(found.inputs)} samples"
        )
    labels, names = found.labels, found.names
    if names is not None:
        check_names(names, where)
        _check_range(labels, len(names), where)
        if class_names is not None:
            labels, names = _matched(found, names, tuple(class_names), where)
    elif class_names is not None:
        names = tuple(class_names)
        labels = _placed(labels, names, where)
    else:
        names = _numbers(labels, where)
    if len(labels.unique()) < 2:
        raise InputError(f"expected at least two classes with samples in {where}, got one")
    return labels, names


def _check_range(labels: Int64[Tensor, " samples"], classes: int, where: object) -> None:
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise RefusedError(
            f"expected labels in [0, {classes}) in {where}, got {low} to {high}"
            f"{_FROM_ONE if (low, high) == (1, classes) else ''}"
        )


def _placed(
    labels: Int64[Tensor, " samples"], names: tuple[str, ...], where: object
) -> Int64[Tensor, " samples"]:
    """Find the places of numbered classes among `names`, by number where all of these are numbers.

    Folders "1" to "9" start at 1, and "10" is sorted before "2".
    """
    numbers = [
        int(name) for name in names if name.isascii() and name.isdecimal() and len(name) < 10
    ]
    if len(numbers) < len(names) or len(set(numbers)) < len(names):
        _check_range(labels, len(names), where)
        return labels
    places = {number: place for place, number in enumerate(numbers)}
    foreign = sorted(set(labels.unique().tolist()) - places.keys())
    if foreign:
        raise RefusedError(
            f"expected labels among {_some(names)} in {where}, got "
            f"{_some([str(label) for label in foreign])}"
        )
    order = torch.tensor(sorted(numbers))
    sorted_places = torch.tensor([places[number] for number in order.tolist()])
    return sorted_places[torch.searchsorted(order, labels)]


def _numbers(labels: Int64[Tensor, " samples"], where: object) -> tuple[str, ...]:
    """Name classes after their numbers; every number up to the largest must occur."""
    _check_range(labels, MAX_CLASSES, where)
    counts = labels.bincount()
    empty = (counts == 0).nonzero().flatten().tolist()
    if empty:
        raise RefusedError(
            f"expected samples of every class up to {len(counts) - 1} in {where}, got none of "
            f"{_some([str(c) for c in empty])}"
            f"{_FROM_ONE if empty == [0] else '; name the classes if that is meant'}"
        )
    return tuple(str(i) for i in range(len(counts)))


def _matched(
    found: Found, names: tuple[str, ...], wanted: tuple[str, ...], where: object
) -> tuple[Int64[Tensor, " samples"], tuple[str, ...]]:
    """Renumber labels so that they follow `wanted`, by name; by number where that has no names."""
    if found.numbered and wanted == tuple(str(i) for i in range(len(wanted))):
        _check_range(found.labels, len(wanted), where)
        return found.labels, wanted
    places = {name: place for place, name in enumerate(wanted)}
    foreign = sorted({names[i] for i in found.labels.unique().tolist()} - places.keys())
    if foreign:
        raise InputError(
            f"expected classes among {_some(wanted)} in {where}, got {_some(foreign)}; "
            "give both data sets the same class names"
        )
    return torch.tensor([places.get(name, -1) for name in names])[found.labels], wanted


def check_names(names: Sequence[str], where: object) -> None:
    """Check that class names can be shown and told apart.

    Raises:
        RefusedError: they cannot.
    """
    if not 0 < len(names) <= MAX_CLASSES:
        raise RefusedError(f"expected 1 to {MAX_CLASSES} class names in {where}, got {len(names)}")
    again = [name for name, count in Counter(names).items() if count > 1]
    if again:
        raise RefusedError(
            f"expected different class names in {where}, got {again[0]!r:.80} more than once"
        )
    odd = [name for name in names if not (0 < len(name) <= 255 and name.isprintable())]
    if odd:
        raise RefusedError(f"expected printable class names in {where}, got {odd[0]!r}")


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def check_finite(rows: Rows, where: object, columns: Sequence[str] | None = None) -> None:
    """Check, block by block, that float rows hold neither NaN nor infinity.

    Raises:
        RefusedError: they do; names the first such sample, and the column where these have names.
    """
    if rows.dtype == torch.uint8:
        return
    block = max(1, BLOCK // (4 * math.prod(rows.shape[1:])))
    for start in range(0, len(rows), block):
        bad = ~rows[start : start + block].isfinite().flatten(1)
        if bad.any():
            worst, column = bad.nonzero()[0].tolist()
            named = f", column {columns[column]!r}" if columns else ""
            raise RefusedError(
                f"expected numbers that float32 holds in {where}, got a missing value, NaN or "
                f"infinity in sample {start + worst}{named}"
            )


def image_row(shape: Sequence[int], where: object) -> tuple[int, int, int]:
    """Height, width and channels of stored images, NHWC or NHW.

    Raises:
        RefusedError: the shape is neither.
    """
    if len(shape) == 3:
        return shape[1], shape[2], 1
    if len(shape) == 4 and shape[3] <= MAX_CHANNELS and not _is_first(shape):
        return shape[1], shape[2], shape[3]
    raise RefusedError(
        f"expected images (samples, height, width[, channels <= {MAX_CHANNELS}]) in {where}, "
        f"got shape {tuple(shape)}; channels come last"
    )


def _is_first(shape: Sequence[int]) -> bool:
    """Whether channels seem to come first: images are not 1 or 3 pixels high, and wider."""
    return shape[1] in {1, 3} and shape[3] not in {1, 3, 4}


def chosen(keep: Int64[Tensor, " kept"], count: int) -> NDArray[np.int64]:
    """Check the rows to keep of `count` rows.

    Raises:
        InputError: none, repeated, or outside [0, count).
    """
    rows = keep.cpu().sort().values
    if len(rows) == 0 or int(rows[0]) < 0 or int(rows[-1]) >= count or (rows.diff() == 0).any():
        raise InputError(f"expected different rows in [0, {count}) to keep, got {len(rows)} rows")
    return rows.numpy()


def kept_records(
    stream: Stream, size: int, count: int, keep: NDArray[np.int64], where: object
) -> Iterator[bytes]:
    """Read `count` records of `size` bytes and yield those to keep, a block at a time."""
    block = max(1, BLOCK // size)
    for start in range(0, count, block):
        content = exactly(stream, min(block, count - start) * size, where)
        low, high = np.searchsorted(keep, [start, min(start + block, count)])
        if high > low:
            table = np.frombuffer(content, np.uint8).reshape(-1, size)
            yield table[keep[low:high] - start].tobytes()


def blocks(stream: Stream, count: int, where: object) -> Iterator[bytes]:
    """Read exactly `count` bytes, a block at a time."""
    for start in range(0, count, BLOCK):
        yield exactly(stream, min(BLOCK, count - start), where)


def exactly(stream: Stream, count: int, where: object) -> bytes:
    """Read exactly `count` bytes of a plain or compressed stream.

    Raises:
        RefusedError: the stream is broken or ends before.
    """
    with refusing(where):
        content = stream.read(count)
    if len(content) != count:
        raise RefusedError(f"{where} is truncated: expected {count} bytes more, got {len(content)}")
    return content
