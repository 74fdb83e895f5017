"""Memory that a graph of another party may take: known before an operator runs, and bounded."""

import os
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental import _config
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from assay.errors import RefusedError

_AT_LEAST = 2**28
_A_SAMPLE = 2**22
_A_BYTE = 256
_A_WEIGHT = 4


def most_held(inputs: Tensor, weights: int) -> int:
    """Bytes that the values of a run may hold at a time.

    Measured on real networks, a batch of 224x224 images holds 9 times its own size in ViT-B/16, 16
    times in ResNet-50 and 43 times in VGG-16; one of 518x518 images 120 times in ViT-g/14 that
    keeps its attention scores, the most that was found. Hence 256 times the input. The layers of a
    network for small images are as wide, hence 4 MB a sample; and weights may be copied in another
    type or scale, hence four times the weights.

    Where gradients are kept every layer counts, so that there is no such ratio, only what the
    machine has: three quarters of it. A GPU refuses by itself what it cannot hold, a CPU does not.
    """
    most = sys.maxsize
    if inputs.device.type == "cpu":
        most = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") * 3 // 4
    if torch.is_grad_enabled():
        return most
    samples = inputs.shape[0] if inputs.ndim else 1
    wanted = _AT_LEAST + samples * _A_SAMPLE + inputs.nbytes * _A_BYTE + weights * _A_WEIGHT
    return min(most, wanted)


class Held:
    """What the values of a run hold: each storage once, for as long as something keeps it."""

    def __init__(self, most: int) -> None:
        self._most, self._total = most, 0
        self._storages: dict[int, tuple[StorageWeakRef, int]] = {}

    def add(self, value: object) -> None:
        """Count what a value holds: a tensor, several, or none."""
        for part in value if isinstance(value, tuple | list) else (value,):
            if isinstance(part, Tensor):
                storage = part.untyped_storage()
                seen = StorageWeakRef(storage)
                if seen.cdata not in self._storages:
                    self._storages[seen.cdata] = seen, storage.nbytes()
                    self._total += storage.nbytes()

    def check(self, more: int) -> None:
        """Check that there is room for `more` bytes.

        Raises:
            RefusedError: there is not.
        """
        if self._total + more > self._most:
            kept = {key: one for key, one in self._storages.items() if not one[0].expired()}
            self._storages, self._total = kept, sum(size for _, size in kept.values())
        if self._total + more > self._most:
            raise RefusedError(
                f"expected a graph that holds at most {self._most >> 20} MB for such a batch, got "
                f"{self._total >> 20} MB and an operator that makes {more >> 20} MB; it is made to "
                "fill the memory, or the batch is too large"
            )


def bytes_made(call: Callable[[dict[str, Any]], object], values: dict[str, Any]) -> int:
    """Bytes of the largest result that a call computes on the way, without computing it.

    It runs on tensors without numbers. A mask, whose numbers decide the size of a result, counts
    as if it kept everything; views count as copies.

    Raises:
        RefusedError: a value is neither a tensor nor a number.
    """
    empty = {name: _without_numbers(value) for name, value in values.items()}
    everything = _config.patch(meta_nonzero_assume_all_nonzero=True)  # type: ignore[attr-defined]
    seen = _Largest()
    with torch.no_grad(), everything, seen:
        call(empty)
    return seen.bytes


def _without_numbers(value: object) -> object:
    if isinstance(value, Tensor):
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")
    if isinstance(value, torch.device):
        return torch.device("meta")
    if not isinstance(value, int | float | None):  # tensors in it would have their numbers
        raise RefusedError(f"expected a graph of tensors and sizes, got {type(value).__name__}")
    return value


class _Largest(TorchDispatchMode):
    """Records the most bytes that one operator gives, those inside of others included."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.bytes = 0

    def __torch_dispatch__(
        self,
        func: torch._ops.OpOverload,
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        more = dict(kwargs or {})
        if any(argument.name == "device" for argument in func._schema.arguments):  # noqa: SLF001
            more["device"] = torch.device("meta")
        result = func(*args, **more)
        made = sum(part.nbytes for part in tree_leaves(result) if isinstance(part, Tensor))
        self.bytes = max(self.bytes, made)
        return result
