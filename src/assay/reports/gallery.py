"""The samples that a report shows, from `gallery.json` and `gallery.safetensors` of a run."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from assay.errors import InputError
from assay.records import record

from .figures import data_uri
from .source import optional_float
from .stored import Run

ITEMS_A_KIND = 12
PICTURE_BYTES = 2_500_000
"""What the pictures of a report may take together, as text."""
VALUES_SHOWN = 8
"""How many values of a row of a table are shown."""


@record
class Item:
    """One sample, with its picture or its first values."""

    label: int
    suspicious: bool
    """Or else typical of its class."""
    index: int
    id: str
    score: float | None
    p_value: float | None
    uri: str
    """The picture; empty for a row of a table."""
    values: tuple[float, ...]
    """The first values of a row of a table; none for a picture."""


@record
class Gallery:
    """Samples to look at."""

    items: tuple[Item, ...]
    columns: tuple[str, ...]
    """What the values of a row are called; none for pictures."""
    left_out: int
    """How many pictures were left out to keep the report small."""


def read(run: Run, labels: list[int], most_classes: int) -> Gallery:
    """Read the gallery.

    Args:
        run: where it lies; a run without a gallery has an empty one.
        labels: classes, the most interesting first; classes of the gallery that are not named
            come last.
        most_classes: how many classes to show.

    Raises:
        InputError: the gallery is damaged.
    """
    about, tensors = run.read_json("gallery"), run.read_tensors("gallery")
    if about is None or tensors is None:
        return Gallery(items=(), columns=(), left_out=0)
    try:
        entries, inputs = about["items"], tensors["inputs"]
        if len(entries) != len(inputs):
            raise InputError(f"expected an item a sample, got {len(entries)} of {len(inputs)}")
        chosen = _choose(entries, labels, most_classes)
        items = _items(entries, inputs, chosen)
        columns = about.get("columns") or [f"value {i}" for i in range(inputs.shape[1])]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"the gallery in {run.path} is not as expected: {error!r}") from error
    return Gallery(
        items=items,
        columns=tuple(columns[:VALUES_SHOWN]) if inputs.ndim == 2 else (),
        left_out=len(chosen) - len(items),
    )


def _choose(entries: Sequence[Mapping[str, Any]], labels: list[int], most: int) -> list[int]:
    """Choose rows: class after class, some of each kind."""
    held = dict.fromkeys(entry["label"] for entry in entries)
    order = [label for label in labels if label in held]
    order += [label for label in held if label not in order]
    chosen = []
    for label in order[:most]:
        for kind in ("suspicious", "typical"):
            rows = [i for i, e in enumerate(entries) if (e["label"], e["kind"]) == (label, kind)]
            chosen += rows[:ITEMS_A_KIND]
    return chosen


def _items(
    entries: Sequence[Mapping[str, Any]], inputs: Tensor, chosen: Sequence[int]
) -> tuple[Item, ...]:
    items, spent = [], 0
    for row in chosen:
        entry, is_image = entries[row], inputs.ndim == 4
        uri = data_uri(inputs[row]) if is_image else ""
        spent += len(uri)
        if spent > PICTURE_BYTES:
            break
        items.append(
            Item(
                label=entry["label"],
                suspicious=entry["kind"] == "suspicious",
                index=entry["index"],
                id=entry["id"],
                score=optional_float(entry["score"]),
                p_value=optional_float(entry["p_value"]),
                uri=uri,
                values=() if is_image else tuple(inputs[row, :VALUES_SHOWN].tolist()),
            )
        )
    return tuple(items)
