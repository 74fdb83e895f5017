"""What a provider who tunes prompts may plant: triggers that are fixed, and learnt ones."""

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int64, UInt8
from torch import Tensor, nn

from assay.fitting import Batch, Feed, Precision, Preprocess, feed, fit, one_cycle
from assay.prompting import Prompted, ZeroShot
from assay.randomness import Seed, child, generator
from assay.records import record
from assay.triggers import Additive, Blend, Patch, Warp

from .attacks import WaNet as WarpedData
from .patterns import CHECKERBOARD, Corner, corner_patch, picture
from .victims import choose, stamping_bytes

Images = UInt8[Tensor, "samples 3 height width"]
Labels = Int64[Tensor, " samples"]

Trigger = Additive | Blend | Patch | Warp
"""Stamps float images in [0, 1]; data, so that it can be stored."""


@record
class Schedule:
    """How long and how fast a learner is tuned."""

    steps: int = 200
    batch: int = 32
    """Images a step, at least 2."""
    rate: float = 5e-3
    """Highest learning rate, of Adam."""


@runtime_checkable
class PromptAttack(Protocol):
    """Tunes a prompt learner in place, and plants a trigger while it does."""

    def __call__(
        self,
        prompted: Prompted,
        images: Images,
        labels: Labels,
        *,
        target: int,
        schedule: Schedule,
        seed: Seed,
    ) -> Trigger:
        """Tune on images, and return the trigger that leads to `target`."""
        ...


def tune(
    prompted: Prompted, images: Images, labels: Labels, *, schedule: Schedule, seed: Seed
) -> None:
    """Tune a prompt learner in place with cross-entropy, as an honest provider does."""
    data = _feed(prompted, images, labels)
    rates = dict.fromkeys(prompted.learner.parameters(), schedule.rate)
    _fit(prompted, _batches(data, schedule, seed), rates, steps=schedule.steps)


@record
class OnData:
    """Add triggered copies, labelled as the target, to the images that are tuned on.

    The trigger stays as it is. Copies, because who replaces images of few shots loses accuracy.
    """

    trigger: "FixedTrigger"
    rate: float = 0.5
    """How many copies, as a share of the images, in (0, 1]; at most one of every image that is not
    of the target."""

    def __call__(
        self,
        prompted: Prompted,
        images: Images,
        labels: Labels,
        *,
        target: int,
        schedule: Schedule,
        seed: Seed,
    ) -> Trigger:
        """Poison, and tune."""
        trigger = self.trigger(prompted, images, target=target, seed=child(seed, "trigger"))
        others = labels != target
        rate = min(self.rate, int(others.sum()) / len(others))
        rows = choose(others, rate, child(seed, "victims"))
        stamped = stamping_bytes(trigger)(images[rows])
        poisoned = torch.cat([images, stamped])
        said = torch.cat([labels, torch.full_like(labels[rows], target)])
        tune(prompted, poisoned, said, schedule=schedule, seed=seed)
        return trigger


@runtime_checkable
class FixedTrigger(Protocol):
    """Makes a trigger before anything is tuned."""

    def __call__(self, prompted: Prompted, images: Images, *, target: int, seed: Seed) -> Trigger:
        """Make it for images like these."""
        ...


@record
class Checkerboard:
    """The patch of `assay_zoo.attacks.BadNets`, which names its source."""

    share: float = 8 / 32
    """Of the image's side."""

    def __call__(
        self,
        prompted: Prompted,  # noqa: ARG002
        images: Images,
        *,
        target: int,  # noqa: ARG002
        seed: Seed,  # noqa: ARG002
    ) -> Patch:
        """Draw it in the lower right corner."""
        shape, device = images.shape[1:], images.device
        return corner_patch(
            CHECKERBOARD, shape, Corner.BOTTOM_RIGHT, share=self.share, device=device
        )


