"""One pass of a model over a data set."""

import contextlib
from collections.abc import Sequence

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
    """The input of the model's last linear layer; of a model without one, its logits. Of more than
    4,096 dimensions, means of neighbours."""
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

    Raises:
        InputError: it does not.
    """
    expected = f"expected a network that takes inputs of shape {tuple(inputs.shape[1:])}"
    model.eval()
    try:
        with torch.inference_mode():
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
    heads = [m for m in model.modules() if isinstance(m, nn.Linear)]
    seen: list[Tensor] = []
    blocks: list[Sequence[Tensor]] = []

    def keep(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        wide = inputs[0].float().flatten(1)
        if wide.shape[1] > _MOST_DIMS:
            wide = nn.functional.adaptive_avg_pool1d(wide, _MOST_DIMS)
        seen.append(wide.cpu())

    with contextlib.ExitStack() as watching:
        if heads:
            watching.callback(heads[-1].register_forward_pre_hook(keep).remove)
        if maps:
            blocks = watching.enter_context(last_maps(model, samples=len(data)))
        said = logits(model, data, precision=precision).cpu()
    return Outputs(
        logits=said,
        features=torch.cat(seen) if heads else said,
        maps=tuple(map(torch.cat, zip(*blocks, strict=True))),
    )
