"""A disputed sub-run, down to the first step after which two providers held other weights."""

import itertools
from collections.abc import Mapping

from assay.errors import InputError
from assay.records import record

from .receiving import step_digest, step_lines


@record
class Parting:
    """Where two providers part."""

    first: str
    second: str
    step: int | None
    """The first step, in the whole training, after which their weights differ; None where they
    never do, or where nothing can be compared."""
    compared: int
    """Steps of which both logs hold a digest."""


def bisect(logs: Mapping[str, bytes]) -> tuple[Parting, ...]:
    """Compare the logs of one sub-run, by provider, pair by pair.

    Only providers with equal environments can be expected to hold equal weights; between others
    the first step differs, and says nothing.

    Raises:
        InputError: there are fewer than two logs, or a log is broken.
    """
    if len(logs) < 2:
        raise InputError(f"expected the logs of two providers or more, got {len(logs)}")
    return tuple(_parting(a, b, logs) for a, b in itertools.combinations(sorted(logs), 2))


def _parting(first: str, second: str, logs: Mapping[str, bytes]) -> Parting:
    one, other = _digests(logs[first]), _digests(logs[second])
    both = sorted(one.keys() & other.keys())
    step = next((number for number in both if one[number] != other[number]), None)
    return Parting(first=first, second=second, step=step, compared=len(both))


def _digests(log: bytes) -> dict[int, str]:
    found = {line["step"]: step_digest(line) for line in step_lines(log)}
    return {step: digest for step, digest in found.items() if digest is not None}
