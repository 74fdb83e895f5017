"""Models of images and texts of another party, with their tokenizers: no pickle, no code."""

import pathlib
from typing import Any

from torch import nn

from assay.errors import InputError
from assay.records import record

from . import huggingface
from .files import digest_path, existing
from .language import Words, check_vocabulary, read_tokenizer

_ARCHITECTURE = "LlavaForConditionalGeneration"


@record
class LoadedVisionText:
    """A model of another party, in evaluation mode on the CPU, with weights as float32."""

    model: nn.Module
    tokenizer: Words
    digest: str
    """SHA-256 of the folder."""
    origin: str
    """The source as the user named it."""
    mean: tuple[float, ...] | None
    """One a channel, of images in [0, 1], as the model's own processor says."""
    std: tuple[float, ...] | None
    size: int | None
    """Height and width of its inputs in pixels: what the processor says, or the vision tower."""


def load_vision_text(source: str, *, max_mb: int = 16_384) -> LoadedVisionText:
    """Load a LLaVA-like folder: config.json, .safetensors, tokenizer.json, settings for images.

    Raises:
        UsageError: there is no such path.
        RefusedError: the folder is malformed, oversized or tries to run code.
        InputError: it is another model, or has no tokenizer.json.
    """
    path = existing(pathlib.Path(source))
    if not (path.is_dir() and (path / "config.json").is_file()):
        raise InputError(
            "expected a Hugging Face folder of a model of images and texts, with config.json, got "
            f"{source}"
        )
    named = huggingface.architecture(path)
    if named != _ARCHITECTURE:
        raise InputError(
            f"expected {_ARCHITECTURE} as the architecture in {path / 'config.json'}, got "
            f"{named!r}: other models of images and texts are not audited yet"
        )
    tokenizer = read_tokenizer(path)
    model: Any = huggingface.read_model(path, max_mb=max_mb)
    if type(model).__name__ != _ARCHITECTURE:
        raise InputError(
            f"expected settings of a {_ARCHITECTURE} in {path}, got those of a "
            f"{type(model).__name__}"
        )
    size = model.get_output_embeddings().weight.shape[0]
    check_vocabulary(tokenizer, size, path)
    if not 0 <= model.config.image_token_id < model.get_input_embeddings().weight.shape[0]:
        raise InputError(
            f"expected a token for images among {size} in {path}, got number "
            f"{model.config.image_token_id}"
        )
    said = huggingface.processor(path)
    seen = getattr(model.config.vision_config, "image_size", None)
    return LoadedVisionText(
        model=model.eval(),
        tokenizer=tokenizer,
        digest=digest_path(path),
        origin=source,
        mean=said.mean,
        std=said.std,
        size=said.size or (seen if isinstance(seen, int) else None),
    )
