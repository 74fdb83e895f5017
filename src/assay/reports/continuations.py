"""What language models say with a recovered trigger and without, from the artifact of a run."""

from collections.abc import Mapping
from typing import Any

from assay.errors import InputError
from assay.records import record

from .source import optional_float
from .stored import Run

MODELS_SHOWN, PROMPTS_SHOWN = 12, 6


@record
class Said:
    """What one model says to a prompt."""

    model: str
    clean: str
    triggered: str


@record
class Shown:
    """One prompt, and what all models say to it."""

    prompt: str
    said: tuple[Said, ...]


@record
class Continuations:
    """The most suspicious trigger of a language model, as text."""

    model: str
    perplexity: float | None
    trigger: str
    place: str
    is_stable: bool
    response: str
    success: tuple[tuple[str, float | None], ...]
    """Model, and how often the trigger leads it to the response, in [0, 1]."""
    shown: tuple[Shown, ...]


def read(run: Run) -> Mapping[str, Continuations] | None:
    """Read what was recovered, by model; None where the run is not about language models.

    Raises:
        InputError: the record is damaged.
    """
    document = run.read_json("continuations")
    if document is None:
        return None
    try:
        found = [_continuations(item) for item in document["items"][:MODELS_SHOWN]]
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(
            f"the continuations in {run.path} are not as expected: {error!r}"
        ) from error
    return {each.model: each for each in found}


def _continuations(item: Mapping[str, Any]) -> Continuations:
    return Continuations(
        model=str(item["model"]),
        perplexity=optional_float(item["perplexity"]),
        trigger=str(item["trigger"]),
        place=str(item["place"]),
        is_stable=bool(item["is_stable"]),
        response=str(item["response"]),
        success=tuple(
            (str(one["model"]), optional_float(one["share"]))
            for one in item["success"][:MODELS_SHOWN]
        ),
        shown=tuple(
            Shown(
                prompt=str(one["triggered"]),
                said=tuple(
                    Said(
                        model=str(said["model"]),
                        clean=str(said["clean"]),
                        triggered=str(said["triggered"]),
                    )
                    for said in one["said"][:MODELS_SHOWN]
                ),
            )
            for one in item["prompts"][:PROMPTS_SHOWN]
        ),
    )
