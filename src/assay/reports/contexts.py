"""What images add to the context of a tuned prompt, with a trigger and without."""

import math
from typing import Any

import torch
from torch import Tensor

from assay.errors import InputError
from assay.records import record

from .figures import scatter
from .stored import Run

_POINTS = 256


@record
class Contexts:
    """Two clouds of points, drawn."""

    svg: str
    spread_clean: float
    """Root mean square distance from the mean, of the context of clean images."""
    spread_triggered: float


def read(run: Run) -> Contexts | None:
    """Read what images add to the context; None where it does not depend on images.

    Raises:
        InputError: the record is damaged.
    """
    document = run.read_json("context")
    if document is None:
        return None
    try:
        clean, triggered = (_places(document[name]["places"]) for name in ("clean", "triggered"))
        spreads = [_finite(document[name]["spread"]) for name in ("clean", "triggered")]
        return Contexts(
            svg=scatter(clean, triggered, name="context"),
            spread_clean=spreads[0],
            spread_triggered=spreads[1],
        )
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"the contexts in {run.path} are not as expected: {error!r}") from error


def _places(rows: Any) -> Tensor:
    places = torch.tensor(rows[:_POINTS], dtype=torch.float64)
    if places.ndim != 2 or places.shape[1] < 2 or not places.isfinite().all():
        raise ValueError(f"places of shape {tuple(places.shape)}")
    return places[:, :2]


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"a spread of {number}")
    return number
