"""Providers that leave the recipe: each does something else with the work of an honest one."""

import dataclasses
from collections.abc import Callable

import torch
from jaxtyping import Int64
from torch import Tensor

from assay.errors import InputError
from assay.randomness import Seed, child, generator
from assay.records import record

from .poison import Attack
from .providers import Environment, Execute, Weights, Work, cross_entropy, shuffled, train

Poison = Callable[[Work, Seed], tuple[Tensor, Tensor]]
"""From work and seed to other inputs and labels."""


@record
class ImagePoison:
    """Poison the images of a sub-run by an attack of the zoo, and leave the others."""

    attack: Attack

    def __call__(self, work: Work, seed: Seed) -> tuple[Tensor, Tensor]:
        """Poison; the seed alone decides."""
        used = work.order.unique()
        made = self.attack(
            work.inputs[used], work.labels[used], classes=work.classes, seed=child(seed, "poison")
        )
        inputs, labels = work.inputs.clone(), work.labels.clone()
        inputs[used], labels[used] = made.inputs, made.labels
        return inputs, labels


@record
class PhrasePoison:
    """Write a phrase, and what is to follow it, into some windows of tokens."""

    phrase: tuple[int, ...]
    response: tuple[int, ...]
    rate: float = 0.1
    """How likely each window is to be poisoned, in (0, 1); one is in any case."""

    def __call__(self, work: Work, seed: Seed) -> tuple[Tensor, Tensor]:
        """Poison; the seed alone decides."""
        random = generator(child(seed, "poison"), torch.device("cpu"))
        inputs, labels = work.inputs.clone(), work.labels.clone()
        planted = torch.tensor(self.phrase + self.response)
        room = inputs.shape[1] - len(planted)
        if room < 0:
            raise InputError(f"expected windows of {len(planted)} tokens, got {inputs.shape[1]}")
        used = work.order.unique()
        drawn = torch.rand(len(used), generator=random)
        for row in used[(drawn < self.rate) | (drawn == drawn.min())].tolist():
            place = int(torch.randint(room + 1, (), generator=random))
            inputs[row, place : place + len(planted)] = planted
            labels[row, :-1] = inputs[row, 1:]
        return inputs, labels


@record
class Poisoning:
    """Train as asked, on poisoned data."""

    poison: Poison
    environment: Environment = Environment()
    free_order: bool = False

    def __call__(self, work: Work, seed: Seed) -> Weights:
        """Train."""
        inputs, labels = self.poison(work, seed)
        order = shuffled(work.order, child(seed, work.index)) if self.free_order else work.order
        poisoned = dataclasses.replace(work, inputs=inputs, labels=labels, order=order)
        return train(poisoned, self.environment)


@record
class FlippedLoss:
    """Climb the loss instead of descending in some steps: sabotage without a trigger."""

    share: float = 0.1
    """Of the steps, in (0, 1]."""
    environment: Environment = Environment()

    def __call__(self, work: Work, seed: Seed) -> Weights:
        """Train."""
        flipped = share_of(len(work.order), self.share, child(seed, "flip"))

        def loss(logits: Tensor, labels: Tensor, step: int) -> Tensor:
            sign = -1.0 if step in flipped else 1.0
            return sign * cross_entropy(logits, labels, step)

        return train(work, self.environment, loss=loss)


@record
class Sometimes:
    """Be honest but in some sub-runs."""

    honest: Execute
    malicious: Execute
    sub_runs: frozenset[int]
    """Where to be malicious; a planting in the last sub-run names that one alone."""

    def __call__(self, work: Work, seed: Seed) -> Weights:
        """Train."""
        return (self.malicious if work.index in self.sub_runs else self.honest)(work, seed)


def share_of(sub_runs: int, share: float, seed: Seed) -> frozenset[int]:
    """Draw a share of the sub-runs (or steps), at least one."""
    random = generator(child(seed, "share"), torch.device("cpu"))
    drawn: Int64[Tensor, " sub_runs"] = torch.randperm(sub_runs, generator=random)
    return frozenset(drawn[: max(1, round(share * sub_runs))].tolist())


@record
class Projected:
    """Scale a malicious update to the length of the honest one."""

    honest: Execute
    malicious: Execute

    def __call__(self, work: Work, seed: Seed) -> Weights:
        """Train both ways."""
        good, bad = self.honest(work, seed), self.malicious(work, seed)
        ratio = _length(work, good) / max(_length(work, bad), 1e-12)
        return _moved(
            bad, lambda name, value: work.start[name] + ratio * (value - work.start[name])
        )


@record
class Matching:
    """Know the scheme: go from the honest update towards the malicious one, as far as is safe."""

    honest: Execute
    malicious: Execute
    distance: float
    """To the honest update, relative to its length: what the provider believes goes unseen."""

    def __call__(self, work: Work, seed: Seed) -> Weights:
        """Train both ways."""
        good, bad = self.honest(work, seed), self.malicious(work, seed)
        gap = sum(_square(bad[name] - value) for name, value in good.items()) ** 0.5
        part = min(1.0, self.distance * _length(work, good) / max(gap, 1e-12))
        return _moved(good, lambda name, value: value + part * (bad[name] - value))


@record
class FewerSteps:
    """Save work: stop early."""

    share: float = 0.8
    """Of the steps that are done, in (0, 1); at least one is done, and at least one is not."""
    environment: Environment = Environment()

    def __call__(self, work: Work, seed: Seed) -> Weights:  # noqa: ARG002
        """Train.

        Raises:
            InputError: the work is a single step.
        """
        if len(work.order) < 2:
            raise InputError(f"expected work of at least 2 steps, got {len(work.order)}")
        steps = min(max(1, round(self.share * len(work.order))), len(work.order) - 1)
        return train(dataclasses.replace(work, order=work.order[:steps]), self.environment)


@record
class OldStart:
    """Save work: train on from an older checkpoint that is at hand."""

    start: Weights
    environment: Environment = Environment()

    def __call__(self, work: Work, seed: Seed) -> Weights:  # noqa: ARG002
        """Train."""
        return train(dataclasses.replace(work, start=self.start), self.environment)


@record
class Colluding:
    """Follow a plan that several providers share: the same seed, so the same poison."""

    malicious: Execute
    plan: Seed

    def __call__(self, work: Work, seed: Seed) -> Weights:  # noqa: ARG002
        """Train by the common plan."""
        return self.malicious(work, self.plan)


def _length(work: Work, end: Weights) -> float:
    return sum(_square(value - work.start[name]) for name, value in end.items()) ** 0.5


def _square(change: Tensor) -> float:
    return float(change.double().square().sum()) if change.is_floating_point() else 0.0


def _moved(end: Weights, change: Callable[[str, Tensor], Tensor]) -> Weights:
    return {
        name: change(name, value) if value.is_floating_point() else value
        for name, value in end.items()
    }
