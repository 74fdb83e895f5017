"""`.pt2` archives of `torch.export`, read without `torch.export.load`.

That function unpickles sample inputs and constants, evaluates the archive's symbolic shapes and
guards as Python, and looks operators up by attribute, so that even an archive without a pickle can
run code. Here the graph is read as JSON and weights as plain numbers; `Program` runs the graph.
"""

import functools
import json
import math
import pathlib
import zipfile
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import UInt8
from torch import Tensor, nn

from assay.errors import InputError, RefusedError

from .files import refusing
from .graph import TYPES, Program, input_name
from .rows import OpenFile
from .tensors import possible
from .weights import check_weights
from .zips import members, stored_at

_MAX_JSON = 2**26
_SCHEMA = 8  # torch 2.10 to 2.13


def read_program(path: pathlib.Path, *, max_mb: int) -> tuple[Program, int | None]:
    """Read an exported network with one input and one output.

    Returns:
        The network, and the height of the images that it takes where that is fixed.

    Raises:
        RefusedError: the archive is malformed, oversized, or holds pickles or compiled code.
        InputError: it uses an operator that is not on the list, or takes one batch size only.
    """
    infos = members(path, max_mb)
    root = _root(infos, path)
    with refusing(path, RuntimeError):
        said = _parsed(path, infos[f"{root}/models/model.json"])
        version = said["schema_version"]["major"]
        if version != _SCHEMA:
            raise InputError(f"expected an archive of schema {_SCHEMA}, got {version}: {path}")
        tensors = _tensors(path, infos, root, max_mb)
        check_weights(tensors, path)
        module = said["graph_module"]
        program = Program(module["graph"], module["signature"], tensors)
        return program, _size(module["graph"], input_name(module["signature"]))


def _root(infos: Mapping[str, zipfile.ZipInfo], path: pathlib.Path) -> str:
    roots = {name.partition("/")[0] for name in infos}
    root = min(roots, default="")
    foreign = [
        name
        for name in infos
        if "/data/aotinductor/" in name or name.endswith((".so", ".pkl", ".py"))
    ]
    if len(roots) != 1 or foreign or f"{root}/models/model.json" not in infos:
        raise RefusedError(
            f"expected an archive written by torch.export.save at {path}, with one model and "
            f"without compiled code, got {foreign[:5] or 'no model'}"
        )
    return root


def _parsed(path: pathlib.Path, info: zipfile.ZipInfo) -> dict[str, Any]:
    if info.file_size > _MAX_JSON:
        raise RefusedError(f"expected at most {_MAX_JSON} bytes of {info.filename} in {path}")
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(info))


def _tensors(
    path: pathlib.Path, infos: Mapping[str, zipfile.ZipInfo], root: str, max_mb: int
) -> dict[str, Tensor]:
    """Read parameters, buffers and constants by name.

    Weights that share memory share a member, too. It is read once, and they are views of it: else
    a small archive could fill the memory by naming its largest member often. Names for the same
    numbers, tied weights, get the same tensor.
    """
    file = OpenFile.at(path)
    content = functools.cache(functools.partial(_content, file))
    made: dict[tuple[str, str], Tensor] = {}
    found = {}
    for folder, config in (("weights", "model_weights"), ("constants", "model_constants")):
        entries = _parsed(path, infos[f"{root}/data/{folder}/{config}_config.json"])["config"]
        for name, entry in entries.items():
            info = infos[f"{root}/data/{folder}/{entry['path_name']}"]
            key = (info.filename, json.dumps(entry, sort_keys=True))
            if key not in made:
                made[key] = _tensor(file, info, entry, content)
            found[name] = made[key]
    total = sum(value.nbytes for value in made.values())
    if total > max_mb * 2**20:
        raise RefusedError(
            f"expected at most {max_mb} MB of weights in {path}, got {total >> 20} MB; "
            "raise the bound"
        )
    return found


def _content(file: OpenFile, info: zipfile.ZipInfo) -> UInt8[Tensor, " bytes"]:
    """Read a stored member, to memory as aligned as that of any tensor."""
    content = file.read(stored_at(file, info), info.file_size)
    return torch.frombuffer(content, dtype=torch.uint8).clone()


def _tensor(
    file: OpenFile,
    info: zipfile.ZipInfo,
    entry: dict[str, Any],
    content: Callable[[zipfile.ZipInfo], Tensor],
) -> Tensor:
    """View a member as a parameter, buffer or constant that is stored as plain numbers."""
    if entry["use_pickle"] or entry["path_name"].startswith(("custom_obj", "opaque_obj")):
        raise RefusedError(f"{file.name} holds a pickle, {info.filename}; nothing was run")
    meta = entry["tensor_meta"]
    sizes = [_integer(size) for size in meta["sizes"]]
    strides = [_integer(stride) for stride in meta["strides"]]
    offset, dtype = _integer(meta["storage_offset"]), TYPES[meta["dtype"]]
    if not possible(sizes):
        raise RefusedError(f"expected sizes of a tensor in {file.name}, got {sizes!s:.200}")
    count = math.prod(sizes)
    last = offset + sum((n - 1) * step for n, step in zip(sizes, strides, strict=True))
    if info.compress_type != zipfile.ZIP_STORED or (
        count and max(count, last + 1) * dtype.itemsize > info.file_size
    ):
        raise RefusedError(f"{info.filename} in {file.name} claims more numbers than it stores")
    value = torch.empty(sizes, dtype=dtype)
    if count:
        whole = info.file_size // dtype.itemsize * dtype.itemsize
        value = content(info)[:whole].view(dtype).as_strided(sizes, strides, offset)
    return nn.Parameter(value, value.is_floating_point()) if entry["is_param"] else value


def _integer(said: dict[str, Any]) -> int:
    value = said["as_int"]
    if type(value) is not int or not 0 <= value < 2**40:
        raise RefusedError(f"expected a size that is not negative, got {value!r}")
    return value


def _size(graph: dict[str, Any], given: str) -> int | None:
    """Height of the images that the network takes; its batch size must be free."""
    sizes = graph["tensor_values"][given]["sizes"]
    if not sizes or "as_expr" not in sizes[0]:
        raise InputError(
            "expected a network that takes batches of any size; export it with "
            "dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)"
        )
    return _integer(sizes[2]) if len(sizes) == 4 and "as_int" in sizes[2] else None
