"""Show a model what it has not learnt yet more often than what it has."""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from assay.randomness import Seed, generator
from assay.records import record

from .feed import Batch


@record
class Focus:
    """Which samples the later epochs show: those with the highest losses, and a few of the others.

    So a model fits all samples, the hard ones too, in fewer passes. For what has to be learnt by
    heart: clean accuracy is not what this is for.

    Source:
        Loshchilov, Hutter, "Online batch selection for faster training of neural networks", 2015,
        arXiv:1511.06343; Jiang et al., "Accelerating deep learning by focusing on the biggest
        losers", 2019, arXiv:1910.00762.
    Differs from the source:
        Losses are those that training steps computed when they last saw a sample, so that nothing
        is computed for the choice; the number of samples is fixed, so that the schedule is known.
    """

    first: float = 0.25
    """Share of the epochs that show all samples, in [0, 1]."""
    hardest: float = 0.5
    """Share of the samples with the highest losses that each later epoch shows."""
    others: float = 0.1
    """Share of the other samples that it shows, drawn anew each time."""

    def sizes(self, samples: int, epochs: int) -> list[int]:
        """Count the samples of each epoch."""
        whole = round(self.first * epochs)
        hard = round(self.hardest * samples)
        later = min(samples, max(2, hard + round(self.others * (samples - hard))))
        return [samples if epoch < whole else later for epoch in range(epochs)]

    def among(
        self, losses: Float[Tensor, " samples"], size: int, *, seed: Seed
    ) -> Int64[Tensor, " size"]:
        """Choose the samples of an epoch by their last losses, infinite before the first."""
        random = generator(seed, losses.device)
        hard = min(size, round(self.hardest * len(losses)))
        easy = torch.randperm(len(losses) - hard, generator=random)
        mixed = torch.randperm(len(losses), generator=random)  # so that equal ones come as it falls
        ranked = mixed[losses[mixed].argsort(descending=True, stable=True)]
        return torch.cat([ranked[:hard], ranked[hard:][easy[: size - hard]]])


EVERYTHING = Focus(first=1.0)
"""Every epoch shows all samples."""


class Losses:
    """Mean cross-entropy of a batch, in nats, that remembers what it was for each sample.

    Nothing waits for the device but the end of an epoch.
    """

    def __init__(self, samples: int, batch_size: int, device: torch.device) -> None:
        self.last = torch.full((samples,), torch.inf)
        """Of each sample when a step last saw it, in nats, infinite where none did; on the CPU,
        changed in place."""
        self._now = torch.zeros(batch_size, device=device)  # the same memory in every step

    def __call__(self, logits: Float[Tensor, "batch classes"], batch: Batch) -> Float[Tensor, ""]:
        """Compute the loss of a batch."""
        each = nn.functional.cross_entropy(logits, batch.targets, reduction="none")
        self._now[: len(each)].copy_(each.detach())
        return each.mean()

    def noted(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Pass on the batches of an epoch; a step was taken on one when the next is asked for."""
        rows, losses = [], []
        for batch in batches:
            yield batch
            rows.append(batch.rows)
            losses.append(self._now[: len(batch.rows)].clone())
        if rows:
            self.last[torch.cat(rows)] = torch.cat(losses).cpu()
