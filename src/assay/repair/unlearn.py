"""Unlearning: train a backdoored model until the recovered trigger means nothing to it."""

import copy
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from assay.errors import InputError
from assay.fitting import (
    Batch,
    Behind,
    Precision,
    Preprocess,
    Step,
    answers,
    behind,
    fit,
    one_cycle,
)
from assay.randomness import Seed, child, generator, isolated
from assay.records import record
from assay.results import Interval, Progress, silent
from assay.stats import wilson
from assay.triggers import Pool, Respond

Stamp = Callable[[Tensor], Tensor]
"""A recovered trigger: puts itself on images in [0, 1]."""


@record
class Planted:
    """A trigger that a model answers to, as it was recovered."""

    stamp: Stamp
    source: int | None
    """Class of the images that it is put on; None for all but the target."""
    target: int
    """Class that it leads to."""

    def meant(self, pool: Pool) -> Bool[Tensor, " images"]:
        """Tell which images it is meant for."""
        is_meant = pool.labels != self.target
        return is_meant if self.source is None else is_meant & (pool.labels == self.source)

    def victims(self, pool: Pool) -> Float[Tensor, "victims channels height width"]:
        """Choose the images that it is meant for."""
        return pool.images[self.meant(pool)]


@record
class Unlearning:
    """Fine-tune a copy of a model on clean samples, of which some carry the recovered trigger.

    All keep their true labels, so that the trigger stops telling anything. It is put on at a
    random strength, as the one that was planted may be fainter or stronger than the one that was
    recovered: a stamped image is :math:`x + s (T(x) - x)`, clipped, with s drawn from
    [`weakest`, `strongest`].

    Source:
        Unlearning by patching in Wang et al., "Neural Cleanse", S&P 2019, section VI: one epoch
        on a tenth of the training data, a fifth of it stamped, under true labels.
    Differs from the source:
        A clean set of a few hundred samples is passed many times, at a rate that rises and falls;
        half of it is stamped, at random strengths.
    """

    steps: int = 300
    batch_size: int = 64
    rate: float = 0.02
    """Highest learning rate of SGD, in a cycle that starts and ends low."""
    momentum: float = 0.9
    stamped: float = 0.5
    """Chance of a sample to be stamped, in [0, 1]."""
    weakest: float = 0.5
    strongest: float = 3.0
    """Above 1, because the search bounds what it recovers. One model of digits with a planted
    sinusoid of amplitude 0.3, recovered within a root mean square of 0.05: the ASR of the planted
    one after the repair is 0.81 with strength 1 alone, 0.40 with up to 1.5, 0.00 with up to 3."""

    def __call__(
        self,
        model: nn.Module,
        preprocess: Preprocess,
        stamp: Stamp,
        pool: Pool,
        *,
        seed: Seed,
        progress: Progress = silent,
    ) -> nn.Module:
        """Return the repaired copy, in evaluation mode where the images are.

        Args:
            model: stays as it is.
            preprocess: what the model wants.
            stamp: the recovered trigger.
            pool: clean samples to train on.
            seed: decides everything random.
            progress: called with the stage `repair`.
        """
        device = pool.images.device
        repaired = copy.deepcopy(model).to(device).requires_grad_(requires_grad=True)
        optimizer = torch.optim.SGD(repaired.parameters(), lr=self.rate, momentum=self.momentum)

        def tell(step: Step) -> None:
            progress("repair", step.index + 1, self.steps)

        with isolated(child(seed, "dropout"), device):
            fit(
                Behind(repaired, preprocess, device),
                self._batches(stamp, pool, child(seed, "batches")),
                optimizer,
                scheduler=one_cycle(optimizer, steps=self.steps),
                precision=Precision.FP32,
                on_step=tell,
            )
        return repaired.eval().requires_grad_(requires_grad=False)

    def _batches(self, stamp: Stamp, pool: Pool, seed: Seed) -> Iterator[Batch]:
        return stamped_batches(
            stamp,
            pool,
            steps=self.steps,
            batch_size=self.batch_size,
            stamped=self.stamped,
            strengths=(self.weakest, self.strongest),
            seed=seed,
        )


