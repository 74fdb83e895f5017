"""Folders that `transformers` wrote: read here, so that it opens no file and runs no code."""

import contextlib
import inspect
import itertools
import json
import math
import pathlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from assay.errors import InputError, RefusedError
from assay.records import record

from .files import listing, read_bounded, refusing
from .weights import check_weights, read_weights

if TYPE_CHECKING:
    from transformers import CLIPModel, PretrainedConfig, PreTrainedModel

_MAX_JSON = 2**24
_MAX_NUMBER = 10_000_000
_MAX_REPEATS = 1_000
_MAX_SIDE = 2048  # pixels that a model may want
_REPEATED = ("layer", "depth", "block", "repeats", "stages", "experts")
_SIZES = ("_size", "_size_per_layer_input", "_theta", "_channel", "_channels")
_LOADING = (
    "auto_map",
    "implementation",
    "quantization",
    "backbone",
    "use_kernels",
    "gguf",
    "transformers_weights",
)
_FOREIGN_TYPES = frozenset({"timm_wrapper", "timm_backbone"})
_PROCESSOR = "preprocessor_config.json"
_SINGLE = "model.safetensors"
_INDEX = f"{_SINGLE}.index.json"
_KEPT = ("config.json", _PROCESSOR, "processor_config.json")
_TASKS = ("ForImageClassification", "ForSequenceClassification", "ForCausalLM")
_HEADED = "LMHeadModel"
"""How the oldest causal language models are called."""
_PROJECTED = "CLIPVisionModelWithProjection"
"""The one encoder that `AutoModel` builds without a part of it."""
_SPEAKING = "LlavaForConditionalGeneration"
"""The one model of images and texts that is built with its head."""


@record
class Processor:
    """What a model's own processor does to images; None where it does not say."""

    mean: tuple[float, ...] | None
    std: tuple[float, ...] | None
    size: int | None


def read_model(path: pathlib.Path, *, max_mb: int) -> "PreTrainedModel":
    """Build the model that `config.json` names and fill it with the folder's safetensors.

    Raises:
        RefusedError: the configuration asks for code, downloads or too much; broken weights.
        InputError: weights that do not fit the model.
    """
    config = _config(path)
    skeleton = _skeleton(config, max_mb, path)
    return _filled(type(skeleton), config, _weights(path, max_mb), path)


def architecture(path: pathlib.Path) -> str:
    """Tell the class that `config.json` names; empty where it names none.

    Raises:
        RefusedError: as `read_model`.
    """
    return str((_config(path).architectures or [""])[0])


def read_encoder(path: pathlib.Path, *, max_mb: int) -> nn.Module:
    """Build the encoder of images that `config.json` names, and fill it as `read_model` does.

    A model of images and texts gives the features of images. An encoder whose folder holds no
    weights of a pooling layer is built without one.

    Raises:
        RefusedError: as `read_model`.
        InputError: as `read_model`, or the folder holds a classifier or a language model.
    """
    config = _config(path)
    named = (config.architectures or [""])[0]
    if _task(named):
        raise InputError(f"expected an encoder in {path}, whose outputs are features, got {named}")
    kind: Any = type(_skeleton(config, max_mb, path))
    weights = _weights(path, max_mb)
    is_optional = "add_pooling_layer" in inspect.signature(kind).parameters
    bare = is_optional and not any("pooler." in name for name in weights)
    model = _filled(kind, config, weights, path, **({"add_pooling_layer": False} if bare else {}))
    return ImageTower(model) if hasattr(model, "get_image_features") else model


def read_clip(path: pathlib.Path, *, max_mb: int) -> "CLIPModel":
    """Build the CLIP of images and texts that `config.json` describes, and fill it.

    Raises:
        RefusedError: as `read_model`.
        InputError: as `read_model`, or the folder holds another kind of model.
    """
    from transformers import CLIPModel

    config = _config(path)
    kind = type(_skeleton(config, max_mb, path))
    if kind is not CLIPModel:
        raise InputError(f"expected a CLIPModel in {path}, got {kind.__name__}")
    model = _filled(kind, config, _weights(path, max_mb), path)
    assert isinstance(model, CLIPModel)
    return model


