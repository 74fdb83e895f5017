"""A labelled data set in memory or on disk: what the audits read."""

import hashlib
from collections.abc import Iterator
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int64
from torch import Tensor

from .errors import InputError
from .records import record

_CHUNK = 1024  # inputs that are hashed at once


@runtime_checkable
class Rows(Protocol):
    """A table of inputs, one row a sample: a tensor, or a file that is read piece by piece."""

    @property
    def shape(self) -> torch.Size:
        """Samples first: (samples, channels, height, width) or (samples, dims)."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """`uint8` for images (0 to 255), `float32` for tables and features."""
        ...

    def __len__(self) -> int:
        """Count the samples."""
        ...

    def __getitem__(self, rows: slice | Tensor, /) -> Tensor:
        """Read some rows, by a slice or by an index tensor, as a CPU or device tensor."""
        ...


def row_digests(inputs: Rows) -> Iterator[bytes]:
    """SHA-256 of every input, to find the same ones again."""
    for start in range(0, len(inputs), _CHUNK):
        for row in inputs[start : start + _CHUNK]:
            yield hashlib.sha256(row.contiguous().numpy().tobytes()).digest()


@record
class Samples:
    """A labelled data set.

    Raises:
        InputError: the parts do not fit each other, or a label is not in [0, classes).
    """

    inputs: Rows
    """Images, uint8 (samples, channels, height, width), or float32 (samples, dims)."""
    labels: Int64[Tensor, " samples"]
    """Classes in [0, classes), on the CPU."""
    class_names: tuple[str, ...]
    """One name a class, in label order."""
    ids: tuple[str, ...] | None = None
    """What the source calls each sample (a file name, a row), or None for its index."""
    columns: tuple[str, ...] | None = None
    """Names of the inputs of a table, where it has some."""

    def __post_init__(self) -> None:
        """Check that the parts fit."""
        if len(self.inputs) != len(self.labels):
            raise InputError(
                f"expected one label a sample, got {len(self.labels)} labels for "
                f"{len(self.inputs)} samples"
            )
        if self.ids is not None and len(self.ids) != len(self.labels):
            raise InputError(
                f"expected one id a sample, got {len(self.ids)} for {len(self.labels)}"
            )
        low, high = self.label_range
        if not 0 <= low <= high < self.classes:
            raise InputError(f"expected labels in [0, {self.classes}), got {low} to {high}")

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.labels)

    @property
    def label_range(self) -> tuple[int, int]:
        """The smallest and the largest label; (0, 0) where there are no samples."""
        return (int(self.labels.min()), int(self.labels.max())) if len(self.labels) else (0, 0)

    @property
    def classes(self) -> int:
        """Count the classes, those without samples included."""
        return len(self.class_names)

    @property
    def is_image(self) -> bool:
        """Whether a row is an image (channels, height, width)."""
        return len(self.inputs.shape) == 4

    def subset(self, rows: Int64[Tensor, " chosen"]) -> "Samples":
        """Read the chosen rows into memory, in the given order."""
        return Samples(
            inputs=self.inputs[rows],
            labels=self.labels[rows],
            class_names=self.class_names,
            ids=None if self.ids is None else tuple(self.ids[i] for i in rows.tolist()),
            columns=self.columns,
        )
