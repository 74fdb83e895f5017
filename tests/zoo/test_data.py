import os
import pathlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from assay.errors import InputError, UsageError
from assay.randomness import Seed
from assay_zoo.data import load, stratified_order

SIZES = {"train": 900, "trusted": 200, "test": 400}


def rows(samples) -> set[bytes]:
    return {row.numpy().tobytes() for row in samples.inputs[:]}


def test_the_parts_are_disjoint_and_stratified() -> None:
    split = load("digits", **SIZES, seed=Seed(1))
    assert (len(split.train), len(split.trusted), len(split.test)) == tuple(SIZES.values())
    shares = split.train.labels.bincount() / 900
    for part in (split.trusted, split.test):
        assert (part.labels.bincount(minlength=10) / len(part) - shares).abs().max() < 0.012
    assert not rows(split.train) & rows(split.trusted)
    assert not rows(split.test) & (rows(split.train) | rows(split.trusted))


def test_the_seed_alone_decides() -> None:
    first, second, other = (load("digits", **SIZES, seed=Seed(s)) for s in (1, 1, 2))
    assert torch.equal(first.train.inputs[:], second.train.inputs[:])
    assert not torch.equal(first.train.labels, other.train.labels)


@given(counts=st.lists(st.integers(1, 30), min_size=1, max_size=8), seed=st.integers(0, 2**40))
def test_every_stretch_has_the_class_shares_of_the_whole(counts: list[int], seed: int) -> None:
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    order = stratified_order(labels, seed=Seed(seed))
    assert torch.equal(order.sort().values, torch.arange(len(labels)))
    first = labels[order[: len(labels) // 2]].bincount(minlength=len(counts))
    assert (first - torch.tensor(counts) / 2).abs().max() <= len(counts) + 1.5


@pytest.mark.skipif(
    not (pathlib.Path(os.environ.get("ASSAY_DATA", "../shared/data")) / "gtsrb").is_dir(),
    reason="the traffic signs are not in $ASSAY_DATA",
)
def test_trusted_frames_of_traffic_signs_are_of_the_same_signs_as_the_suspects() -> None:
    """Frames of one sign are near-duplicates: nearer to each other than to the test file's."""
    split = load("gtsrb", train=2000, trusted=400, test=400, seed=Seed(1))

    def nearest(part) -> float:
        flat = [each.inputs[:].flatten(1).float() for each in (part, split.train)]
        return torch.cdist(*flat).amin(1).median().item()

    assert nearest(split.trusted) < 0.8 * nearest(split.test)
    assert not rows(split.trusted) & rows(split.train)


def test_tables_are_floats() -> None:
    split = load("breast-cancer", train=300, trusted=100, test=169, seed=Seed(0))
    assert split.train.inputs.dtype == torch.float32
    assert split.train.inputs.shape == (300, 30)
    assert split.train.class_names == ("malignant", "benign")


def test_what_is_not_there_is_said() -> None:
    with pytest.raises(InputError, match="1797"):
        load("digits", train=1000, trusted=500, test=500, seed=Seed(0))
    with pytest.raises(UsageError, match="fashion-mnist"):
        load("mnist", train=1, trusted=1, test=1, seed=Seed(0))
