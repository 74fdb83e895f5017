"""Activations on the way through a model, at given relative depths."""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .maps import channels_first, shows_squares

DEPTHS = (0.25, 0.5, 0.75, 1.0)


def activations(
    model: nn.Module,
    run: Callable[[], object],
    *,
    samples: int,
    depths: Sequence[float] = DEPTHS,
) -> Mapping[str, Float[Tensor, "samples dims"]]:
    """Collect what modules put out while `run` passes one batch through the model.

    Modules are those without children, in the order in which they run, each once; a depth is a
    place in that order, which makes different architectures comparable. Outputs of more than two
    dimensions are averaged over all but the samples and the channels.

    Args:
        model: any model; evaluation mode is the caller's business.
        run: passes the batch through the model.
        samples: in the batch; outputs with another number of rows (windows) do not count.
        depths: in (0, 1]; 1 is the last module that puts out a tensor with a row a sample.

    Returns:
        Activations by depth, such as "50%", on the device of the model; none where fewer modules
        than depths put out such a tensor, or one is not finite.
    """
    seen: dict[str, Tensor] = {}
    is_square = False

    def look(_: nn.Module, inputs: tuple[object, ...]) -> None:
        nonlocal is_square
        is_square = shows_squares(*inputs)

    def keeper(name: str) -> Callable[[nn.Module, tuple[object, ...], object], None]:
        def keep(_: nn.Module, __: tuple[object, ...], output: object) -> None:
            if not isinstance(output, Tensor) or not output.is_floating_point():
                return
            if output.ndim > 1 and len(output) == samples:
                seen.setdefault(name, _pooled(channels_first(output, of_squares=is_square)))

        return keep

    leaves = {name: m for name, m in model.named_modules() if not list(m.children())}
    handles = [
        model.register_forward_pre_hook(look),
        *(m.register_forward_hook(keeper(name)) for name, m in leaves.items()),
    ]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    found = list(seen.values())
    if len(found) < len(depths) or not all(each.isfinite().all() for each in found):
        return {}
    return {f"{d:.0%}": found[max(0, round(d * len(found)) - 1)] for d in depths}


def _pooled(output: Tensor) -> Float[Tensor, "samples dims"]:
    """Average over places: (samples, channels, height, width) or (samples, tokens, channels)."""
    if output.ndim == 4:
        return output.float().mean((2, 3))
    if output.ndim == 3:
        return output.float().mean(1)
    return output.float().flatten(1).clone()  # what follows may write into it
