"""The two halves of the clean samples: one to search on, one to measure on."""

import torch

from assay.randomness import Seed, child, generator
from assay.samples import Samples
from assay.triggers import Pool


def halves(clean: Samples, *, most: int, seed: Seed, device: torch.device) -> tuple[Pool, Pool]:
    """Split every class in half, as images in [0, 1] on the device.

    Args:
        clean: the clean samples.
        most: at most so many are used, evenly over the classes.
        seed: of the audit; with the same one the halves are the same.
        device: where they are put.

    Returns:
        What to search on, and what to measure on.
    """
    random = generator(child(seed, "pools"), torch.device("cpu"))
    order = torch.randperm(len(clean), generator=random)
    order = order[clean.labels[order].argsort(stable=True)]
    pairs = order[: len(order) // 2 * 2].view(-1, 2)
    if len(order) > most:
        pairs = pairs[torch.linspace(0, len(pairs) - 1, most // 2).long()]
    mixed = [half[torch.randperm(len(half), generator=random)] for half in pairs.unbind(1)]
    first, second = (
        Pool(
            images=clean.inputs[rows].to(device).float() / 255, labels=clean.labels[rows].to(device)
        )
        for rows in mixed
    )
    return first, second
