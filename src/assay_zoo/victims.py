"""What all attacks share: choose victims, stamp them, compose the poisoned training set."""

import functools
import math
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from assay.errors import InputError
from assay.randomness import Seed, child, generator
from assay.records import record

from .poison import IGNORED, Goal, Poisoned, Trigger

Stamp = Callable[[Tensor], Tensor]
"""Stamps float images in [0, 1], or rows of a table."""

CHUNK = 2**24
"""Values that a trigger holds as floats at once: 5,461 images of 3 x 32 x 32."""

PLANE = 2**18
"""Pixels that a network stamps at once: 256 images of 32 x 32."""

_LANES = 16  # values that a processor computes at once; those left over may round otherwise


@record
class ByPlace:
    """A stamp that is not the same for all victims."""

    stamp: Callable[[Tensor, slice], Tensor]
    """Is given images and their places among the victims."""


@record
class Victims:
    """Samples that are stamped, and how."""

    rows: Int64[Tensor, " chosen"]
    stamp: Stamp | ByPlace
    """Is given these rows in this order, in chunks."""


def choose(eligible: Bool[Tensor, " samples"], rate: float, seed: Seed) -> Int64[Tensor, " chosen"]:
    """Draw victims without replacement, on the device of the data.

    Args:
        eligible: which samples may be drawn.
        rate: how many to draw, as a share of all samples, in [0, 1].
        seed: decides which; on another kind of device, others.

    Returns:
        Indices in ascending order.

    Raises:
        InputError: there are fewer eligible samples than asked for.
    """
    rows = eligible.nonzero().squeeze(1)
    count = round(rate * len(eligible))
    if not 0 <= count <= len(rows):
        raise InputError(
            f"expected at most {len(rows)} victims, as many as the attack may use, got a rate of "
            f"{rate} of {len(eligible)} samples, which is {count}; lower the rate"
        )
    order = torch.randperm(len(rows), generator=generator(seed, rows.device), device=rows.device)
    return rows[order[:count]].sort().values


def choose_with_cover(
    labels: Int64[Tensor, " samples"],
    *,
    target: int,
    poison_rate: float,
    cover_rate: float,
    seed: Seed,
) -> tuple[Int64[Tensor, " poison"], Int64[Tensor, " cover"]]:
    """Draw poison and cover, which do not overlap, from the classes that are not the target.

    Raises:
        InputError: there are fewer such samples than asked for.
    """
    eligible = labels != target
    poison = choose(eligible, poison_rate, child(seed, "poison"))
    free = eligible.index_fill(0, poison, value=False)
    return poison, choose(free, cover_rate, child(seed, "cover"))


def one_each(stamps: Sequence[Stamp]) -> ByPlace:
    """Give every victim one of the stamps, in turn."""

    def stamp(images: Tensor, places: slice) -> Tensor:
        stamped = torch.empty_like(images)
        for turn in range(len(stamps)):
            one = stamps[(places.start + turn) % len(stamps)]
            stamped[turn :: len(stamps)] = one(images[turn :: len(stamps)])
        return stamped

    return ByPlace(stamp=stamp)


def all_of(stamps: Sequence[Stamp]) -> Stamp:
    """Give every image all of the stamps, one over the other."""
    return lambda images: functools.reduce(lambda done, one: one(done), stamps, images)


def require_images(inputs: Tensor) -> torch.Size:
    """Return (channels, height, width) of the images.

    Raises:
        InputError: the inputs are no uint8 images.
    """
    if inputs.ndim != 4 or inputs.dtype != torch.uint8:
        raise InputError(
            "expected images, uint8 (samples, channels, height, width), got "
            f"{inputs.dtype} {tuple(inputs.shape)}; this attack works on images only"
        )
    return inputs.shape[1:]


def to_unit(
    images: UInt8[Tensor, "batch channels height width"],
) -> Float[Tensor, "batch channels height width"]:
    """Turn bytes into floats in [0, 1]."""
    return images.float() / 255


