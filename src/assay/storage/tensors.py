"""safetensors files, as data sets (`images` or `features`, `labels`) and as weights."""

import json
import math
import pathlib
from collections.abc import Collection
from typing import Any

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from assay.errors import RefusedError
from assay.records import record

from .files import refusing
from .found import Found, Reading, blocks, chosen, image_row, kept_records
from .rows import FileRows, OpenFile, Stretch

_MAX_HEADER = 2**25
_MAX_AXES = 64  # as many as torch computes with
_MAX_SIZE = 2**48
_TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
_FEATURES = {torch.float64: "<f8", torch.float32: "<f4", torch.float16: "<f2"}


@record
class Declared:
    """A tensor that the header of a file declares, with a size that fits its place."""

    name: str
    code: str
    shape: tuple[int, ...]
    start: int
    """Where it starts in the file, in bytes."""

    @property
    def dtype(self) -> torch.dtype:
        """Type of its numbers."""
        return _TYPES[self.code]

    @property
    def size(self) -> int:
        """Bytes that it takes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self, file: OpenFile) -> Tensor:
        """Read it into memory."""
        content = file.read(self.start, self.size)
        if not content:
            return torch.empty(self.shape, dtype=self.dtype)
        return torch.frombuffer(content, dtype=self.dtype).reshape(self.shape)


def declared(file: OpenFile) -> dict[str, Declared]:
    """Parse the header of a safetensors file; nothing else is read.

    Raises:
        RefusedError: it is malformed, or declares tensors that do not fit into the file.
    """
    length = int.from_bytes(file.read(0, 8), "little")
    if length > _MAX_HEADER:
        raise RefusedError(
            f"expected a header of at most {_MAX_HEADER} bytes in {file.name}, got {length}"
        )
    text = bytes(file.read(8, length))
    with refusing(file.name):
        header = json.loads(text)
        header.pop("__metadata__", None)
        found = {name: _tensor(name, entry, 8 + length) for name, entry in header.items()}
    for tensor in found.values():
        if tensor.start + tensor.size > file.size:
            raise RefusedError(
                f"{file.name} is truncated: tensor {tensor.name} {tensor.shape} ends after the file"
            )
    total, room = sum(tensor.size for tensor in found.values()), file.size - 8 - length
    if total > room:
        raise RefusedError(
            f"expected tensors that share no bytes in {file.name}, got {total} bytes of them in "
            f"{room}; write the file with safetensors"
        )
    return found


def possible(sizes: Collection[Any]) -> bool:
    """Tell whether a tensor can have these sizes, at a cost that they cannot drive up.

    No product is taken of more or larger integers than tensors have: that of a few thousand digits
    each takes minutes. Axes without elements count as one, as they do in the strides of torch.
    """
    return (
        len(sizes) <= _MAX_AXES
        and all(type(size) is int and 0 <= size < _MAX_SIZE for size in sizes)
        and math.prod(size or 1 for size in sizes) < _MAX_SIZE
    )


def _tensor(name: str, entry: dict[str, Any], base: int) -> Declared:
    shape, (begin, end) = entry["shape"], entry["data_offsets"]
    if not (possible(shape) and possible([begin]) and possible([end])):
        raise RefusedError(
            f"expected at most {_MAX_AXES} sizes, and offsets, that are not negative and below "
            f"2**48 for tensor {name!r:.100}, got {entry!s:.200}"
        )
    if not name.isprintable() or entry["dtype"] not in _TYPES:
        raise RefusedError(
            f"expected tensors of {sorted(_TYPES)}, got {name!r} of {entry['dtype']}"
        )
    tensor = Declared(name=name, code=entry["dtype"], shape=tuple(shape), start=base + begin)
    if begin + tensor.size != end:
        raise RefusedError(
            f"tensor {name} declares {tensor.shape} {tensor.code}, {tensor.size} bytes, "
            f"but has a place of {end - begin}"
        )
    return tensor


def recognises(path: pathlib.Path) -> bool:
    """Tell whether `path` is a safetensors file."""
    return path.is_file() and path.suffix.lower() == ".safetensors"


def read(path: pathlib.Path, how: Reading) -> Found:
    """Read the labels, and serve the inputs from the file in place.

    Raises:
        RefusedError: tensors are missing or of another type or shape.
    """
    file = OpenFile.at(path)
    tensors = declared(file)
    labels = tensors.get("labels")
    if labels is None or len(labels.shape) != 1 or labels.dtype.is_floating_point:
        raise RefusedError(f"expected integer `labels` (samples,) in {path}, got {labels}")
    inputs = read_inputs(path, how)
    how.bound(labels.shape[0], (), 8, path)
    return Found(inputs=inputs, labels=labels.read(file).long(), names=None)


def read_inputs(path: pathlib.Path, how: Reading) -> FileRows:
    """Serve the images, or the features where there are none, from the file in place."""
    file = OpenFile.at(path)
    tensors = declared(file)
    images, features = tensors.get("images"), tensors.get("features")
    if images is not None and features is not None:
        raise RefusedError(f"expected `images` or `features` in {path}, got both: keep one")
    if images is not None and images.dtype == torch.uint8:
        tensor, row, stored = images, tuple(image_row(images.shape, path)), "|u1"
    elif features is not None and features.dtype in _FEATURES and len(features.shape) == 2:
        tensor, row, stored = features, features.shape[1:], _FEATURES[features.dtype]
    else:
        raise RefusedError(
            f"expected uint8 `images` (NHWC or NHW) or float `features` (samples, dims) in {path}, "
            f"got {[images, features]}"
        )
    how.bound(tensor.shape[0], row, tensor.dtype.itemsize, path)
    stretch = Stretch(file=file, offset=tensor.start, count=tensor.shape[0])
    return FileRows(
        stretches=(stretch,), stored=np.dtype(stored), row=row, channels_last=len(row) == 3
    )


def write(
    path: pathlib.Path, _split: str | None, keep: Int64[Tensor, " kept"], out: pathlib.Path
) -> None:
    """Write the kept rows of every tensor that has one row a sample, and the others whole."""
    tensors = declared(OpenFile.at(path))
    count = len(read(path, Reading()).labels)
    rows = chosen(keep, count)
    header, place, whole = {}, 0, {}
    for name, tensor in tensors.items():
        whole[name] = tensor.shape[:1] != (count,)
        shape = tensor.shape if whole[name] else (len(rows), *tensor.shape[1:])
        end = place + math.prod(shape) * tensor.dtype.itemsize
        header[name] = {"dtype": tensor.code, "shape": shape, "data_offsets": [place, end]}
        place = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("rb") as source, out.open("xb") as target:
        target.write(len(text).to_bytes(8, "little") + text)
        for name, tensor in tensors.items():
            source.seek(tensor.start)
            if whole[name]:
                target.writelines(blocks(source, tensor.size, path))
            elif tensor.size:
                size = tensor.size // count
                target.writelines(kept_records(source, size, count, rows, path))
