"""Weights on their way between client and provider: hashed, written, and read with a bound."""

import hashlib
import pathlib
from collections.abc import Mapping

import torch
from safetensors.torch import save_file
from torch import Tensor

from assay.errors import InputError
from assay.storage.rows import OpenFile
from assay.storage.tensors import declared

HEADER_ROOM = 2**20
"""Bytes by which a file of the same tensors may differ: header and metadata."""


def digest_weights(weights: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, number formats, shapes and numbers, whatever file they lie in.

    Returns:
        64 hexadecimal digits.
    """
    whole = hashlib.sha256()
    for name in sorted(weights):
        value = weights[name].detach().cpu().contiguous()
        whole.update(f"{name}\0{value.dtype}\0{tuple(value.shape)}\0".encode())
        whole.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return whole.hexdigest()


def write_weights(path: pathlib.Path, weights: Mapping[str, Tensor]) -> None:
    """Write a safetensors file; copies, since it takes neither strided nor shared memory."""
    save_file(
        {
            name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
            for name, value in weights.items()
        },
        path,
    )


def differences(path: pathlib.Path, like: Mapping[str, Tensor]) -> list[str]:
    """Say how the tensors that a safetensors file declares differ from others; reads its header.

    Raises:
        RefusedError: the header is malformed or declares more than the file holds.
    """
    found = {t.name: (t.dtype, t.shape) for t in declared(OpenFile.at(path)).values()}
    wanted = {name: (value.dtype, tuple(value.shape)) for name, value in like.items()}
    return [
        f"{name}: expected {_shown(wanted.get(name))}, got {_shown(found.get(name))}"
        for name in sorted(wanted.keys() | found.keys())
        if wanted.get(name) != found.get(name)
    ]


def _shown(tensor: tuple[torch.dtype, tuple[int, ...]] | None) -> str:
    return "none" if tensor is None else f"{str(tensor[0]).removeprefix('torch.')} {tensor[1]}"


def read_weights_like(path: pathlib.Path, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Read tensors of exactly the names, shapes and number formats of others.

    Raises:
        RefusedError: the file is malformed.
        InputError: its tensors are others.
    """
    odd = differences(path, like)
    if odd:
        raise InputError(f"expected the tensors of the start weights in {path}: {odd[0]}")
    file = OpenFile.at(path)
    return {name: tensor.read(file) for name, tensor in declared(file).items()}


def size_of(weights: Mapping[str, Tensor]) -> int:
    """Bytes that the numbers take."""
    return sum(value.nbytes for value in weights.values())
