import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from assay.errors import InputError
from assay.samples import Rows, Samples


def images(count, **changes):
    settings = {
        "inputs": torch.arange(count, dtype=torch.uint8).reshape(-1, 1, 1, 1).expand(-1, 3, 4, 5),
        "labels": torch.arange(count) % 2,
        "class_names": ("cat", "dog"),
        "ids": tuple(f"{index}.png" for index in range(count)),
    }
    return Samples(**(settings | changes))


@given(st.lists(st.integers(0, 5), max_size=10))
def test_a_subset_keeps_inputs_labels_and_ids_together(rows):
    chosen = images(6).subset(torch.tensor(rows, dtype=torch.int64))
    assert chosen.inputs[:, 0, 0, 0].tolist() == rows
    assert chosen.labels.tolist() == [row % 2 for row in rows]
    assert chosen.ids == tuple(f"{row}.png" for row in rows)
    assert chosen.class_names == ("cat", "dog")


def test_a_subset_does_not_invent_ids():
    assert images(6, ids=None).subset(torch.tensor([1])).ids is None


def test_a_subset_is_a_copy():
    whole = images(3, inputs=torch.zeros(3, 1, 2, 2, dtype=torch.uint8))
    whole.subset(torch.tensor([0, 1])).inputs.fill_(9)
    assert whole.inputs.sum() == 0


def test_sizes_and_kinds():
    whole = images(5, class_names=("cat", "dog", "unseen"))
    assert (len(whole), whole.classes, whole.is_image) == (5, 3, True)
    assert not images(5, inputs=torch.zeros(5, 7)).is_image
    assert isinstance(whole.inputs, Rows)


def test_an_empty_set_is_allowed():
    empty = images(0)
    assert (len(empty), empty.classes) == (0, 2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param(
            {"labels": torch.tensor([0, 1])}, "got 2 labels for 3 samples", id="labels missing"
        ),
        pytest.param({"labels": torch.tensor([0, 1, 2])}, "got 0 to 2", id="label too high"),
        pytest.param({"labels": torch.tensor([-1, 0, 1])}, "got -1 to 1", id="label negative"),
        pytest.param({"class_names": ()}, r"labels in \[0, 0\)", id="no class names"),
        pytest.param({"ids": ("a", "b")}, "got 2 for 3", id="ids missing"),
    ],
)
def test_parts_that_do_not_fit_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        images(3, **changes)
