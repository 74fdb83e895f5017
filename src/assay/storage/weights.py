"""Weights from files: tensors by name, checked before anything is made of them."""

import io
import pathlib
import zipfile

import torch
from torch import Tensor, nn

from assay.errors import InputError, RefusedError

from . import tensors
from .files import existing, refusing
from .pickles import foreign_globals
from .rows import OpenFile
from .zips import members

PICKLED = frozenset({".pt", ".pth", ".bin"})
_MAX_PICKLE = 2**26


def read_weights(path: pathlib.Path, *, max_mb: int) -> dict[str, Tensor]:
    """Read the tensors of a `.safetensors`, `.pt`, `.pth` or `.bin` file.

    Raises:
        RefusedError: the file is malformed, oversized, or would import anything but tensors.
    """
    if existing(path).stat().st_size > max_mb * 2**20:
        raise RefusedError(f"expected at most {max_mb} MB of weights in {path}; raise the bound")
    if path.suffix == ".safetensors":
        file = OpenFile.at(path)
        return {name: tensor.read(file) for name, tensor in tensors.declared(file).items()}
    if path.suffix not in PICKLED:
        raise InputError(f"expected weights as .safetensors or {sorted(PICKLED)}, got {path}")
    return _unpickled(path, max_mb)


def _unpickled(path: pathlib.Path, max_mb: int) -> dict[str, Tensor]:
    content = path.read_bytes()
    _check_pickle(path, max_mb)
    with refusing(path, RuntimeError, ArithmeticError):
        saved = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)  # noqa: TID251
    if not isinstance(saved, dict) or not all(
        isinstance(name, str) and type(value) in {Tensor, nn.Parameter}
        for name, value in saved.items()
    ):
        raise RefusedError(f"expected tensors by name in {path}; save model.state_dict()")
    for name, value in saved.items():
        if value.layout != torch.strided or value.nbytes > value.untyped_storage().nbytes():
            raise RefusedError(f"tensor {name} in {path} claims more numbers than it stores")
    return {name: value.detach() for name, value in saved.items()}


def _check_pickle(path: pathlib.Path, max_mb: int) -> None:
    """Look at what a file saved by torch would import, before anything is unpickled."""
    infos = members(path, max_mb)
    pickles = [name for name in infos if name.endswith(".pkl")]
    if len(pickles) != 1 or infos[pickles[0]].file_size > _MAX_PICKLE:
        raise RefusedError(
            f"expected one small pickle of tensors in {path}, got {pickles}; "
            "save model.state_dict() as .safetensors"
        )
    with refusing(path), zipfile.ZipFile(path) as archive:
        content = archive.read(pickles[0])
    foreign = foreign_globals(content, path)
    if foreign:
        raise RefusedError(
            f"{path} would import or call {', '.join(foreign)} when it is opened; "
            "nothing was run; ask for the weights as .safetensors"
        )


def fill(model: nn.Module, weights: dict[str, Tensor], where: object) -> None:
    """Copy weights into a model, in place.

    Raises:
        InputError: names or shapes differ.
        RefusedError: NaN or infinity.
    """
    wanted = {name: value.shape for name, value in model.state_dict().items()}
    got = {name: value.shape for name, value in weights.items()}
    if wanted != got:
        differences = [
            f"{name}: {tuple(wanted[name]) if name in wanted else 'no such tensor'} in the model, "
            f"{tuple(got[name]) if name in got else 'none'} in the file"
            for name in sorted(wanted.keys() | got.keys())
            if wanted.get(name) != got.get(name)
        ]
        raise InputError(
            f"expected the weights of {where} to fit the model, got {len(differences)} "
            f"differences: {'; '.join(differences[:5])}"
        )
    check_weights(weights, where)
    model.load_state_dict(weights)


def check_weights(weights: dict[str, Tensor], where: object) -> None:
    """Check that all weights are finite as float32, which models hold.

    Raises:
        RefusedError: they are not; names the tensors.
    """
    bad = [name for name, value in weights.items() if not value.float().isfinite().all()]
    if bad:
        raise RefusedError(f"expected finite weights in {where}, got NaN or infinity in {bad[:5]}")
