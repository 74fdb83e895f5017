"""CLIPs of transformers as frozen backbones: a folder, or a name on the hub."""

import pathlib
from collections.abc import Mapping

from assay.errors import InputError, RefusedError, UsageError
from assay.prompting import Backbone
from assay.records import record

from . import huggingface
from .files import digest_path, existing, refusing
from .language import read_tokenizer

_START, _END = "<|startoftext|>", "<|endoftext|>"
_SETTINGS = ("config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json")
_WANTED = ("config.json", "preprocessor_config.json", "tokenizer.json", "*.safetensors")
_HUB = "hf:"
_CHANNELS = 3


@record
class LoadedBackbone:
    """A CLIP, frozen, on the CPU, with weights as float32."""

    backbone: Backbone
    digest: str
    """SHA-256 of `model.safetensors`, as the hub shows it; of the folder where there are parts."""
    settings: Mapping[str, str]
    """SHA-256 of the other files that decide what it computes, by name."""
    origin: str
    """The source as the user named it."""


def load_backbone(source: str, *, max_mb: int = 16_384) -> LoadedBackbone:
    """Load a CLIP that `transformers` wrote: configuration, processor, tokenizer, safetensors.

    Args:
        source: a folder, or `hf:NAME` for one on the hub.
        max_mb: what the model may take.

    Raises:
        UsageError: there is no such folder or name.
        RefusedError: it is malformed, oversized or tries to run code.
        InputError: it is no CLIP, or a part is missing that decides what the model sees.
    """
    path = _downloaded(source.removeprefix(_HUB)) if source.startswith(_HUB) else _folder(source)
    if not (path / "config.json").is_file():
        raise InputError(
            f"expected a Hugging Face folder of a CLIP, with config.json, got {source}"
        )
    words = read_tokenizer(path)
    said = huggingface.processor(path)
    if said.mean is None or said.std is None:
        raise InputError(
            f"expected image_mean and image_std in preprocessor_config.json of {path}: without "
            "them the model sees other images than it was trained on"
        )
    missing = [token for token in (_START, _END) if token not in words.vocabulary]
    if missing:
        raise InputError(f"expected tokens {missing} in tokenizer.json of {path}, as CLIP has them")
    times = _CHANNELS if len(said.mean) == len(said.std) == 1 else 1  # one number is for all
    backbone = Backbone(
        huggingface.read_clip(path, max_mb=max_mb),
        words.encode,
        start=words.vocabulary[_START],
        end=words.vocabulary[_END],
        mean=said.mean * times,
        std=said.std * times,
    )
    weights = path / "model.safetensors"
    return LoadedBackbone(
        backbone=backbone,
        digest=digest_path(weights if weights.is_file() else path),
        settings={n: digest_path(path / n) for n in _SETTINGS if (path / n).is_file()},
        origin=source,
    )


def _folder(source: str) -> pathlib.Path:
    path = existing(pathlib.Path(source))
    if not path.is_dir():
        raise InputError(f"expected a Hugging Face folder of a CLIP or hf:NAME, got {source}")
    return path


def _downloaded(name: str) -> pathlib.Path:
    """Fetch what is read of a repository, and nothing else, as files and not as links."""
    import huggingface_hub.constants
    import huggingface_hub.errors

    parts = name.split("/")
    if not 1 <= len(parts) <= 2 or any(not part or part.startswith(".") for part in parts):
        raise UsageError(f"expected hf:OWNER/NAME, got hf:{name}")
    home = pathlib.Path(huggingface_hub.constants.HF_HOME) / "assay" / "--".join(parts)
    failures = (huggingface_hub.errors.HFValidationError, RuntimeError)
    with refusing(f"hf:{name}", *failures):
        try:
            huggingface_hub.snapshot_download(
                name, allow_patterns=list(_WANTED), local_dir=str(home)
            )
        except (FileNotFoundError, ConnectionError, OSError) as error:
            raise UsageError(
                f"expected a model on the hub that can be fetched, got hf:{name}: {error}"
            ) from error
    if not home.is_dir():
        raise RefusedError(f"expected files of a CLIP in hf:{name}, got none")
    return home