class ImageTower(nn.Module):
    """A model of images and texts, as an encoder of images."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: Tensor) -> Any:
        """Give what the model says of standardised images, their features among it."""
        return self.model.get_image_features(pixel_values=images)


def write_model(model: nn.Module, source: pathlib.Path, out: pathlib.Path) -> None:
    """Write the weights of a model to a new folder, beside its settings as they came.

    Of `source` only the settings of the model and of its processor are copied: no code, no other
    weights.

    Raises:
        InputError: it is no model of transformers.
        RefusedError: the settings are gone, or of another size than when they were read.
    """
    from transformers import PreTrainedModel

    whole = model.model if isinstance(model, ImageTower) else model
    if not isinstance(whole, PreTrainedModel):
        raise InputError(f"expected a model of transformers, got {type(whole).__name__}")
    with _silently():
        whole.save_pretrained(out)
    for name in _KEPT:
        if (source / name).exists():
            (out / name).write_bytes(read_bounded(source / name, _MAX_JSON))


def untrained(path: pathlib.Path, *, max_mb: int, **known: int) -> nn.Module:
    """Build the model that `config.json` names with fresh weights.

    Args:
        path: folder with `config.json`; weights in it are not read.
        max_mb: what the model may take.
        known: sizes of the data: `classes`, `channels`, `size`; they replace those of the folder.
    """
    config = _config(path)
    names = {"classes": "num_labels", "channels": "num_channels", "size": "image_size"}
    for name, value in known.items():
        if name in names and hasattr(config, names[name]):
            setattr(config, names[name], value)
    skeleton = _skeleton(config, max_mb, path)
    with refusing(path, *_failures()):
        return type(skeleton)(config)


def class_names(model: "PreTrainedModel") -> tuple[str, ...] | None:
    """Names of the classes, where the configuration has names of its own for them."""
    names: dict[Any, str] = model.config.id2label or {}
    ordered = tuple(str(names.get(i, "")) for i in range(len(names)))
    generic = all(name == f"LABEL_{i}" for i, name in enumerate(ordered))
    return ordered if not generic and all(n and n.isprintable() for n in ordered) else None


def processor(path: pathlib.Path) -> Processor:
    """Read mean, standard deviation and size from the processor's configuration.

    A processor may leave pixels in [0, 255], or scale them otherwise than to [0, 1]: mean and
    deviation are those that do the same to images in [0, 1].

    Raises:
        RefusedError: the numbers make no sense, or are too large.
        InputError: the processor does what is not supported.
    """
    file, said = _described(path)
    with refusing(file):
        scale = 255 * float(said.get("rescale_factor", 1 / 255)) if _does(said, "rescale") else 255
        mean, std = (_numbers(said.get(key)) for key in ("image_mean", "image_std"))
        if not _does(said, "normalize"):
            mean, std = (0.0,), (1.0,)
        size = said.get("crop_size") if said.get("do_center_crop") else said.get("size")
        if isinstance(size, dict):
            if size.get("height") != size.get("width", size.get("height")):
                raise InputError(f"expected square images in {file}, got {size}")
            size = size.get("height") or size.get("shortest_edge")
        size = None if size is None else int(size)
    if said.get("do_flip_channel_order"):
        raise InputError(f"expected channels in the order RGB in {file}, it asks for BGR")
    if not (size is None or 0 < size <= _MAX_SIDE):
        raise RefusedError(f"expected a size of 1 to {_MAX_SIDE} pixels in {file}, got {size}")
    if not 0 < scale < math.inf or (std is not None and min(std, default=0) <= 0):
        raise RefusedError(f"expected a scale and deviations above 0 in {file}, got {scale}, {std}")
    return Processor(
        mean=mean and tuple(value / scale for value in mean),
        std=std and tuple(value / scale for value in std),
        size=size,
    )


def _does(said: dict[str, Any], what: str) -> bool:
    return bool(said.get(f"do_{what}", True))


def _described(path: pathlib.Path) -> tuple[pathlib.Path, dict[str, Any]]:
    """Find what a folder says of images: in a file of its own, or among other inputs."""
    if (path / _PROCESSOR).exists() or not (path / _KEPT[2]).exists():
        file = path / _PROCESSOR
        return file, _json(file) if file.exists() else {}
    said = _json(path / _KEPT[2]).get("image_processor", {})
    if not isinstance(said, dict):
        raise RefusedError(f"expected settings of images by name in {path / _KEPT[2]}")
    return path / _KEPT[2], said


def _numbers(values: Any) -> tuple[float, ...] | None:
    if values is None:
        return None
    numbers = tuple(float(value) for value in values)
    if not torch.tensor(numbers).isfinite().all():
        raise RefusedError(f"expected finite means and deviations, got {numbers}")
    return numbers


def _json(path: pathlib.Path) -> dict[str, Any]:
    with refusing(path):
        said = json.loads(read_bounded(path, _MAX_JSON))
    if not isinstance(said, dict):
        raise RefusedError(f"expected settings by name in {path}")
    return said


def _config(path: pathlib.Path) -> "PretrainedConfig":
    _, files = listing(path, path)
    if "adapter_config.json" in files:
        raise RefusedError(f"expected a whole model, got an adapter: {path}")
    said = _json(path / "config.json")
    named = said.get("architectures") or []
    if not (isinstance(named, list) and all(isinstance(name, str) for name in named)):
        raise RefusedError(f"expected names of classes as architectures in {path}, got {named!r}")
    with refusing(path / "config.json"):
        _check_settings(said, path)
    return _made(said, path)


def _made(said: dict[str, Any], path: pathlib.Path) -> "PretrainedConfig":
    from transformers import AutoConfig

    kind = said.pop("model_type", None)
    if not isinstance(kind, str) or kind in _FOREIGN_TYPES:
        raise RefusedError(f"expected a model_type of transformers in {path}, got {kind!r}")
    with refusing(path / "config.json", *_failures()):
        return AutoConfig.for_model(kind, **{**said, "return_dict": True})


def _check_settings(said: Any, path: pathlib.Path, name: str = "") -> None:
    """Refuse settings that make transformers load or run something, and absurd numbers."""
    _check_loading(said, path, name)
    if isinstance(said, dict):
        for key, value in said.items():
            _check_settings(value, path, key)
            _check_repeats(value, path, key)
    elif isinstance(said, list):
        for value in said:
            _check_settings(value, path, name)
    elif isinstance(said, int | float):
        counts = any(word in name for word in _REPEATED) and not name.endswith(_SIZES)
        most = _MAX_REPEATS if counts else _MAX_NUMBER
        if not -most <= said <= most:
            raise RefusedError(f"expected {name!r} of at most {most} in {path}, got {said}")


def _check_loading(said: Any, path: pathlib.Path, name: str) -> None:
    if any(word in name for word in _LOADING) and said not in (None, False, {}, "eager", "sdpa"):
        raise RefusedError(
            f"{path}/config.json has a setting {name!r} that would load code or other models"
        )
    if name == "model_type" and said in _FOREIGN_TYPES:
        raise RefusedError(f"expected parts of transformers in {path}, got model_type {said!r}")


def _check_repeats(said: Any, path: pathlib.Path, name: str) -> None:
    """Refuse lists that say to repeat parts of them, as `[[["global"], 12]]` does, too often."""
    repeats = _repeats(said) if isinstance(said, list) else 0
    length = repeats and repeats * len(json.dumps(said))
    if length > _MAX_NUMBER:
        raise RefusedError(
            f"expected {name!r} of at most {_MAX_NUMBER} characters in {path} once its parts are "
            f"repeated as it says, got up to {length}"
        )


def _repeats(values: list[Any]) -> int | float:
    """Sum the numbers in a list and its lists that stand beside anything but numbers."""
    numbers = [abs(value) for value in values if isinstance(value, int | float)]
    own = sum(numbers) if len(numbers) < len(values) else 0
    return own + sum(_repeats(value) for value in values if isinstance(value, list))


def _task(named: str) -> str:
    """Tell from a class's name what the model is for; empty for a model without a head."""
    if named.endswith(_HEADED):
        return "ForCausalLM"
    return next((task for task in _TASKS if named.endswith(task)), "")


