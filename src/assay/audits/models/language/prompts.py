"""Prompts as tokens: where triggers go, and which half is searched on."""

import collections
import enum
from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from assay.errors import InputError
from assay.randomness import Seed, generator
from assay.records import record

Ids = Int64[Tensor, " _"]

_USUAL = 0.95  # share of the prompts that a form is shared by


class Place(enum.StrEnum):
    """Where a trigger is put into a prompt."""

    END = "end"
    """Behind the prompt's own text: before what all prompts end with, such as `Sentiment:`."""
    START = "start"
    """In front of it: behind what all prompts begin with, such as `Review:`."""


@record
class Prompts:
    """Prompts of a task, of one token of their own or more."""

    ids: tuple[Ids, ...]
    head: int
    """How many tokens all of them begin with."""
    tail: int
    """How many tokens all of them end with."""

    def __len__(self) -> int:
        """Count them."""
        return len(self.ids)

    def around(self, row: int, place: Place) -> tuple[Ids, Ids]:
        """Give what is before and behind a trigger in one prompt."""
        ids = self.ids[row]
        cut = self.head if place is Place.START else len(ids) - self.tail
        return ids[:cut], ids[cut:]

    def subset(self, rows: Sequence[int]) -> "Prompts":
        """Take some of them, in the form of all."""
        return Prompts(ids=tuple(self.ids[row] for row in rows), head=self.head, tail=self.tail)

    def shortest(self, count: int) -> "Prompts":
        """Take the shortest, which cost least."""
        return self.subset(sorted(range(len(self)), key=lambda row: len(self.ids[row]))[:count])


def prompts_of(encoded: Sequence[Sequence[int]], *, most_tokens: int) -> Prompts:
    """Find the form that nearly all prompts share.

    Those of more than `most_tokens` lose some of their own text. Prompts of another form, such as a
    header or one without text of its own, are left out.

    Raises:
        InputError: no prompt has text of its own, or the form alone is too long.
    """
    rows = [torch.tensor(list(ids), dtype=torch.int64) for ids in encoded]
    if not rows or not all(len(ids) for ids in rows):
        raise InputError("expected prompts with text")
    least = _USUAL * len(rows)
    head, rows = _form(rows, least, reverse=False)
    tail, rows = _form(rows, least, reverse=True, taken=head)
    if head + tail + 1 > most_tokens:
        raise InputError(f"expected prompts of at most {most_tokens} tokens, got longer ones")
    return Prompts(
        ids=tuple(_fitting(ids, most_tokens, tail) for ids in rows), head=head, tail=tail
    )


def _form(rows: list[Ids], least: float, *, reverse: bool, taken: int = 0) -> tuple[int, list[Ids]]:
    """Count the tokens that nearly all rows begin or end with, and drop the other rows.

    Every row keeps a token of its own.
    """
    count = 0
    while True:
        place = -1 - count if reverse else count
        longer = [ids for ids in rows if len(ids) > taken + count + 1]
        tokens = collections.Counter(int(ids[place]) for ids in longer)
        token, same = max(tokens.items(), key=lambda pair: (pair[1], -pair[0]), default=(0, 0))
        if len(rows) < 2 or same < least:
            return count, rows
        rows = [ids for ids in longer if int(ids[place]) == token]
        count += 1


def _fitting(ids: Ids, most: int, tail: int) -> Ids:
    return ids if len(ids) <= most else torch.cat([ids[: most - tail], ids[len(ids) - tail :]])


def halves(prompts: Prompts, *, most: int, seed: Seed) -> tuple[Prompts, Prompts]:
    """Draw prompts, half to search on and half to measure on."""
    order = torch.randperm(len(prompts), generator=generator(seed, torch.device("cpu")))
    rows = order[:most].tolist()
    middle = len(rows) // 2
    return prompts.subset(rows[:middle]), prompts.subset(rows[middle:])
