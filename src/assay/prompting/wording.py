"""Prompts of classes: tokens of words, and places for context."""

import enum
from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from assay.errors import InputError
from assay.records import record

from .backbone import Backbone

PHOTO = "a photo of a {}."
"""The prompt of the zero-shot classifier."""


class Position(enum.StrEnum):
    """Where a class's name stands among the context vectors."""

    END = "end"
    MIDDLE = "middle"
    FRONT = "front"


@record
class Wording:
    """What prompts are made of."""

    template: str = "{}."
    """What surrounds a name, after the context."""
    context: int = 0
    """How many context vectors there are."""
    position: Position = Position.END


@record
class Laid:
    """The prompts of some classes, embedded, with nothing yet where context goes."""

    embedded: Float[Tensor, "classes tokens width"]
    slots: Int64[Tensor, "classes context"]
    """Places of the context vectors."""
    ends: Int64[Tensor, " classes"]
    """Place of the token that ends each prompt."""

    def rows(self, classes: Int64[Tensor, " chosen"]) -> "Laid":
        """Choose classes, in the given order."""
        return Laid(
            embedded=self.embedded[classes], slots=self.slots[classes], ends=self.ends[classes]
        )

    def filled(
        self, context: Float[Tensor, "#classes context width"] | None
    ) -> Float[Tensor, "classes tokens width"]:
        """Put context vectors into their places, the same for all classes or one set a class."""
        if context is None:
            return self.embedded
        width = self.embedded.shape[-1]
        places = self.slots[:, :, None].expand(-1, -1, width)
        return self.embedded.scatter(1, places, context.expand(len(places), -1, -1))


@torch.no_grad()
def lay_out(backbone: Backbone, names: Sequence[str], wording: Wording) -> Laid:
    """Tokenize and embed the prompts of classes, no longer than the longest of them.

    Args:
        backbone: whose tokens.
        names: of the classes; underscores are spaces.
        wording: what the prompts are made of.

    Raises:
        InputError: no names; a name without tokens, with special ones or with those of another; a
            prompt that is too long.
    """
    if not names:
        raise InputError("expected the names of the classes, got none")
    parts = [_parts(backbone, name.replace("_", " "), wording) for name in names]
    _check_apart(names, [(*before, *after) for before, after in parts])
    ends = [1 + wording.context + len(before) + len(after) for before, after in parts]
    longest = max(ends) + 1
    if longest > backbone.longest:
        raise InputError(
            f"expected prompts of at most {backbone.longest} tokens, as the backbone reads them, "
            f"got {longest} for class {names[ends.index(max(ends))]!r} with {wording.context} "
            "context vectors; shorten the name"
        )
    ids = torch.full((len(names), longest), backbone.end)
    slots = torch.empty(len(names), wording.context, dtype=torch.int64)
    for row, (before, after) in enumerate(parts):
        first, second = _halves(wording)
        middle = 1 + first + len(before)
        ids[row, 0] = backbone.start
        ids[row, 1 + first : middle] = torch.tensor(before, dtype=torch.int64)
        tail = middle + second
        ids[row, tail : tail + len(after)] = torch.tensor(after, dtype=torch.int64)
        slots[row] = torch.cat([torch.arange(1, 1 + first), torch.arange(middle, tail)])
    device = backbone.device
    embedded = backbone.embed(ids.to(device))
    return Laid(embedded=embedded, slots=slots.to(device), ends=torch.tensor(ends, device=device))


def _halves(wording: Wording) -> tuple[int, int]:
    """How many context vectors stand before the name, and how many behind it."""
    before = {
        Position.END: wording.context,
        Position.MIDDLE: wording.context // 2,
        Position.FRONT: 0,
    }[wording.position]
    return before, wording.context - before


def _check_apart(names: Sequence[str], tokens: Sequence[tuple[int, ...]]) -> None:
    """Check that no two classes are the same text: nothing could lead to one and not the other."""
    places: dict[tuple[int, ...], int] = {}
    for place, each in enumerate(tokens):
        first = places.setdefault(each, place)
        if first != place:
            raise InputError(
                f"expected names that the tokenizer tells apart, got {names[first]!r} and "
                f"{names[place]!r}, which are the same tokens; rename one of them"
            )


def _parts(backbone: Backbone, name: str, wording: Wording) -> tuple[list[int], list[int]]:
    """Split a prompt's tokens where context may come between: up to the name, and behind it."""
    whole = list(backbone.encode(wording.template.format(name)))
    known = wording.template.partition("{}")[0] + name
    cut = len(backbone.encode(known))
    if not backbone.encode(name):
        raise InputError(
            f"expected names that the tokenizer knows, got {name!r}, which is no token"
        )
    if {backbone.start, backbone.end} & set(whole):
        raise InputError(f"expected names without special tokens, got {name!r}")
    return whole[:cut], whole[cut:]
