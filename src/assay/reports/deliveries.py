"""The delivered models that a report shows, from the tables and artifacts of a models audit."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from assay.errors import InputError
from assay.records import record
from assay.results import Verdict

from .figures import data_uri
from .source import optional_float, rank
from .stored import Run

PICTURE_BYTES = 2_000_000
"""What the pictures of triggers may take together, as text."""
MODELS_SHOWN, SAMPLES_SHOWN, DEPTHS_SHOWN = 12, 6, 24
TARGETS_SHOWN, QUESTIONS_SHOWN = 25, 12
_PICTURES = ("clean", "stamped", "difference")


@record
class Shown:
    """One sample without and with the trigger, and what the models say of it."""

    label: str
    clean: str
    """The picture."""
    stamped: str
    difference: str
    answers: tuple[tuple[str, str, str], ...]
    """Model, its answer without the trigger, its answer with it."""


@record
class Alike:
    """How alike a model and its reference are at one depth: linear CKA, in [0, 1]."""

    depth: str
    clean: float | None
    triggered: float | None


@record
class Trigger:
    """A recovered trigger."""

    family: str
    source: str | None
    """The class of the images that it is put on; None for all but the target."""
    target: str
    response: str | None
    """What a model that answers with text says to it; its target is the first token of that."""
    shown: tuple[Shown, ...]
    left_out: int
    """How many samples were left out to keep the report small."""
    amplified: float | None
    asr: tuple[tuple[str, float | None], ...]
    """Model, and how often it goes to the target, in [0, 1]."""
    asr_tuned: float | None
    cka: tuple[Alike, ...]


@record
class Model:
    """One delivered model."""

    name: str
    accuracy: float | None
    reliance: float | None
    """How much answers depend on the picture, in [0, 1], of a model that answers with text."""
    verdict: Verdict
    p_value: float | None
    alone_p_value: float | None
    reason: str
    trigger: Trigger | None


@record
class Question:
    """One candidate trigger of a model."""

    model: str
    family: str
    source: str | None
    target: str
    margin: float | None
    reference_margin: float | None
    asr: float | None
    excess: float | None
    p_value: float | None
    alone: float | None
    alone_p_value: float | None
    needed: float | None
    """The excess that is evidence enough to flag a model."""

    @property
    def reach(self) -> float | None:
        """The excess as a share of what is needed."""
        if self.excess is None or self.needed is None or not self.needed > 0:
            return None
        return self.excess / self.needed if math.isfinite(self.excess) else None


@record
class Row:
    """The highest excess of each model towards one target."""

    target: str
    cells: tuple[Question | None, ...]
    """In the order of the models."""


@record
class Deliveries:
    """What a models audit found."""

    models: tuple[Model, ...]
    """In the order in which they were named."""
    targets: tuple[Row, ...]
    """The most suspicious first."""
    targets_in_all: int
    strongest: tuple[Question, ...]
    """The questions with the smallest p-values, of either evidence."""
    questions_in_all: int
    has_classes: bool = True
    """Or else the models answer pictures with text."""


NOTHING = Deliveries(models=(), targets=(), targets_in_all=0, strongest=(), questions_in_all=0)


def read(run: Run) -> Deliveries:
    """Read what was found of the models; nothing where the run is of another audit.

    Raises:
        InputError: the records are damaged.
    """
    models, pairs = run.read_table("models"), run.read_table("pairs")
    if models is None or pairs is None:
        return NOTHING
    about, found = run.read_json("questions"), run.read_json("triggers")
    if about is None:
        about = {"classes": [], "kinds": []}
    try:
        items = [] if found is None else found["items"]
        triggers = _triggers(items, run.read_tensors("triggers") or {})
        questions = _questions(pairs, about)
        return _deliveries(models, triggers, questions, about)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"the models in {run.path} are not as expected: {error!r}") from error


def _deliveries(
    table: Mapping[str, list[Any]],
    triggers: Mapping[str, Trigger],
    questions: Sequence[Question],
    about: Mapping[str, Any],
) -> Deliveries:
    reliance = about.get("reliance", {})
    places = range(len(table["name"]))
    models = [_model(table, i, triggers, reliance) for i in places][:MODELS_SHOWN]
    targets = _targets(questions, [model.name for model in models])
    return Deliveries(
        models=tuple(models),
        targets=tuple(targets[:TARGETS_SHOWN]),
        targets_in_all=len(targets),
        strongest=tuple(sorted(questions, key=_smallest)[:QUESTIONS_SHOWN]),
        questions_in_all=len(questions),
        has_classes=about.get("answers") != "text",
    )


def _model(
    table: Mapping[str, list[Any]],
    i: int,
    triggers: Mapping[str, Trigger],
    reliance: Mapping[str, Any],
) -> Model:
    return Model(
        name=str(table["name"][i]),
        accuracy=optional_float(table["accuracy"][i]),
        reliance=optional_float(reliance.get(table["name"][i])),
        verdict=Verdict(table["verdict"][i]),
        p_value=optional_float(table["p_value"][i]),
        alone_p_value=optional_float(table["alone_p_value"][i]),
        reason=table["reason"][i] or "",
        trigger=triggers.get(table["name"][i]),
    )


def _triggers(
    items: Sequence[Mapping[str, Any]], tensors: Mapping[str, Tensor]
) -> dict[str, Trigger]:
    made, left = {}, PICTURE_BYTES
    for place, item in enumerate(items[:MODELS_SHOWN]):
        pictures = [_pictures(tensors[f"{place}.{kind}"]) for kind in _PICTURES]
        shown = _shown(item, pictures, left)
        left -= sum(len(s.clean) + len(s.stamped) + len(s.difference) for s in shown)
        made[item["model"]] = Trigger(
            family=item["family"],
            source=item["source"],
            target=item["target"],
            response=item.get("response"),
            shown=shown,
            left_out=len(pictures[0]) - len(shown),
            amplified=optional_float(item["amplified"]),
            asr=tuple((one["model"], optional_float(one["asr"])) for one in item["asr"]),
            asr_tuned=optional_float(item["asr_tuned"]),
            cka=tuple(
                Alike(
                    depth=one["depth"],
                    clean=optional_float(one["clean"]),
                    triggered=optional_float(one["triggered"]),
                )
                for one in item["cka"][:DEPTHS_SHOWN]
            ),
        )
    return made


def _pictures(images: Tensor) -> Tensor:
    if images.ndim != 4 or images.dtype != torch.uint8 or 0 in images.shape[1:]:
        raise ValueError(f"pictures of shape {tuple(images.shape)} and type {images.dtype}")
    return images[:SAMPLES_SHOWN]


def _shown(item: Mapping[str, Any], pictures: Sequence[Tensor], most: int) -> tuple[Shown, ...]:
    before, after = item["answers_clean"], item["answers_stamped"]
    shown, spent = [], 0
    for row, label in enumerate(item["labels"][: len(pictures[0])]):
        uris = [data_uri(images[row]) for images in pictures]
        spent += sum(map(len, uris))
        if spent > most:
            break
        answers = tuple(
            (first["model"], first["classes"][row], then["classes"][row])
            for first, then in zip(before[:MODELS_SHOWN], after[:MODELS_SHOWN], strict=True)
        )
        shown.append(
            Shown(label=label, clean=uris[0], stamped=uris[1], difference=uris[2], answers=answers)
        )
    return tuple(shown)


def _questions(table: Mapping[str, list[Any]], about: Mapping[str, Any]) -> list[Question]:
    names = about["classes"]
    needed = {
        (kind["family"], kind["one_source"]): optional_float(kind["threshold"])
        for kind in about["kinds"]
    }

    def named(label: int | None) -> str | None:
        if label is None:
            return None
        return names[label] if 0 <= label < len(names) else str(label)

    return [
        Question(
            model=str(row["model"]),
            family=str(row["family"]),
            source=named(row["source"]),
            target=named(row["target"]) or "",
            margin=optional_float(row["margin"]),
            reference_margin=optional_float(row["reference_margin"]),
            asr=optional_float(row["asr"]),
            excess=optional_float(row["excess"]),
            p_value=optional_float(row["p_value"]),
            alone=optional_float(row["alone"]),
            alone_p_value=optional_float(row["alone_p_value"]),
            needed=needed.get((row["family"], row["source"] is not None)),
        )
        for row in (
            dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)
        )
    ]


def _targets(questions: Sequence[Question], models: Sequence[str]) -> list[Row]:
    best: dict[str, dict[str, Question]] = {}
    for question in questions:
        held = best.setdefault(question.target, {}).get(question.model)
        if held is None or _height(question) > _height(held):
            best[question.target][question.model] = question
    rows = [
        Row(target=target, cells=tuple(cells.get(model) for model in models))
        for target, cells in best.items()
    ]
    return sorted(
        rows, key=lambda row: -max((_height(c) for c in row.cells if c), default=-math.inf)
    )


def _height(question: Question) -> float:
    """Order questions of kinds with different thresholds."""
    return rank(question.reach if question.reach is not None else question.excess)


def _smallest(question: Question) -> float:
    values = [p for p in (question.p_value, question.alone_p_value) if p is not None]
    return min(values, default=math.inf)
