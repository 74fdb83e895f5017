"""Honest twins on one's own machine: what `assay training calibrate` runs."""

import contextlib
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from assay.audits.training import Profile, compare, make_profile
from assay.errors import InputError
from assay.records import record
from assay.results import Progress, silent

Matmul = Literal["highest", "high", "medium"]
"""How float32 matrices are multiplied: in float32, or by way of TF32 or bfloat16 where the machine
does that."""


@record
class Setting:
    """What is set on this machine for an honest twin."""

    threads: int
    matmul: Matmul = "highest"

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Set it inside the block, and set back what was."""
        threads, matmul = torch.get_num_threads(), torch.get_float32_matmul_precision()
        torch.set_num_threads(self.threads)
        torch.set_float32_matmul_precision(self.matmul)
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            torch.set_float32_matmul_precision(matmul)


Train = Callable[[dict[str, Tensor], Int64[Tensor, "steps batch"], int], Mapping[str, Tensor]]
"""From start weights, order and the number of the sub-run to the weights after it."""


def settings(threads: Sequence[int], matmuls: Sequence[Matmul]) -> tuple[Setting, ...]:
    """Combine thread counts and number formats; the first twice, for twins without a difference."""
    made = [Setting(threads=t, matmul=m) for t, m in itertools.product(threads, matmuls)]
    return (*made[:1], *made)


def calibrate(
    train: Train,
    start: Mapping[str, Tensor],
    orders: Sequence[Int64[Tensor, "steps batch"]],
    *,
    twins: Sequence[Setting],
    state: Callable[[Mapping[str, Tensor]], str],
    network: Callable[[], nn.Module] | None = None,
    probes: Tensor | None = None,
    progress: Progress = silent,
) -> Profile:
    """Execute some sub-runs under each setting, and learn how far honest twins lie apart.

    Args:
        train: the plan's callable.
        start: weights that the first sub-run begins with; the next ones go on from the first twin.
        orders: one a sub-run; those of the plan, so that the profile is of its noise. Noise grows
            along a training: take sub-runs from more than its beginning.
        twins: what to set; two or more.
        state: names an environment as providers do, from weights; called under the setting.
        network: as in `compare`.
        probes: as in `compare`.
        progress: called with the stage `calibrate`.

    Raises:
        InputError: fewer than two twins, no sub-run, or a callable that returns other weights.
    """
    if len(twins) < 2 or not orders:
        raise InputError(
            f"expected two twins and one sub-run at least, got {len(twins)} and {len(orders)}"
        )
    found, environments, done = [], {}, 0
    for sub_run, order in enumerate(orders):
        ends = {}
        for place, setting in enumerate(twins):
            with setting.applied():
                copied = {name: value.clone() for name, value in start.items()}
                ends[f"twin {place}"] = train(copied, order, sub_run)
                environments[f"twin {place}"] = state(ends[f"twin {place}"])
            done += 1
            progress("calibrate", done, len(twins) * len(orders))
        found.append(compare(start, ends, sub_run=sub_run, network=network, probes=probes))
        start = ends["twin 0"]
    return make_profile(found, environments)
