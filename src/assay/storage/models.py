"""Models of every form, loaded without running anything that came with them."""

import importlib
import inspect
import pathlib
from collections.abc import Callable, Collection

from torch import nn

from assay.errors import InputError, RefusedError, UsageError
from assay.records import record

from . import exported, huggingface
from .files import digest_path, existing
from .weights import PICKLED, fill, read_weights

Factory = Callable[..., nn.Module]
"""Makes an untrained network; takes `classes`, `channels`, `size` or `dims` by name."""


@record
class LoadedModel:
    """A model of another party, in evaluation mode on the CPU.

    Weights are float32, except in `.pt2` archives, which keep the types that they were saved in.
    """

    model: nn.Module
    digest: str
    """SHA-256 of the file or folder that the weights came from."""
    origin: str
    """The source as the user named it."""
    class_names: tuple[str, ...] | None
    mean: tuple[float, ...] | None
    """One a channel, of images in [0, 1], as the model's own processor says."""
    std: tuple[float, ...] | None
    size: int | None
    """Height and width of its inputs in pixels."""


def load_model(
    source: str, *, max_mb: int = 16_384, encoder: bool = False, **known: int
) -> LoadedModel:
    """Load a trained model that someone else made.

    Args:
        source: a Hugging Face folder; a `.pt2` file; or `WEIGHTS@package.module:factory`, where
            WEIGHTS is a `.safetensors` file (or `.pt`, `.pth`, `.bin` with nothing but tensors)
            and the factory is code of the user.
        max_mb: what files and weights may take.
        encoder: whether a folder must hold an encoder of images; other forms are what they are.
        known: what a factory may ask for by name: `classes`, `channels`, `size`, `dims`.

    Raises:
        UsageError: there is no such path, module or factory.
        RefusedError: the source is malformed, oversized or tries to run code.
        InputError: weights that do not fit the model, or a form that is not supported.
    """
    if "@" in source and not pathlib.Path(source).exists():
        return _with_factory(source, max_mb, known)
    path = existing(pathlib.Path(source))
    if path.is_dir():
        return _from_folder(path, source, max_mb, encoder=encoder)
    if path.suffix == ".pt2":
        program, size = exported.read_program(path, max_mb=max_mb)
        return LoadedModel(
            model=program.eval(),
            digest=digest_path(path),
            origin=source,
            class_names=None,
            mean=None,
            std=None,
            size=size,
        )
    if path.suffix in {".safetensors", *PICKLED}:
        raise UsageError(f"expected {source}@package.module:factory, got weights without a network")
    raise InputError(f"expected a Hugging Face folder, a .pt2 or WEIGHTS@FACTORY, got {source}")


def load_factory(source: str, *, max_mb: int = 16_384) -> Factory:
    """Find what makes untrained networks.

    Args:
        source: `package.module:factory`, code of the user; or a Hugging Face folder, of which
            only `config.json` is read.
        max_mb: what a network of a folder may take.

    Returns:
        A function that takes `classes`, `channels`, `size` or `dims` by name, passes on what the
        factory accepts, and draws weights from torch's global generator.

    Raises:
        UsageError: there is no such path, module or factory.
        RefusedError: as for `load_model`.
    """
    if ":" in source and not pathlib.Path(source).exists():
        return _imported(source)
    path = existing(pathlib.Path(source))
    if not path.is_dir():
        raise UsageError(f"expected package.module:factory or a Hugging Face folder, got {source}")
    return lambda **known: huggingface.untrained(path, max_mb=max_mb, **known)


def _with_factory(source: str, max_mb: int, known: dict[str, int]) -> LoadedModel:
    place, _, factory = source.rpartition("@")
    path = existing(pathlib.Path(place))
    model = _imported(factory)(**known)
    fill(model, read_weights(path, max_mb=max_mb), path)
    return LoadedModel(
        model=model.float().eval(),
        digest=digest_path(path),
        origin=source,
        class_names=None,
        mean=None,
        std=None,
        size=None,
    )


def _from_folder(path: pathlib.Path, source: str, max_mb: int, *, encoder: bool) -> LoadedModel:
    if not (path / "config.json").is_file():
        raise RefusedError(f"expected a Hugging Face folder with config.json, got {path}")
    names: tuple[str, ...] | None = None
    model: nn.Module
    if encoder:
        model = huggingface.read_encoder(path, max_mb=max_mb)
    else:
        model = classifier = huggingface.read_model(path, max_mb=max_mb)
        names = huggingface.class_names(classifier)
    said = huggingface.processor(path)
    return LoadedModel(
        model=model.eval(),
        digest=digest_path(path),
        origin=source,
        class_names=names,
        mean=said.mean,
        std=said.std,
        size=said.size,
    )


def _imported(source: str) -> Factory:
    module, _, name = source.partition(":")
    try:
        factory = getattr(importlib.import_module(module), name)
        parameters = inspect.signature(factory).parameters.values()
    except (ImportError, AttributeError, TypeError, ValueError) as error:
        raise UsageError(
            "expected package.module:factory on the Python path, a function that makes a network, "
            f"got {source!r}: {error}"
        ) from error

    def make(**known: int) -> nn.Module:
        given = _accepted(parameters, known, source)
        try:
            model = factory(**given)
        except Exception as error:
            raise InputError(
                f"expected a network from {source}, got {type(error).__name__}: {error}"
            ) from error
        if not isinstance(model, nn.Module):
            raise InputError(
                f"expected a torch.nn.Module from {source}, got {type(model).__name__}"
            )
        return model

    return make


def _accepted(
    parameters: Collection[inspect.Parameter], known: dict[str, int], source: str
) -> dict[str, int]:
    """Choose from what is known what a factory takes."""
    missing = [
        p.name
        for p in parameters
        if p.default is p.empty
        and p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY}
        and (p.name not in known or p.kind == p.POSITIONAL_ONLY)
    ]
    if missing:
        raise InputError(
            f"expected a factory that takes only {sorted(known) or 'defaults'}, "
            f"but {source} also needs {missing}"
        )
    if any(p.kind == p.VAR_KEYWORD for p in parameters):
        return known
    names = {p.name for p in parameters}
    return {name: value for name, value in known.items() if name in names}
