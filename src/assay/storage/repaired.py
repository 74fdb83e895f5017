"""Repaired models, written in the form that they came in."""

import enum
import pathlib

import torch
from safetensors.torch import save_file
from torch import nn

from assay.errors import InputError

from . import huggingface
from .files import existing


class ModelForm(enum.Enum):
    """What `load_model` takes."""

    WEIGHTS = "weights"
    """Tensors of a network that a factory of the user makes."""
    FOLDER = "folder"
    """As transformers writes it."""
    ARCHIVE = "archive"
    """A graph with its weights, as torch.export.save writes it."""


def form_of(source: str) -> ModelForm:
    """Tell which form a source of `load_model` has.

    Raises:
        UsageError: there is no such path.
    """
    if "@" in source and not pathlib.Path(source).exists():
        return ModelForm.WEIGHTS
    return ModelForm.FOLDER if existing(pathlib.Path(source)).is_dir() else ModelForm.ARCHIVE


def write_model(model: nn.Module, source: str, out: pathlib.Path) -> None:
    """Write a model that was loaded from `source` with other weights, in float32.

    Args:
        model: as `load_model` built it, with the order of classes that it came with.
        source: where it came from; left as it is.
        out: where to; nothing may be there yet. Weights become a `.safetensors` file for the same
            factory, a folder becomes a folder with the same configuration and processor.

    Raises:
        InputError: it came as a `.pt2` archive, or something is at `out`.
    """
    if out.exists():
        raise InputError(f"expected a path that does not exist yet, got {out}")
    form = form_of(source)
    if form is ModelForm.ARCHIVE:
        raise InputError(f"a .pt2 archive cannot be written with other weights: {source}")
    if form is ModelForm.FOLDER:
        huggingface.write_model(model, pathlib.Path(source), out)
        return
    weights = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in model.state_dict().items()
    }
    save_file(weights, out, metadata={"format": "pt"})
