"""What a model sees where: its last map at every resolution, coarsely."""

import contextlib
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
    are very many samples, random mixtures of the channels are taken, always the same.

    Args:
        model: any model; batches pass through it in the body of the `with`.
        samples: of all batches.

    Yields:
        A list that grows by every batch: one block a resolution, the finest first, of float32 on
        the CPU; no block of a model that has no maps, nor tokens.
    """
    seen: dict[tuple[int, ...], Tensor] = {}
    batches: list[Sequence[Tensor]] = []
    size = 0

    def begin(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        nonlocal size
        size = len(inputs[0])
        seen.clear()

    def keep(_: nn.Module, __: tuple[object, ...], output: object) -> None:
        if not isinstance(output, Tensor) or not output.is_floating_point():
            return
        if output.ndim and len(output) == size:  # windows, and tokens first, are others
            found = output.mT if output.ndim == 3 else output
            if found.ndim >= 3 and found.shape[2:].numel() > 1:
                seen[tuple(found.shape[2:])] = found

    def end(*_: object) -> None:
        found = sorted(seen.values(), key=lambda each: -each.shape[2:].numel())
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