def _built(config: "PretrainedConfig", named: str) -> "PreTrainedModel":
    import transformers

    if named == _PROJECTED and isinstance(config, transformers.CLIPVisionConfig):
        return transformers.CLIPVisionModelWithProjection(config)
    if named == _SPEAKING and isinstance(config, transformers.LlavaConfig):
        return transformers.LlavaForConditionalGeneration(config)
    maker = getattr(transformers, f"AutoModel{_task(named)}")
    return maker.from_config(config, trust_remote_code=False)


def _skeleton(config: "PretrainedConfig", max_mb: int, path: pathlib.Path) -> "PreTrainedModel":
    """Build the model without memory, to see its class and size."""
    with refusing(path, *_failures()), torch.device("meta"):
        model = _built(config, (config.architectures or [""])[0])
    tensors = itertools.chain(model.parameters(), model.buffers())  # some buffers are not stored
    size = sum(value.numel() * value.itemsize for value in tensors)
    if size > max_mb * 2**20:
        raise RefusedError(
            f"expected a model of at most {max_mb} MB in {path}, got {size >> 20} MB"
        )
    return model


def _filled(
    kind: Any,
    config: "PretrainedConfig",
    weights: dict[str, Tensor],
    path: pathlib.Path,
    **parts: bool,
) -> "PreTrainedModel":
    """Make a model with the given weights, all of them and no others."""
    check_weights(weights, path)
    with refusing(path, *_failures()), _silently():
        model, info = kind.from_pretrained(
            None,
            config=config,
            state_dict=weights,
            output_loading_info=True,
            dtype=torch.float32,
            **parts,
        )
    wrong = {kind: sorted(map(str, names)) for kind, names in info.items() if names}
    if wrong:
        raise InputError(f"expected the weights of {path} to fit its model, got {wrong}")
    return model


