"""What a model sees where: its last map at every resolution, coarsely."""

import contextlib
import math
from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

_CELLS = 4  # a side; tokens get as many as a map
_MOST_CHANNELS = 64  # of a map
_MOST_VALUES = 2**27  # of all samples, 512 MiB


@contextlib.contextmanager
def last_maps(
    model: nn.Module, *, samples: int
) -> Iterator[list[Sequence[Float[Tensor, "batch dims"]]]]:
    """Collect the last map of each resolution, averaged over 4 x 4 cells, of every batch.

    Penultimate features say what a sample is; maps still say what lies where, such as a patch in a
    corner, or a pattern over everything. Of maps with more than 64 channels, or fewer where there
    are very many samples, random mixtures of the channels are taken, always the same. The first
    batch decides which modules make them.

    Args:
        model: any model; batches pass through it in the body of the `with`.
        samples: of all batches.

    Yields:
        A list that grows by every batch: one block a resolution, the finest first, of float32 on
        the CPU; no block of a model that has no maps, nor tokens.
    """
    seen: dict[tuple[int, ...], Tensor] = {}
    makers: dict[tuple[int, ...], nn.Module] = {}
    batches: list[Sequence[Tensor]] = []
    size, is_square = 0, False

    def begin(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal size, is_square
        size, is_square = len(inputs[0]), shows_squares(*inputs)
        seen.clear()

    def keep(module: nn.Module, _: tuple[object, ...], output: object) -> None:
        found = _map_of(output, size, of_squares=is_square)
        if found is None:
            return
        place = tuple(found.shape[2:])
        # later, in a batch of one sample, what depends on no sample looks like a map too
        if not batches or makers.get(place) is module:
            seen[place], makers[place] = found, module

    def end(*_: object) -> None:
        places = sorted(makers, key=lambda place: -math.prod(place))
        found = [seen[place] for place in places if place in seen]
        batches.append(_coarse(found, samples=samples))

    handles = [
        model.register_forward_pre_hook(begin),
        *(module.register_forward_hook(keep) for module in model.modules()),
        model.register_forward_hook(end),
    ]
    try:
        yield batches
    finally:
        for handle in handles:
            handle.remove()


def _map_of(output: object, size: int, *, of_squares: bool) -> Tensor | None:
    """Take what a module puts out for a map or tokens, channels first, of `size` samples."""
    if not isinstance(output, Tensor) or not output.is_floating_point():
        return None
    if output.ndim < 3 or len(output) != size:  # windows, and tokens first, are others
        return None
    found = output.mT if output.ndim == 3 else channels_first(output, of_squares=of_squares)
    return found if found.shape[2:].numel() > 1 else None


def shows_squares(*inputs: object) -> bool:
    """Tell whether the first of a model's inputs are square images."""
    images = inputs[0] if inputs else None
    return isinstance(images, Tensor) and images.ndim == 4 and images.shape[2] == images.shape[3]


def channels_first(output: Tensor, *, of_squares: bool) -> Tensor:
    """Put channels before the places where they lie last, as in some transformers and ConvNeXt.

    This can be told of the maps of square images alone, unless there are as many channels as rows.

    Args:
        output: (samples, channels, height, width) or (samples, height, width, channels); what has
            another number of dimensions stays as it is.
        of_squares: whether the model was given square images.
    """
    if not of_squares or output.ndim != 4:
        return output
    is_last = output.shape[1] == output.shape[2] != output.shape[3]
    return output.movedim(3, 1) if is_last else output


def _coarse(maps: Sequence[Tensor], *, samples: int) -> list[Float[Tensor, "batch dims"]]:
    cells = _CELLS * _CELLS
    most = _MOST_VALUES // (samples * cells * max(1, len(maps)))
    most = max(1, min(_MOST_CHANNELS, most))
    parts = []
    for each in maps:
        channels = each.float()
        if channels.shape[1] > most:
            random = torch.Generator().manual_seed(0)
            mix = torch.randn(most, channels.shape[1], generator=random).to(channels.device)
            channels = torch.einsum("mc,bc...->bm...", mix, channels)
        if channels.ndim == 4:
            pooled = nn.functional.adaptive_avg_pool2d(channels, _CELLS)
        else:
            pooled = nn.functional.adaptive_avg_pool1d(channels.flatten(2), cells)
        parts.append(pooled.flatten(1).cpu())
    return parts
