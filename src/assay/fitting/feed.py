"""Batches from a data set: resident on the device where it fits, streamed where it does not."""

import functools
import itertools
import math
from collections.abc import Iterator

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from assay.errors import InputError
from assay.randomness import Seed, child, generator
from assay.records import record
from assay.samples import Rows

from .augment import Augment

_BLOCK = 64  # neighbouring rows that a streamed pool reads at once
_READ = 4096  # rows of data that fit that are read at once
_MOST_VALUES = 2**26  # that mean and standard deviation are measured on
_LEAST_SPREAD = 1e-6  # deviation of what varies; times its magnitude where that is below 1
_EXACT = 2**24  # integers that float32 tells apart
_COPIES = 6  # pools that the memory must hold, by `benchmarks/training_speed.py`


@record
class Preprocess:
    """What a model wants to be done to its inputs: scale to [0, 1], resize, standardise."""

    mean: tuple[float, ...]
    """One a channel (of [0, 1] images) or one a column."""
    std: tuple[float, ...]
    size: int | None = None
    """Height and width that the model wants, or None for those of the data."""

    def __call__(
        self, rows: UInt8[Tensor, "batch height width channels"] | Float[Tensor, "batch dims"]
    ) -> Float[Tensor, "batch channels high wide"] | Float[Tensor, "batch dims"]:
        """Standardise a batch; images come out channels-last in memory."""
        mean, std = _constant(self.mean, rows.device), _constant(self.std, rows.device)
        if rows.ndim == 2:
            return (rows - mean) / std
        images = ((rows - 255 * mean) / (255 * std)).permute(0, 3, 1, 2)
        if self.size is None or self.size == images.shape[-1] == images.shape[-2]:
            return images
        return nn.functional.interpolate(
            images, size=(self.size, self.size), mode="bilinear", antialias=True
        )

    @staticmethod
    def of(rows: Rows, *, most: int = 5_000) -> "Preprocess":
        """Measure mean and standard deviation on at most `most` rows spread over the data.

        Of large images on fewer, such that they take some 500 MB. What does not vary but for
        rounding is not scaled.
        """
        count = min(most, len(rows), max(1, _MOST_VALUES // math.prod(rows.shape[1:])))
        dtype = torch.float32 if len(rows) <= _EXACT else torch.float64
        some = rows[torch.linspace(0, len(rows) - 1, count, dtype=dtype).long()]
        if some.ndim == 4:
            some = some.float().div(255).permute(0, 2, 3, 1).reshape(-1, some.shape[1])
        std, mean = torch.std_mean(some.float(), dim=0, correction=0)
        least = _LEAST_SPREAD * torch.hypot(mean, std).clamp(max=1)
        spread = torch.where(std > least, std, 1.0)
        return Preprocess(mean=tuple(mean.tolist()), std=tuple(spread.tolist()))


@record
class Batch:
    """Some samples, ready for the model."""

    inputs: Tensor
    targets: Int64[Tensor, " batch"]
    rows: Int64[Tensor, " batch"]
    """Which samples of the data set these are, on the CPU."""


@record
class _Pool:
    """As many samples as the device holds at once; images channels-last."""

    inputs: Tensor
    targets: Int64[Tensor, " pool"]
    """On the device too."""
    rows: Int64[Tensor, " pool"]


@record
class Feed:
    """A data set as an endless source of batches; made by `feed`."""

    inputs: Rows
    labels: Int64[Tensor, " samples"]
    preprocess: Preprocess
    device: torch.device
    pool_size: int
    """How many samples are on the device at once."""
    resident: Tensor | None
    """All inputs on the device, images channels-last, if they fit."""

    def __len__(self) -> int:
        """Count the samples."""
        return len(self.labels)

    def steps(self, batch_size: int, *, samples: int | None = None) -> int:
        """Count the batches of a shuffled epoch, where batches of one sample are left out.

        Of all samples, or of an epoch among so many of them.

        Raises:
            InputError: batches of fewer than two samples.
        """
        _check_size(batch_size)
        whole, rest = divmod(len(self) if samples is None else samples, self.pool_size)
        return whole * _batches(self.pool_size, batch_size) + _batches(rest, batch_size)

    def relabelled(self, labels: Int64[Tensor, " samples"]) -> "Feed":
        """Serve the same inputs, without a copy, under other labels."""
        return Feed(
            inputs=self.inputs,
            labels=labels,
            preprocess=self.preprocess,
            device=self.device,
            pool_size=self.pool_size,
            resident=self.resident,
        )

    def shuffled(
        self,
        batch_size: int,
        *,
        seed: Seed,
        augment: Augment | None = None,
        among: Int64[Tensor, " some"] | None = None,
    ) -> Iterator[Batch]:
        """Yield one epoch in random order, augmented; among some samples only, where they are told.

        Streamed data are shuffled in two steps, blocks of neighbouring rows into pools and rows
        within a pool. Batches of one sample are left out.

        Raises:
            InputError: batches of fewer than two samples, or fewer samples than that.
        """
        _check_size(batch_size)
        _check_samples(len(self) if among is None else len(among))
        device_random = generator(child(seed, "augment"), self.device)
        random = generator(child(seed, "order"), torch.device("cpu"))
        rows = torch.arange(len(self)) if among is None else among.sort().values
        for pool in self._pools(rows, random):
            places = rows if self.resident is not None else torch.arange(len(pool.rows))
            order = places[torch.randperm(len(places), generator=random)]
            for batch in self._batches(pool, order, batch_size, augment, device_random):
                if len(batch.rows) > 1:
                    yield batch

    def endless(
        self, batch_size: int, *, seed: Seed, augment: Augment | None = None
    ) -> Iterator[Batch]:
        """Yield batches of exactly `batch_size` (at most all samples), epoch after epoch.

        Raises:
            InputError: batches of fewer than two samples, or fewer samples than that.
        """
        _check_size(batch_size)
        _check_samples(len(self))
        size = min(batch_size, self.pool_size, len(self))
        for epoch in itertools.count():
            for batch in self.shuffled(size, seed=child(seed, "epoch", epoch), augment=augment):
                if len(batch.rows) == size:
                    yield batch

    def ordered(self, batch_size: int = 512) -> Iterator[Batch]:
        """Yield every sample once, in order, as it is."""
        for pool in self._pools(torch.arange(len(self)), None):
            yield from self._batches(pool, torch.arange(len(pool.rows)), batch_size, None, None)

    def _batches(
        self,
        pool: _Pool,
        order: Int64[Tensor, " some"],
        batch_size: int,
        augment: Augment | None,
        random: torch.Generator | None,
    ) -> Iterator[Batch]:
        """Cut a pool into batches; the device is sent the order once, and waits for nothing."""
        parts = zip(
            order.to(self.device).split(batch_size),
            pool.rows[order].split(batch_size),
            strict=True,
        )
        for there, rows in parts:
            if augment is not None and random is not None and pool.inputs.ndim == 4:
                picked = augment(pool.inputs, there, generator=random)
            else:
                picked = pool.inputs[there]
            yield Batch(inputs=self.preprocess(picked), targets=pool.targets[there], rows=rows)

    def _pools(
        self, rows: Int64[Tensor, " some"], random: torch.Generator | None
    ) -> Iterator[_Pool]:
        """Put these rows on the device, or all, which are there."""
        if self.resident is not None:
            yield self._pool(self.resident, torch.arange(len(self)))
            return
        if random is not None:
            blocks = list(rows.split(_BLOCK))
            order = torch.randperm(len(blocks), generator=random).tolist()
            rows = torch.cat([blocks[i] for i in order])
        for part in rows.split(self.pool_size):
            yield self._pool(_channels_last(self.inputs[part]).to(self.device), part)

    def _pool(self, inputs: Tensor, rows: Int64[Tensor, " pool"]) -> _Pool:
        return _Pool(inputs=inputs, targets=self.labels[rows].to(self.device), rows=rows)


def feed(
    inputs: Rows,
    labels: Int64[Tensor, " samples"],
    *,
    preprocess: Preprocess,
    device: torch.device,
    memory_mb: float = 4096.0,
) -> Feed:
    """Make a feed that holds at most `memory_mb` of inputs on the device at once.

    Raises:
        InputError: there are no samples, or not even one block fits into the memory.
    """
    if len(inputs) == 0 or len(inputs) != len(labels):
        raise InputError(f"expected samples with labels, got {len(inputs)} and {len(labels)}")
    row_bytes = torch.Size(inputs.shape[1:]).numel() * inputs.dtype.itemsize
    fits = int(memory_mb * 2**20) // row_bytes
    if fits >= len(inputs):
        resident = _resident(inputs, device)
        return Feed(
            inputs=inputs,
            labels=labels,
            preprocess=preprocess,
            device=device,
            pool_size=len(inputs),
            resident=resident,
        )
    # for a moment there are three pools (the one served last, the next as it was read, and
    # channels-last) and what the file reader gathers them in
    pool_size = fits // _COPIES // _BLOCK * _BLOCK
    if pool_size == 0:
        raise InputError(
            f"expected memory for at least {_COPIES * _BLOCK} samples of {row_bytes} bytes, "
            f"got {memory_mb} MB; raise the memory"
        )
    return Feed(
        inputs=inputs,
        labels=labels,
        preprocess=preprocess,
        device=device,
        pool_size=pool_size,
        resident=None,
    )


@functools.lru_cache(maxsize=64)
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Put numbers on a device; kept, because sending them with every batch makes it wait."""
    with torch.inference_mode(mode=False):
        return torch.tensor(values, device=device)


def _resident(inputs: Rows, device: torch.device) -> Tensor:
    """Put everything on the device, in parts: nothing is held twice."""
    parts = torch.arange(len(inputs)).split(_READ)
    first = _channels_last(inputs[parts[0]])
    everything = torch.empty((len(inputs), *first.shape[1:]), dtype=first.dtype, device=device)
    for rows in parts:
        everything[rows[0] : rows[-1] + 1] = _channels_last(inputs[rows]).to(device)
    return everything


def _channels_last(inputs: Tensor) -> Tensor:
    return inputs.permute(0, 2, 3, 1).contiguous() if inputs.ndim == 4 else inputs


def _check_size(batch_size: int) -> None:
    if batch_size < 2:
        raise InputError(
            f"expected batches of at least two samples, got {batch_size}; make them larger"
        )


def _check_samples(count: int) -> None:
    if count < 2:
        raise InputError(f"expected at least two samples, got {count}; add some")


def _batches(samples: int, batch_size: int) -> int:
    whole, rest = divmod(samples, batch_size)
    return whole + (rest > 1)