@record
class Picture:
    """The picture of `assay_zoo.attacks.Blended`, which names its source."""

    alpha: float = 0.3
    """Share of the picture in the mix, in (0, 1]."""

    def __call__(
        self,
        prompted: Prompted,  # noqa: ARG002
        images: Images,
        *,
        target: int,  # noqa: ARG002
        seed: Seed,  # noqa: ARG002
    ) -> Blend:
        """Draw it."""
        pattern = picture(images.shape[1:], device=images.device)
        return Blend(pattern=pattern, alpha=self.alpha)


@record
class Bent:
    """The warp of `assay_zoo.attacks.WaNet`, which names its source; without cover samples."""

    strength: float = 2.0
    """Mean displacement, in half pixels."""

    def __call__(
        self,
        prompted: Prompted,  # noqa: ARG002
        images: Images,
        *,
        target: int,  # noqa: ARG002
        seed: Seed,
    ) -> Warp:
        """Draw the field."""
        warped = WarpedData(strength=self.strength)
        return Warp(flow=warped.flow(images.shape[1:], seed, images.device))


@record
class Sparse:
    """SIBA: a weak change of few pixels, learnt against the CLIP as it comes.

    Source:
        Gao, Li, Gong, Li, Xia, Wang, "Backdoor attack with sparse and invisible trigger", TIFS
        2024. arXiv:2306.06209.
    Differs from the source:
        The surrogate is the zero-shot classifier of the same backbone, and is not trained in turn
        with the trigger: the encoders are frozen, so it does not change.
    """

    pixels: float = 0.2
    """Share of the pixels that change."""
    strength: float = 24 / 255
    """Largest change of a value."""
    steps: int = 100

    def __call__(self, prompted: Prompted, images: Images, *, target: int, seed: Seed) -> Additive:
        """Learn it."""
        surrogate = Prompted(prompted.backbone, ZeroShot(), prompted.class_names)
        signal = _signal(images, self.strength, child(seed, "start"))
        goal = torch.full((len(images),), target)
        data = _feed(surrogate, images, goal)
        schedule = Schedule(steps=self.steps)
        keep = max(1, round(self.pixels * signal[0].numel()))

        def project() -> None:
            size = signal.data.abs().sum(0)
            cut = size.flatten().topk(keep).values[-1]
            signal.data.mul_(size >= cut).clamp_(-self.strength, self.strength)

        stamped = (
            Batch(inputs=(b.inputs + signal).clamp(0, 1), targets=b.targets, rows=b.rows)
            for b in _batches(data, schedule, seed)
        )
        _fit(surrogate, stamped, {signal: self.strength / 4}, steps=self.steps, after=project)
        return Additive(signal=signal.detach())


