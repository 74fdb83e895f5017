"""Folders in CIFAR-10 binary layout: records of one label byte and 3 x 32 x 32 pixel bytes."""

import pathlib

import numpy as np
from jaxtyping import Int64
from torch import Tensor

from assay.errors import RefusedError, UsageError

from .files import copy, listing, read_bounded, refusing
from .found import Found, Reading, chosen, kept_records
from .rows import FileRows, OpenFile, Stretch

_RECORD = 3073
_MOST = 100  # batches, which are open at once; as published there are five
_NAMES = "batches.meta.txt"


def recognises(path: pathlib.Path) -> bool:
    """Tell whether `path` is a folder with `data_batch_*.bin` or `test_batch.bin`."""
    return path.is_dir() and bool(_batches(path, "train") or _batches(path, "test"))


def read(path: pathlib.Path, how: Reading) -> Found:
    """Read the training batches, or the test batch; nothing but labels is held in memory.

    Raises:
        RefusedError: no such batches, or a file that is not a number of whole records.
    """
    files = [OpenFile.at(path / name) for name in _wanted(path, how.split)]
    counts = [_count(file.size, file.name) for file in files]
    how.bound(sum(counts), (3, 32, 32), 1, path)
    pixels, labels = (
        tuple(
            Stretch(file=file, offset=offset, count=count)
            for file, count in zip(files, counts, strict=True)
        )
        for offset in (1, 0)
    )
    byte = np.dtype(np.uint8)
    return Found(
        inputs=FileRows(stretches=pixels, stored=byte, row=(3, 32, 32), stride=_RECORD),
        labels=FileRows(stretches=labels, stored=byte, row=(), stride=_RECORD)[:].long(),
        names=_names(path),
    )


def write(
    path: pathlib.Path, split: str | None, keep: Int64[Tensor, " kept"], out: pathlib.Path
) -> None:
    """Write the kept records under the names of the files that they came from."""
    names = _wanted(path, split)
    counts = [_count((path / name).stat().st_size, path / name) for name in names]
    rows, start = chosen(keep, sum(counts)), 0
    out.mkdir()
    if _names(path) is not None:
        copy(path / _NAMES, out / _NAMES)
    for name, count in zip(names, counts, strict=True):
        with (path / name).open("rb") as source, (out / name).open("wb") as target:
            target.writelines(kept_records(source, _RECORD, count, rows - start, path / name))
        start += count


def _wanted(path: pathlib.Path, split: str | None) -> list[str]:
    names = _batches(path, split or "train")
    if not names:
        raise UsageError(f"expected {split or 'train'} batches in {path}, got none")
    if len(names) > _MOST:
        raise RefusedError(f"expected at most {_MOST} batches in {path}, got {len(names)}")
    return names


def _batches(path: pathlib.Path, split: str) -> list[str]:
    prefix = "test_batch" if split == "test" else "data_batch"
    _, files = listing(path, path)
    return [name for name in files if name.startswith(prefix) and name.endswith(".bin")]


def _count(size: int, where: object) -> int:
    if size % _RECORD:
        raise RefusedError(
            f"{where} is truncated: expected records of {_RECORD} bytes, got {size} bytes"
        )
    return size // _RECORD


def _names(path: pathlib.Path) -> tuple[str, ...] | None:
    if not (path / _NAMES).exists():
        return None
    with refusing(path / _NAMES):
        text = read_bounded(path / _NAMES, 2**20).decode()
    return tuple(line.strip() for line in text.splitlines() if line.strip())
