"""`.npz` archives: `images` (uint8, NHWC or NHW) or `features` (N, D), `labels`, maybe `names`."""

import math
import pathlib
import re
import zipfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from torch import Tensor

from assay.errors import RefusedError
from assay.records import record

from .files import refusing
from .found import Found, Reading, Stream, blocks, chosen, exactly, image_row, kept_records
from .rows import FileRows, OpenFile, Stretch, spill
from .zips import members, stored_at

_HEADER = re.compile(
    rb"\s*\{\s*'descr':\s*'([<>|=][biufcSUmMV]\d+(?:\[\w+\])?)',\s*'fortran_order':\s*(True|False),"
    rb"\s*'shape':\s*\(((?:\d{1,18},\s*)*(?:\d{1,18})?)\),?\s*\}\s*"
)
_KINDS = {"iu": "an integer type", "U": "texts"}  # of numpy
_MAX_HEADER = 10_000
_MAX_NAMES = 2**26  # bytes


@record
class _Array:
    """What the header of an `.npy` member declares."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize


def recognises(path: pathlib.Path) -> bool:
    """Tell whether `path` is an `.npz` file."""
    return path.is_file() and path.suffix.lower() == ".npz"


def read(path: pathlib.Path, how: Reading) -> Found:
    """Read inputs and labels; uncompressed inputs are read in place.

    Raises:
        RefusedError: object arrays, arrays that do not fit each other, a broken archive.
    """
    inputs = read_inputs(path, how)
    with zipfile.ZipFile(path) as archive:
        labels = _column(archive, "labels", "iu", len(inputs) * 8)
        names = None
        if "names.npy" in archive.namelist():
            with refusing(path):
                names = tuple(str(n) for n in _column(archive, "names", "U", _MAX_NAMES))
    return Found(inputs=inputs, labels=torch.from_numpy(labels.astype(np.int64)), names=names)


def read_inputs(path: pathlib.Path, how: Reading) -> FileRows:
    """Read the images, or the features where there are none."""
    infos = _members(path, how.max_mb)
    with zipfile.ZipFile(path) as archive:
        arrays = {name: _declared(archive, info) for name, info in infos.items()}
        name = "images.npy" if "images.npy" in arrays else "features.npy"
        if {"images.npy", "features.npy"} <= set(arrays):
            raise RefusedError(f"expected `images` or `features` in {path}, got both: keep one")
        if name not in arrays:
            raise RefusedError(
                f"expected an array `images` or `features` in {path}, got {sorted(arrays)}"
            )
        array, info = arrays[name], infos[name]
        row, last = _row(name, array, path)
        how.bound(array.shape[0], row, array.dtype.itemsize, path)
        if info.compress_type == zipfile.ZIP_STORED:
            file = OpenFile.at(path)
            data = array.shape[0] * array.row_bytes
            start = stored_at(file, info) + info.file_size - data
            _check_sum(archive, info)
            stretch = Stretch(file=file, offset=start, count=array.shape[0])
            return FileRows(stretches=(stretch,), stored=array.dtype, row=row, channels_last=last)
        with archive.open(info) as stream:
            _header(stream, name)
            return spill(
                blocks(stream, array.shape[0] * array.row_bytes, path),
                stored=array.dtype,
                row=row,
                channels_last=last,
                most=how.max_mb * 2**20,
            )


def write(
    path: pathlib.Path, _split: str | None, keep: Int64[Tensor, " kept"], out: pathlib.Path
) -> None:
    """Write an archive with the kept rows of every array that has one row a sample."""
    most = Reading().max_mb
    infos = _members(path, most)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(out, "x") as target:
        arrays = {name: _declared(source, info) for name, info in infos.items()}
        count = len(_column(source, "labels", "iu", most * 2**20))
        rows = chosen(keep, count)
        for name, array in arrays.items():
            per_sample = array.shape[:1] == (count,) and name != "names.npy"
            like = zipfile.ZipInfo(name)
            like.compress_type = infos[name].compress_type
            with source.open(name) as stream, target.open(like, "w", force_zip64=True) as sink:
                _header(stream, name)
                for chunk in _filtered(stream, array, rows if per_sample else None, path):
                    sink.write(chunk)


def _filtered(
    stream: Stream, array: _Array, rows: NDArray[np.int64] | None, path: pathlib.Path
) -> Iterator[bytes]:
    """Yield an `.npy` file with some rows of the array in the stream, or with all."""
    shape = array.shape if rows is None else (len(rows), *array.shape[1:])
    header = repr({"descr": array.dtype.str, "fortran_order": False, "shape": shape})
    header += " " * (-(len(header) + 11) % 64) + "\n"
    yield b"\x93NUMPY\1\0" + len(header).to_bytes(2, "little") + header.encode()
    if rows is None:
        yield from blocks(stream, math.prod(array.shape) * array.dtype.itemsize, path)
    elif array.row_bytes:
        yield from kept_records(stream, array.row_bytes, array.shape[0], rows, path)


def _members(path: pathlib.Path, max_mb: int) -> dict[str, zipfile.ZipInfo]:
    """List the arrays; of `labels` and `labels.npy`, numpy would read the first as `labels`."""
    infos = members(path, max_mb)
    others = [name for name in infos if not name.endswith(".npy")]
    if others:
        raise RefusedError(
            f"expected members that end in .npy alone in {path}, as numpy.savez writes them, got "
            f"{others[:3]}: save the arrays again"
        )
    return infos


def _check_sum(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
    """Read a member that is stored as it is to the end, where its check sum is compared."""
    with archive.open(info) as stream:
        for _ in blocks(stream, info.file_size, archive.filename):
            pass


def _declared(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Array:
    with refusing(archive.filename), archive.open(info) as stream:
        array, length = _header(stream, info.filename)
    size = math.prod(array.shape) * array.dtype.itemsize
    if length + size != info.file_size:
        raise RefusedError(
            f"{archive.filename}: {info.filename} declares {array.dtype} {array.shape}, "
            f"{size} bytes, but holds {info.file_size - length}"
        )
    return array


def _header(stream: Stream, name: str) -> tuple[_Array, int]:
    """Parse the header of an `.npy` stream without evaluating it; returns its length too."""
    magic = exactly(stream, 8, name)
    width = {b"\x93NUMPY\1\0": 2, b"\x93NUMPY\2\0": 4, b"\x93NUMPY\3\0": 4}.get(magic)
    if width is None:
        raise RefusedError(f"expected an array in member {name}, got something else")
    length = int.from_bytes(exactly(stream, width, name), "little")
    if length > _MAX_HEADER:
        raise RefusedError(f"expected a header of at most {_MAX_HEADER} bytes in {name}")
    text = exactly(stream, length, name)
    match = _HEADER.fullmatch(text)
    if match is None:
        raise RefusedError(
            f"expected an array of numbers or texts in member {name}; object and structured "
            f"arrays are never unpickled (header {text[:80]!r})"
        )
    if match[2] == b"True":
        raise RefusedError(f"expected {name} in C order; save it with numpy.ascontiguousarray")
    shape = tuple(int(part) for part in match[3].split(b",") if part.strip())
    with refusing(name):
        dtype = np.dtype(match[1].decode())
    return _Array(dtype=dtype, shape=shape), 8 + width + length


def _row(name: str, array: _Array, where: pathlib.Path) -> tuple[tuple[int, ...], bool]:
    """Shape of a stored row, and whether its channels come last."""
    if name == "images.npy":
        if array.dtype != np.uint8:
            raise RefusedError(
                f"expected images of type uint8, 0 to 255, in {where}, got {array.dtype}"
            )
        return image_row(array.shape, where), True
    if len(array.shape) != 2 or array.dtype.kind != "f" or array.dtype.itemsize > 8:
        raise RefusedError(
            f"expected features (samples, dims) of a float type in {where}, "
            f"got {array.dtype} {array.shape}"
        )
    return array.shape[1:], False


def _column(archive: zipfile.ZipFile, name: str, kinds: str, most: int) -> NDArray[Any]:
    """Read an array with one axis and numpy's kind of type into memory."""
    try:
        info = archive.getinfo(f"{name}.npy")
    except KeyError as error:
        raise RefusedError(f"expected an array `{name}` in {archive.filename}") from error
    with archive.open(info) as stream:
        array, length = _header(stream, name)
        if len(array.shape) != 1 or array.dtype.kind not in kinds or array.row_bytes == 0:
            raise RefusedError(
                f"expected `{name}` with one axis, of {_KINDS[kinds]}, in {archive.filename}, got "
                f"{array.dtype} {array.shape}"
            )
        if info.file_size > most + _MAX_HEADER:
            raise RefusedError(
                f"expected at most {most} bytes of {name} in {archive.filename}, "
                f"got {info.file_size}"
            )
        content = exactly(stream, info.file_size - length, archive.filename)
    return np.frombuffer(content, array.dtype)
