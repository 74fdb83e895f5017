import pytest
import torch

from assay.errors import InputError
from assay.repair import Selection, cleanse
from assay.samples import Samples


def some(count: int = 6) -> Samples:
    return Samples(
        inputs=torch.arange(count * 4, dtype=torch.uint8).reshape(count, 1, 2, 2),
        labels=torch.arange(count) % 2,
        class_names=("even", "odd"),
        ids=tuple(f"file {i}" for i in range(count)),
    )


def test_the_flagged_go_and_the_others_keep_order_labels_and_ids() -> None:
    samples = some()
    flagged = torch.tensor([False, True, False, False, True, False])
    left = cleanse(samples, flagged)
    assert torch.equal(left.inputs[:], samples.inputs[:][~flagged])
    assert torch.equal(left.labels, torch.tensor([0, 0, 1, 1]))
    assert left.ids == ("file 0", "file 2", "file 3", "file 5")
    assert len(samples) == 6, "the original was changed"


def test_a_selection_reads_like_a_tensor() -> None:
    base = torch.rand(10, 3)
    rows = torch.tensor([7, 1, 1, 9])
    chosen, expected = Selection(base=base, rows=rows), base[rows]
    assert chosen.shape == expected.shape
    assert len(chosen) == 4
    assert torch.equal(chosen[1:3], expected[1:3])
    assert torch.equal(chosen[torch.tensor([3, 0])], expected[[3, 0]])


@pytest.mark.parametrize(
    "flags", [torch.ones(6, dtype=torch.bool), torch.zeros(5, dtype=torch.bool)]
)
def test_nothing_left_or_flags_that_do_not_fit_are_refused(flags: torch.Tensor) -> None:
    with pytest.raises(InputError, match="expected"):
        cleanse(some(), flags)
