"""Are the trusted samples like the suspects?"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from assay.randomness import Seed, generator
from assay.samples import Samples

from .decision import Scored
from .preflight import Preflight, nearest

_SOME = 2000  # confusing samples that others are compared with


def drawn(samples: Samples, seed: Seed) -> Samples:
    """Draw at most so many samples as are compared."""
    random = generator(seed, torch.device("cpu"))
    return samples.subset(torch.randperm(len(samples), generator=random)[:_SOME].sort().values)


def unlike(
    near: Float[Tensor, " calibration"],
    some: Samples,
    samples: Samples,
    mixed_in: Samples,
    *,
    scored: tuple[Scored, Scored],
    preflight: Preflight,
    seed: Seed,
) -> tuple[str, ...]:
    """Check that trusted samples are like the suspects, or like those that do not stand out.

    The second holds where much poison moved suspects away, as all-to-all attacks do (Fashion-MNIST
    at 30 %), and not where all suspects come from elsewhere.

    Args:
        near: how far each sample of the calibration lies from the confusing ones.
        some: the confusing samples that were compared with (`drawn`).
        samples: the suspects.
        mixed_in: the calibration.
        scored: suspects and calibration.
        preflight: what is too far.
        seed: decides which suspects are compared.

    Returns:
        Why they are not alike; empty where they are.
    """

    def asked(rows: Int64[Tensor, " some"]) -> tuple[str, ...]:
        matched = _matched(samples, rows, mixed_in, seed)
        return preflight.alike(near, nearest(matched.inputs[:], some.inputs[:])[0])

    found = asked(torch.arange(len(samples)))
    if not found:
        return ()
    suspects, calibration = scored
    usual = suspects.scores <= calibration.scores.max()
    if int(usual.sum()) < len(near):
        return found
    return asked(usual.nonzero().squeeze(1)) and found


def _matched(
    samples: Samples, among: Int64[Tensor, " some"], others: Samples, seed: Seed
) -> Samples:
    """Draw of some samples, of each class twice as many as of the others, or all that there are."""
    random = generator(seed, torch.device("cpu"))
    order = among[torch.randperm(len(among), generator=random)]
    labels = samples.labels[order]
    counts = others.labels.bincount(minlength=samples.classes).tolist()
    rows = [order[labels == label][: 2 * count] for label, count in enumerate(counts)]
    return samples.subset(torch.cat(rows).sort().values)