def to_bytes(
    images: Float[Tensor, "batch channels height width"],
) -> UInt8[Tensor, "batch channels height width"]:
    """Quantise floats in [0, 1] to bytes, to the nearest."""
    return (images * 255).round().clamp(0, 255).to(torch.uint8)


def stamping_bytes(stamp: Stamp) -> Trigger:
    """Make a stamp for float images work on bytes, in chunks of bounded memory."""

    def trigger(images: Tensor) -> Tensor:
        parts = images.split(max(1, CHUNK // images.shape[1:].numel()))
        return torch.cat([to_bytes(stamp(to_unit(part))) for part in parts])

    return trigger


def at_once(shape: torch.Size) -> int:
    """Count the images of a shape that a network stamps at once."""
    return max(1, PLANE // shape[1:].numel())


def compose(
    inputs: Tensor,
    labels: Int64[Tensor, " samples"],
    *,
    poison: Victims,
    cover: Victims | None = None,
    trigger: Stamp,
    goal: Goal,
) -> Poisoned:
    """Compose a poisoned training set; the inputs and labels are left alone.

    Victims are stamped in chunks of bounded memory.

    Args:
        inputs: the clean training set, images or rows of a table.
        labels: its classes.
        poison: samples that get the stamp and the attacker's label.
        cover: samples that get a stamp and keep their label.
        trigger: what the attacker does at test time, on floats.
        goal: the attacker's label of each class.

    Raises:
        InputError: nothing would be poisoned, not every sample has a label, or no stamp changes
            any image.
    """
    if len(inputs) != len(labels):
        raise InputError(
            f"expected a label for every sample, got {len(inputs)} samples and {len(labels)} labels"
        )
    if not len(poison.rows):
        raise InputError(
            f"expected at least one poisoned sample of {len(labels)}, got none; raise the rate"
        )
    is_image = inputs.dtype == torch.uint8
    new_inputs, new_labels = inputs.clone(), labels.clone()
    stamped = [_stamp(new_inputs, each) for each in (poison, cover) if each is not None]
    if is_image and not any(stamped):
        count = len(poison.rows) + (0 if cover is None else len(cover.rows))
        raise InputError(
            f"expected a trigger that shows, got one that changes none of {count} victims of shape "
            f"{tuple(inputs.shape[1:])}; take larger images or other settings"
        )
    new_labels[poison.rows] = goal(labels[poison.rows])
    assert (new_labels != IGNORED).all(), "a victim that the attack does not aim at"
    nothing = torch.zeros_like(labels, dtype=torch.bool)
    return Poisoned(
        inputs=new_inputs,
        labels=new_labels,
        is_poison=nothing.index_fill(0, poison.rows, value=True),
        is_cover=nothing if cover is None else nothing.index_fill(0, cover.rows, value=True),
        trigger=stamping_bytes(trigger) if is_image else trigger,
        goal=goal,
    )


def _stamp(inputs: Tensor, victims: Victims) -> bool:
    """Stamp victims in place; tell whether any of them changed."""
    is_image, changed, size = inputs.dtype == torch.uint8, False, _chunk(inputs.shape[1:])
    for start in range(0, len(victims.rows), size):
        places = slice(start, start + size)
        rows = victims.rows[places].to(inputs.device)
        clean = inputs[rows]
        shown = to_unit(clean) if is_image else clean
        if isinstance(victims.stamp, ByPlace):
            stamped = victims.stamp.stamp(shown, places)
        else:
            stamped = victims.stamp(shown)
        stamped = to_bytes(stamped) if is_image else stamped
        changed = changed or not torch.equal(stamped, clean)
        inputs[rows] = stamped
    return changed


def _chunk(shape: torch.Size) -> int:
    """Count the samples of a chunk, so many that no bit of a victim depends on the chunks.

    What a network stamps at once, and what a processor computes at once, is in one chunk.
    """
    piece = at_once(shape) if len(shape) == 3 else 1
    least = piece * (_LANES // math.gcd(_LANES, piece * shape.numel()))
    return max(1, CHUNK // (least * shape.numel())) * least