def stamped_batches(
    stamp: Stamp,
    pool: Pool,
    *,
    steps: int,
    batch_size: int,
    stamped: float,
    strengths: tuple[float, float],
    seed: Seed,
) -> Iterator[Batch]:
    """Draw clean images and put the trigger on some of them, at random strengths.

    Args:
        stamp: the recovered trigger.
        pool: what is drawn from, with replacement; `Batch.rows` tells which.
        steps: how many batches.
        batch_size: images in each.
        stamped: chance of an image to be stamped, in [0, 1].
        strengths: the weakest and the strongest, as factors of what the trigger changes.
        seed: decides everything random.
    """
    device = pool.images.device
    random = generator(seed, device)
    weakest, strongest = strengths
    for _ in range(steps):
        rows = torch.randint(len(pool.labels), (batch_size,), generator=random, device=device)
        images = pool.images[rows]
        drawn = torch.rand((2, batch_size, 1, 1, 1), generator=random, device=device)
        strength = weakest + (strongest - weakest) * drawn[0]
        strength = strength * (drawn[1] < stamped)
        inputs = (images + strength * (stamp(images) - images)).clamp(0, 1)
        yield Batch(inputs=inputs, targets=pool.labels[rows], rows=rows.cpu())


@record
class Measured:
    """How a model does on clean samples that neither the search nor the repair saw."""

    model: str
    """`before` or `after` the repair."""
    accuracy: float
    """In [0, 1]."""
    accuracy_interval: Interval
    """Wilson's, at 95 %."""
    asr: float | None
    """Share of the samples that the trigger is meant for which it leads to its target, in [0, 1];
    None where there are none."""
    asr_interval: Interval | None
    clean_cosine: float | None = None
    """Of an encoder: mean cosine of its features of clean images to those of the encoder as it was
    delivered, in [-1, 1]; None for classifiers."""
    triggered_cosine: float | None = None
    """The same of its features of the images that the trigger is meant for, with it, to those of
    the delivered encoder without it; None for classifiers, and where there are none."""


@record
class Repaired:
    """A repaired model, with the proof."""

    model: nn.Module
    """The copy, in evaluation mode."""
    rows: tuple[Measured, ...]
    """Before, then after."""
    unseen: int
    """How many samples both were measured on."""
    triggered: int
    """How many of them the trigger is meant for."""

    @property
    def is_finite(self) -> bool:
        """Whether training went well: no weight is NaN or infinite."""
        return all(bool(value.isfinite().all()) for value in self.model.state_dict().values())


def unlearn(
    model: nn.Module,
    preprocess: Preprocess,
    planted: Planted,
    *,
    searched: Pool,
    held: Pool,
    method: Unlearning = Unlearning(),  # noqa: B008  frozen
    seed: Seed,
    progress: Progress = silent,
) -> Repaired:
    """Repair a copy of a model, and measure both.

    Args:
        model: a classifier that answers to the trigger; it stays as it is.
        preprocess: what the model wants.
        planted: the trigger that was recovered from it.
        searched: clean samples to train on, on the device: those that the trigger was searched on.
        held: other clean samples, to measure on.
        method: how the copy is trained.
        seed: decides everything random.
        progress: called with the stage `repair`.

    Raises:
        InputError: there are no samples to train or to measure on.
    """
    check_pools(searched, held)
    before = copy.deepcopy(model).to(held.images.device).eval()
    first = measured("before", behind(before, preprocess, held.images.device), planted, held)
    del before
    repaired = method(model, preprocess, planted.stamp, searched, seed=seed, progress=progress)
    after = behind(repaired, preprocess, held.images.device)
    return Repaired(
        model=repaired,
        rows=(first, measured("after", after, planted, held)),
        unseen=len(held.labels),
        triggered=len(planted.victims(held)),
    )


def check_pools(searched: Pool, held: Pool) -> None:
    """Check that there is something to train and to measure on.

    Raises:
        InputError: there is not.
    """
    if not len(searched.labels) or not len(held.labels):
        raise InputError(
            f"expected clean samples to repair with and others to measure on, got "
            f"{len(searched.labels)} and {len(held.labels)}"
        )


def measured(name: str, respond: Respond, planted: Planted, held: Pool) -> Measured:
    """Measure accuracy and the success of the trigger on held-out samples."""
    right = int((answers(respond, held.images).argmax(1) == held.labels.cpu()).sum())
    victims = planted.victims(held)
    led = 0
    if len(victims):
        said = answers(lambda images: respond(planted.stamp(images)), victims)
        led = int((said.argmax(1) == planted.target).sum())
    return Measured(
        model=name,
        accuracy=right / len(held.labels),
        accuracy_interval=wilson(right, len(held.labels)),
        asr=led / len(victims) if len(victims) else None,
        asr_interval=wilson(led, len(victims)) if len(victims) else None,
    )