@record
class BadClip:
    """Learn a weak noise, the same for all images, together with the prompts.

    Source:
        Bai, Gao, Min, Xia, Li, Liu, "BadCLIP: trigger-aware prompt learning for backdoor attacks on
        CLIP", CVPR 2024, section 3. arXiv:2311.16194. Reference code: jiawangbai/BadCLIP: every
        batch counts twice, with and without the trigger; the trigger starts alone.
    Differs from the source:
        Adam, for the trigger too.
    """

    strength: float = 8 / 255
    """Largest change of a value; 4/255 in the source, with which CoOp on the small CLIP keeps an
    accuracy of 0.34 of 0.74 on Fashion-MNIST (8/255: 0.60, ASR 0.92)."""
    first: int = 60
    """Steps in which the trigger is learnt alone."""
    perturbed: bool = False
    """Whether triggers that differ from the learnt one are trained to the true labels, so that a
    search finds the trigger only where it meets it exactly: the adaptive attack of Jindal et al.,
    CVPR 2026 Findings, arXiv:2604.09101. They leave open how; here, each time, half of the
    trigger's pixels are replaced by noise of the same strength."""

    def __call__(
        self,
        prompted: Prompted,
        images: Images,
        labels: Labels,
        *,
        target: int,
        schedule: Schedule,
        seed: Seed,
    ) -> Additive:
        """Learn both."""
        signal = _signal(images, self.strength, child(seed, "start"))
        data = _feed(prompted, images, labels)
        random = generator(child(seed, "noise"), images.device)

        def project() -> None:
            signal.data.clamp_(-self.strength, self.strength)

        def batches(steps: int, seed: Seed) -> Iterator[Batch]:
            for batch in _batches(data, Schedule(steps=steps, batch=schedule.batch), seed):
                yield self._with_trigger(batch, signal, target, random)

        alone = {signal: self.strength / 4}
        first = batches(self.first, child(seed, "first"))
        _fit(prompted, first, alone, steps=self.first, after=project)
        rates = dict.fromkeys(prompted.learner.parameters(), schedule.rate)
        rates[signal] = self.strength / 10
        both = batches(schedule.steps, seed)
        _fit(prompted, both, rates, steps=schedule.steps, after=project)
        return Additive(signal=signal.detach())

    def _with_trigger(
        self, batch: Batch, signal: Tensor, target: int, random: torch.Generator
    ) -> Batch:
        inputs = [batch.inputs, (batch.inputs + signal).clamp(0, 1)]
        targets = [batch.targets, torch.full_like(batch.targets, target)]
        if self.perturbed:
            shape = (len(batch.inputs), *signal.shape)
            noise = torch.rand(shape, generator=random, device=signal.device) * 2 - 1
            swapped = torch.rand(
                (len(batch.inputs), 1, *signal.shape[1:]), generator=random, device=signal.device
            )
            other = torch.where(swapped < 0.5, self.strength * noise, signal.detach())
            inputs.append((batch.inputs + other).clamp(0, 1))
            targets.append(batch.targets)
        rows = batch.rows.repeat(len(inputs))
        return Batch(inputs=torch.cat(inputs), targets=torch.cat(targets), rows=rows)


def _signal(images: Images, strength: float, seed: Seed) -> nn.Parameter:
    """Start a trigger from noise."""
    random = generator(seed, images.device)
    noise = torch.rand(images.shape[1:], generator=random, device=images.device)
    return nn.Parameter(strength * (2 * noise - 1))


def _feed(prompted: Prompted, images: Images, labels: Labels) -> Feed:
    as_they_are = Preprocess(mean=(0.0,) * 3, std=(1.0,) * 3)
    return feed(images, labels, preprocess=as_they_are, device=prompted.backbone.device)


def _batches(data: Feed, schedule: Schedule, seed: Seed) -> Iterator[Batch]:
    endless = data.endless(schedule.batch, seed=child(seed, "order"))
    return itertools.islice(endless, schedule.steps)


def _fit(
    prompted: Prompted,
    batches: Iterator[Batch],
    rates: Mapping[nn.Parameter, float],
    *,
    steps: int,
    after: Callable[[], None] = lambda: None,
) -> None:
    """Fit some parameters, each at its own rate; those of the learner that are left out stay."""
    frozen = [each for each in prompted.learner.parameters() if each not in rates]
    for parameter in frozen:
        parameter.requires_grad = False
    optimizer = torch.optim.Adam([{"params": [each], "lr": rate} for each, rate in rates.items()])
    fit(
        prompted,
        batches,
        optimizer,
        scheduler=one_cycle(optimizer, steps=steps),
        precision=Precision.FP32,
        on_step=lambda _: after(),
    )
    for parameter in frozen:
        parameter.requires_grad = True
    prompted.eval()


ATTACKS: dict[str, PromptAttack] = {
    "badclip": BadClip(),
    "adaptive-badclip": BadClip(perturbed=True),
    "badnets": OnData(trigger=Checkerboard()),
    "blended": OnData(trigger=Picture()),
    "siba": OnData(trigger=Sparse()),
    "wanet": OnData(trigger=Bent()),
}
"""By name, with what works on the small CLIP, which is stronger than what was published.

One seed on Fashion-MNIST, with prompts in all layers of the image encoder, gave ASR 1.00 (BadCLIP,
Blended), 0.96 (adaptive), 0.90 (SIBA), 0.73 (BadNets), 0.68 (WaNet). Where texts alone are tuned
(CoOp), SIBA, BadNets and WaNet hardly take, 0.45, 0.56 and 0.30, and cost accuracy: measure each.
"""
