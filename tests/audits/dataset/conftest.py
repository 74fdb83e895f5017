import pytest
import torch
from sklearn.datasets import load_digits

from assay.samples import Samples

NAMES = tuple(f"digit {n}" for n in range(10))


@pytest.fixture(scope="session")
def digits() -> tuple[Samples, Samples]:
    """Real handwritten digits: 1,200 to be poisoned, 400 trusted."""
    held = load_digits()
    images = torch.tensor(held.images * 255 / 16).round().to(torch.uint8)[:, None]
    labels = torch.tensor(held.target).long()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return tuple(
        Samples(inputs=images[rows], labels=labels[rows], class_names=NAMES)
        for rows in (order[:1200], order[1200:1600])
    )
