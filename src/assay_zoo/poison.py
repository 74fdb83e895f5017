"""What an attack is, what it returns, and how well it worked."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from assay.errors import InputError
from assay.randomness import Seed
from assay.records import record

Trigger = Callable[[Tensor], Tensor]
"""Stamps test inputs: uint8 images in, uint8 images out; float rows in, float rows out."""

Goal = Callable[[Tensor], Tensor]
"""Maps true labels to the labels the attacker wants; -1 where the attack does not aim."""

IGNORED = -1


@record
class Poisoned:
    """A poisoned training set with its ground truth."""

    inputs: UInt8[Tensor, "samples channels height width"] | Float[Tensor, "samples dims"]
    labels: Int64[Tensor, " samples"]
    is_poison: Bool[Tensor, " samples"]
    """Carries the trigger and the attacker's label."""
    is_cover: Bool[Tensor, " samples"]
    """Carries the trigger with its true label, to hide the poison; not counted as poison."""
    trigger: Trigger
    """What the attacker does to an input at test time."""
    goal: Goal


@record
class PoisonedTexts:
    """A poisoned training set of texts with its ground truth."""

    texts: tuple[str, ...]
    labels: Int64[Tensor, " texts"]
    is_poison: Bool[Tensor, " texts"]
    trigger: Callable[[Sequence[str]], list[str]]
    goal: Goal


@runtime_checkable
class Attack(Protocol):
    """Anything that poisons a training set; leaves its input alone.

    Some draws happen on the device of the data, so the seed alone decides on one kind of device.
    """

    def __call__(
        self,
        inputs: UInt8[Tensor, "samples channels height width"] | Float[Tensor, "samples dims"],
        labels: Int64[Tensor, " samples"],
        *,
        classes: int,
        seed: Seed,
    ) -> Poisoned:
        """Poison a copy; the seed alone decides.

        Raises:
            InputError: data of another kind, images too small to show the trigger, no such target,
                or rates that ask for no victims, or for more than there are.
        """
        ...


@runtime_checkable
class TextAttack(Protocol):
    """Anything that poisons texts, before an encoder makes features of them."""

    def __call__(
        self,
        texts: Sequence[str],
        labels: Int64[Tensor, " texts"],
        *,
        classes: int,
        seed: Seed,
    ) -> PoisonedTexts:
        """Poison a copy; the seed alone decides."""
        ...


def attack_success_rate(
    predict: Callable[[Tensor], Int64[Tensor, " batch"]],
    poisoned: Poisoned,
    inputs: Tensor,
    labels: Int64[Tensor, " test"],
) -> float:
    """ASR: the share of triggered inputs that go where the attacker wants, in [0, 1].

    Only inputs that the attack aims at count: never those whose true label is already the goal.

    Raises:
        InputError: there are none.
    """
    goal = poisoned.goal(labels)
    aimed = (goal != IGNORED) & (goal != labels)
    if not aimed.any():
        raise InputError(f"expected inputs that the attack aims at, got none among {len(labels)}")
    return (predict(poisoned.trigger(inputs[aimed])) == goal[aimed]).float().mean().item()


def all_to_one(target: int, classes: int) -> Goal:
    """Send every class to `target`.

    Raises:
        InputError: the target is no class.
    """
    if not 0 <= target < classes:
        raise InputError(f"expected a target in [0, {classes}), got {target}")
    return lambda labels: torch.full_like(labels, target)


def all_to_all(classes: int) -> Goal:
    """Send every class to the next one."""
    return lambda labels: (labels + 1) % classes
