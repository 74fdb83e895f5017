"""One pass of a model over a data set."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assay.errors import InputError
from assay.fitting import Feed, Precision, logits_of
from assay.fitting.loop import autocast
from assay.records import record

from .maps import last_maps

_MOST_DIMS = 4096  # of features: what follows takes the square of them


@record
class Outputs:
    """What a model says of every sample, and what it saw just before; float32 on the CPU."""

    logits: Float[Tensor, "samples classes"]
    features: Float[Tensor, "samples dims"]
    """The input of the linear layer that runs last; of a model without one, its logits. Of more
    than 4,096 dimensions, means of neighbours."""
    maps: tuple[Float[Tensor, "samples _"], ...] = ()
    """The last of every resolution, the finest first, where they were asked for (`last_maps`)."""


def logits(
    model: nn.Module, data: Feed, *, precision: Precision = Precision.AUTO
) -> Float[Tensor, "samples classes"]:
    """Compute the logits of every sample in evaluation mode, on the data's device."""
    model.eval()
    with torch.inference_mode(), autocast(data.device, precision):
        return torch.cat([logits_of(model(b.inputs)).float() for b in data.ordered()])


def check_answers(model: nn.Module, inputs: Tensor, *, classes: int) -> None:
    """Check that a classifier takes the inputs, and gives each of them a score for every class.

    And that what `extract` keeps of a model can be read off it.

    Raises:
        InputError: it does not, or it cannot.
    """
    expected = f"expected a network that takes inputs of shape {tuple(inputs.shape[1:])}"
    model.eval()
    try:
        with torch.inference_mode(), _last_linear(model), last_maps(model, samples=len(inputs)):
            said = logits_of(model(inputs))
    except Exception as error:
        raise InputError(f"{expected}, got {type(error).__name__}: {error}") from error
    if said.shape != (len(inputs), classes):
        raise InputError(
            f"{expected} and answers {len(inputs)} of them with ({len(inputs)}, {classes}) scores, "
            f"one a class, got {tuple(said.shape)}"
        )


def extract(
    model: nn.Module, data: Feed, *, precision: Precision = Precision.AUTO, maps: bool = False
) -> Outputs:
    """Compute, in one pass in evaluation mode, what a model says of every sample and sees in it.

    Args:
        model: any classifier.
        data: whose labels do not matter.
        precision: to compute in.
        maps: whether to keep maps too.

    Returns:
        Logits, penultimate features and maps.
    """
    blocks: list[Sequence[Tensor]] = []
    with contextlib.ExitStack() as watching:
        seen = watching.enter_context(_last_linear(model))
        if maps:
            blocks = watching.enter_context(last_maps(model, samples=len(data)))
        said = logits(model, data, precision=precision).cpu()
    return Outputs(
        logits=said,
        features=torch.cat(seen) if sum(map(len, seen)) == len(said) else said,
        maps=tuple(map(torch.cat, zip(*blocks, strict=True))),
    )


@contextlib.contextmanager
def _last_linear(model: nn.Module) -> Iterator[list[Float[Tensor, "batch dims"]]]:
    """Collect, of every batch, the input of the linear layer that runs last.

    The first batch decides which one that is, among those that are given a row a sample. The list
    grows by a block of float32 on the CPU with every batch in which it runs.
    """
    seen: list[Tensor] = []
    head: nn.Module | None = None
    latest: tuple[nn.Module, Tensor] | None = None
    size = 0

    def begin(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal size, latest
        size, latest = len(inputs[0]), None

    def keep(module: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        nonlocal latest
        given = inputs[0] if inputs else named["input"]
        if head in (None, module) and given.ndim > 1 and len(given) == size:
            latest = module, given

    def end(*_: object) -> None:
        nonlocal head, latest
        if latest is not None:
            head = latest[0]
            seen.append(_narrowed(latest[1]).cpu())
        latest = None

    handles = [
        model.register_forward_pre_hook(begin),
        *(m.register_forward_pre_hook(keep, with_kwargs=True) for m in _linear_layers(model)),
        model.register_forward_hook(end),
    ]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _linear_layers(model: nn.Module) -> list[nn.Linear]:
    """List linear layers, but for those of PyTorch's transformer layers.

    These see tokens, and where one is watched, the transformer layer computes in another way.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.TransformerEncoderLayer)]
    inside = {part for layer in layers for part in layer.modules()}
    return [m for m in model.modules() if isinstance(m, nn.Linear) and m not in inside]


def _narrowed(inputs: Tensor) -> Float[Tensor, "batch dims"]:
    wide = inputs.float().flatten(1)
    if wide.shape[1] > _MOST_DIMS:
        return nn.functional.adaptive_avg_pool1d(wide, _MOST_DIMS)
    return wide