def _weights(path: pathlib.Path, max_mb: int) -> dict[str, Tensor]:
    """Read the tensors that transformers would load, from the files that it would read.

    Other weights beside them are refused: names that differ by a prefix load into one parameter,
    and then the audited model would not be the one that its user gets.
    """
    _, files = listing(path, path)
    found = [name for name in files if name.endswith(".safetensors")]
    if not found:
        raise RefusedError(
            f"expected weights as .safetensors in {path}, got {files}; pickles are not opened"
        )
    wanted = _shards(path) if _INDEX in files else {_SINGLE: None}
    if found != sorted(wanted):
        raise RefusedError(
            f"expected the weights of {path} in {sorted(wanted)} alone, which transformers reads, "
            f"got {found}: take out what does not belong to the model"
        )
    if sum((path / name).stat().st_size for name in found) > max_mb * 2**20:
        raise RefusedError(f"expected at most {max_mb} MB of weights in {path}; raise the bound")
    weights: dict[str, Tensor] = {}
    for name, held in wanted.items():
        part = read_weights(path / name, max_mb=max_mb)
        if held is not None and held != part.keys():
            raise RefusedError(
                f"expected {path / name} to hold what {_INDEX} says, got other tensors: save the "
                "model again"
            )
        weights |= part
    return weights


def _shards(path: pathlib.Path) -> dict[str, set[str] | None]:
    """Say which tensors each file holds, by the index; refused beside a file with all of them."""
    said = _json(path / _INDEX).get("weight_map")
    if not isinstance(said, dict) or not all(isinstance(name, str) for name in said.values()):
        raise RefusedError(f"expected a weight_map with a file for every tensor in {path / _INDEX}")
    held: dict[str, set[str] | None] = {name: set() for name in said.values()}
    for tensor, name in said.items():
        own = held[name]
        assert own is not None
        own.add(tensor)
    return held


@contextlib.contextmanager
def _silently() -> Iterator[None]:
    """Keep transformers from drawing bars: only the command line shows progress."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _failures() -> tuple[type[Exception], ...]:
    """What transformers raises on configurations that it cannot build."""
    from huggingface_hub.errors import StrictDataclassError

    return (RuntimeError, ArithmeticError, AssertionError, ImportError, StrictDataclassError)
