"""The repaired models that a report shows, from the artifact of a models audit."""

from collections.abc import Mapping
from typing import Any

from assay.errors import InputError
from assay.records import record

from .source import optional_float
from .stored import Run

MODELS_SHOWN = 12
_NAMES = {"before": "As delivered", "after": "Repaired"}


@record
class Share:
    """A measured share with its 95 % interval, in [0, 1]."""

    value: float | None
    low: float | None
    high: float | None


@record
class Measured:
    """How a model does, before or after its repair."""

    name: str
    accuracy: Share
    asr: Share
    """How often the recovered trigger succeeds."""
    clean_cosine: float | None
    """Of an encoder: how near its features of clean images are to those of the delivered one, in
    [-1, 1]."""
    triggered_cosine: float | None
    """The same of triggered images, to the delivered one's of the same images without trigger."""


@record
class Repair:
    """One flagged model that was to be repaired."""

    model: str
    written: str | None
    """Name of the repaired copy in the folder of all; None where there is none."""
    note: str
    """Why there is none, or what the repair did not achieve."""
    rows: tuple[Measured, ...]
    """Before, then after."""


@record
class Repairs:
    """What repairing the flagged models changed."""

    folder: str
    """Where the repaired copies were written."""
    models: tuple[Repair, ...]
    left_out: int

    @property
    def of_encoders(self) -> bool:
        """Whether there are features to show."""
        return any(row.clean_cosine is not None for model in self.models for row in model.rows)


def read(run: Run) -> Repairs | None:
    """Read what was repaired; None where no repair was asked for or nothing was flagged.

    Raises:
        InputError: the record is damaged.
    """
    document = run.read_json("repair")
    if document is None:
        return None
    try:
        items = document["items"]
        return Repairs(
            folder=str(document["folder"]),
            models=tuple(_repair(item) for item in items[:MODELS_SHOWN]),
            left_out=max(0, len(items) - MODELS_SHOWN),
        )
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"the repairs in {run.path} are not as expected: {error!r}") from error


def _repair(item: Mapping[str, Any]) -> Repair:
    return Repair(
        model=str(item["model"]),
        written=None if item["written"] is None else str(item["written"]),
        note=str(item["note"]),
        rows=tuple(
            Measured(
                name=_NAMES.get(row["model"], str(row["model"])),
                accuracy=_share(row, "accuracy"),
                asr=_share(row, "asr"),
                clean_cosine=optional_float(row.get("clean_cosine")),
                triggered_cosine=optional_float(row.get("triggered_cosine")),
            )
            for row in item["rows"][:2]
        ),
    )


def _share(row: Mapping[str, Any], name: str) -> Share:
    value, low, high = (optional_float(row[f"{name}{end}"]) for end in ("", "_low", "_high"))
    return Share(value=value, low=low, high=high)
