"""Which samples each step sees: drawn from the client's seed, the same for every provider."""

import torch
from jaxtyping import Int64
from torch import Tensor

from assay.randomness import Seed, child, generator

_CPU = torch.device("cpu")


def sample_order(
    samples: int, *, batch: int, first_step: int, steps: int, seed: Seed
) -> Int64[Tensor, "steps batch"]:
    """Draw rows of the data for a stretch of steps.

    The whole training goes through one permutation of all samples after the other, without a gap:
    a step can lie across two of them. A stretch is the same whether or not those before were drawn.

    Returns:
        Indices in [0, samples), on the CPU.
    """
    low, high = first_step * batch, (first_step + steps) * batch
    passes = range(low // samples, (high - 1) // samples + 1)
    rows = [
        torch.randperm(samples, generator=generator(child(seed, "pass", number), _CPU))
        for number in passes
    ]
    start = low - passes.start * samples
    return torch.cat(rows)[start : start + high - low].reshape(steps, batch)
