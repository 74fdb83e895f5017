"""Tasks of images with words: disjoint parts, the same every time."""

import os
import pathlib

import pytest
import torch

from assay.errors import InputError, UsageError
from assay.randomness import Seed
from assay_zoo.data.pictured import (
    SIZE,
    TASKS,
    base_classes,
    few_shots,
    new_classes,
    read_captions,
    read_task,
)

HOME = pathlib.Path(os.environ.get("ASSAY_DATA", "../shared/data"))
needs_data = pytest.mark.skipif(not HOME.is_dir(), reason="the data of $ASSAY_DATA are not here")
PARTS = ("pretraining", "tuning", "trusted", "test")
IN_ONE_FILE = {"digits": 4, "natural": 4}
"""How many of the parts are cut from one file."""


@pytest.mark.parametrize(
    "name", [pytest.param(n, marks=() if n == "digits" else needs_data) for n in TASKS]
)
def test_parts_share_no_image(name: str) -> None:
    task = read_task(name)
    parts = [getattr(task, part) for part in PARTS]
    again = read_task(name)
    for part, samples in zip(PARTS, parts, strict=True):
        assert samples.inputs.shape[1:] == (3, SIZE, SIZE)
        assert samples.label_range == (0, len(task.class_names) - 1)
        assert torch.equal(samples.inputs[:], getattr(again, part).inputs[:])
    cut = parts[: IN_ONE_FILE.get(name, 3)]
    images = {image.numpy().tobytes() for samples in cut for image in samples.inputs[:]}
    repeated = sum(map(len, cut)) - len(images)
    assert repeated <= 0.01 * len(images), "more than the file's own repetitions"


def test_base_and_new_classes_are_halves() -> None:
    task = read_task("digits")
    base, new = base_classes(task), new_classes(task)
    assert base.class_names == ("zero", "one", "two", "three", "four")
    assert base.class_names + new.class_names == task.class_names
    assert len(base.test) + len(new.test) == len(task.test)
    seven = task.test.inputs[task.test.labels == 7]
    assert torch.equal(new.test.inputs[new.test.labels == 2], seven)


def test_shots_are_of_every_class() -> None:
    tuning = read_task("digits").tuning
    images, labels = few_shots(tuning, 4, seed=Seed(1))
    assert labels.bincount().tolist() == [4] * 10
    again, _ = few_shots(tuning, 4, seed=Seed(1))
    other, _ = few_shots(tuning, 4, seed=Seed(2))
    more, _ = few_shots(tuning, 10_000, seed=Seed(1))
    assert torch.equal(images, again)
    assert not torch.equal(images, other)
    assert len(more) == len(tuning)
    nothing = tuning.subset((tuning.labels != 3).nonzero().squeeze(1))
    with pytest.raises(InputError, match="class 3"):
        few_shots(nothing, 4, seed=Seed(1))


def test_what_is_absent_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ASSAY_DATA", str(tmp_path))
    with pytest.raises(UsageError, match="cifar10, fashion-mnist"):
        read_task("nothing")
    with pytest.raises(UsageError):
        read_task("natural")
    with pytest.raises(UsageError, match="ASSAY_DATA"):
        read_captions()


@needs_data
def test_captions_are_cut_in_two() -> None:
    seen, unseen = read_captions(test=100)
    assert len(seen.images) == len(seen.captions) == 900
    assert len(unseen.images) == len(unseen.captions) == 100
    assert all(len(some) == 5 for some in unseen.captions)
