"""Take the flagged samples out of a data set; the data set itself is left alone."""

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from assay.errors import InputError
from assay.records import record
from assay.samples import Rows, Samples


@record
class Selection:
    """Some rows of a table, read when they are asked for."""

    base: Rows
    rows: Int64[Tensor, " selected"]
    """Which rows of `base`, in the order in which they are given."""

    @property
    def shape(self) -> torch.Size:
        """Samples first."""
        return torch.Size((len(self.rows), *self.base.shape[1:]))

    @property
    def dtype(self) -> torch.dtype:
        """As in the whole table."""
        return self.base.dtype

    def __len__(self) -> int:
        """Count the rows."""
        return len(self.rows)

    def __getitem__(self, rows: slice | Tensor, /) -> Tensor:
        """Read some rows."""
        return self.base[self.rows[rows]]


def cleanse(samples: Samples, flagged: Bool[Tensor, " samples"]) -> Samples:
    """Leave the flagged samples out; the others keep their order, labels and ids.

    Inputs are not copied but read from the original when they are needed.

    Raises:
        InputError: there is not one flag a sample, or nothing would be left.
    """
    if len(flagged) != len(samples):
        raise InputError(
            f"expected one flag a sample, got {len(flagged)} flags for {len(samples)} samples"
        )
    rows = (~flagged).nonzero().squeeze(1).cpu()
    if not len(rows):
        raise InputError(f"expected samples that are not flagged, got {len(samples)} flagged ones")
    return Samples(
        inputs=Selection(base=samples.inputs, rows=rows),
        labels=samples.labels[rows],
        class_names=samples.class_names,
        ids=None if samples.ids is None else tuple(samples.ids[i] for i in rows.tolist()),
    )
