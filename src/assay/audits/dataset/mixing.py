"""Trusted samples, half of them mixed into the suspects as calibration."""

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from assay.errors import InputError
from assay.randomness import Seed, generator
from assay.records import record
from assay.samples import Rows, Samples


def check_fit(samples: Samples, trusted: Samples, alpha: float) -> None:
    """Refuse what cannot be audited.

    Raises:
        InputError: the two sets do not fit each other, or hold too little.
    """
    if not 0 < alpha < 1:
        raise InputError(f"expected alpha in (0, 1), got {alpha}")
    if samples.class_names != trusted.class_names:
        raise InputError(
            f"expected trusted samples with the classes {samples.class_names}, got "
            f"{trusted.class_names}"
        )
    if samples.inputs.shape[1:] != trusted.inputs.shape[1:]:
        raise InputError(
            f"expected trusted samples of the shape {tuple(samples.inputs.shape[1:])}, got "
            f"{tuple(trusted.inputs.shape[1:])}"
        )
    if samples.inputs.dtype != trusted.inputs.dtype:
        raise InputError(
            f"expected trusted samples of the type {samples.inputs.dtype}, got "
            f"{trusted.inputs.dtype}"
        )
    if samples.classes < 2:
        raise InputError(f"expected at least two classes, got {samples.class_names}")
    if len(samples.labels.unique()) < 2:
        raise InputError("expected samples of at least two classes, got one label only")
    if len(trusted) < 4:
        raise InputError(f"expected at least four trusted samples, got {len(trusted)}")


def calibration_of(trusted: Samples, most: int, seed: Seed) -> Bool[Tensor, " trusted"]:
    """Choose the calibration: half of every class, or as many as `most` allows."""
    share = min(0.5, most / len(trusted))
    random = generator(seed, torch.device("cpu"))
    chosen = torch.zeros(len(trusted), dtype=torch.bool)
    for label in trusted.labels.unique().tolist():
        rows = (trusted.labels == label).nonzero().squeeze(1)
        rows = rows[torch.randperm(len(rows), generator=random)]
        chosen[rows[: max(round(share * len(rows)), min(1, len(rows) // 2))]] = True
    return chosen


def mixed(samples: Samples, mixed_in: Samples) -> tuple[Rows, Int64[Tensor, " mixed"]]:
    """Put the calibration behind the suspects: inputs and labels of both."""
    labels = torch.cat([samples.labels, mixed_in.labels])
    return _Joined(first=samples.inputs, second=mixed_in.inputs[:]), labels


@record
class _Joined:
    """Two tables, one after the other, neither copied before it is read."""

    first: Rows
    second: Tensor

    @property
    def shape(self) -> torch.Size:
        return torch.Size((len(self), *self.first.shape[1:]))

    @property
    def dtype(self) -> torch.dtype:
        return self.first.dtype

    def __len__(self) -> int:
        return len(self.first) + len(self.second)

    def __getitem__(self, rows: slice | Tensor, /) -> Tensor:
        index = torch.arange(len(self))[rows]
        behind = index >= len(self.first)
        read = torch.empty((len(index), *self.shape[1:]), dtype=self.dtype)
        if not behind.all():
            read[~behind] = self.first[index[~behind]]
        read[behind] = self.second[index[behind] - len(self.first)]
        return read
