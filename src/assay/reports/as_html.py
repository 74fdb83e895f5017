"""The report for people: one HTML file that needs nothing else."""

import functools
import json
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from assay.records import record
from assay.results import Subject, Verdict

from . import contexts, continuations, deliveries, gallery, repairs, replicas, text
from .deliveries import MODELS_SHOWN, Deliveries
from .figures import histogram
from .gallery import Gallery, Item
from .source import ClassRow, Scores, Source

CLASSES_SHOWN, LOOKED_AT, SAMPLES_SHOWN, SUBJECTS_SHOWN = 100, 8, 25, 50
EVIDENCE_SHOWN, SENTENCES_SHOWN, ENTRIES_SHOWN, SETTINGS_SHOWN = 12, 30, 50, 200
"""How much is shown at most: it keeps the file below 5 MB for a data set of any size."""


@record
class Tile:
    """A number that a reader looks for first."""

    what: str
    value: str
    extra: str = ""


@record
class Chart:
    """A histogram, with the numbers that its legend names."""

    svg: str
    inspected: int
    calibration: int
    flagged: int
    threshold: float | None
    """The lowest flagged score."""
    missing: int
    """Samples without a finite score."""


@record
class Look:
    """A closer look at one class."""

    name: str
    verdict: Verdict | None
    suspicious: Sequence[Item]
    typical: Sequence[Item]
    chart: Chart | None


def render(source: Source) -> str:
    """Render the report.

    Returns:
        An HTML document of less than 5 MB, with its style and pictures inside, without scripts.
    """
    delivered = deliveries.read(source.run)
    shown = gallery.read(source.run, [row.label for row in source.classes], LOOKED_AT)
    subjects, names = _subjects(source), source.class_names()
    return (
        _environment()
        .get_template("report.html.j2")
        .render(
            title=text.title(source.findings.audit),
            subject_line=_subject_line(source, delivered),
            words=text.wording(source.findings.audit, source.findings.verdict),
            wording=text.WORDING,
            flagged_verdict=Verdict.FLAGGED,
            findings=source.findings,
            info=source.info,
            run_path=source.run.path,
            tiles=_tiles(source, delivered),
            delivered=delivered,
            models_shown=MODELS_SHOWN,
            repairs=repairs.read(source.run),
            replicas=replicas.read(source.run),
            continuations=continuations.read(source.run),
            contexts=contexts.read(source.run),
            is_prompt=source.findings.audit == "prompts",
            inputs=list(source.info.inputs.items())[:ENTRIES_SHOWN],
            subjects=subjects[:SUBJECTS_SHOWN],
            subjects_in_all=len(subjects),
            noted=[row for row in source.classes if row.verdict != Verdict.NO_INDICATOR],
            others=[row for row in source.classes if row.verdict == Verdict.NO_INDICATOR],
            classes_shown=CLASSES_SHOWN,
            looks=_looks(source, shown),
            gallery=shown,
            chart=_chart(source, None),
            flagged=[(s, names.get(s.label, s.label)) for s in source.flagged[:SAMPLES_SHOWN]],
            flagged_in_all=len(source.flagged),
            proof=source.proof[:ENTRIES_SHOWN],
            assumptions=source.assumptions()[:SENTENCES_SHOWN],
            sentences_shown=SENTENCES_SHOWN,
            evidence_shown=EVIDENCE_SHOWN,
            command=shlex.join(source.info.command),
            settings=_settings(source.info.settings),
            versions=list(source.info.versions.items())[:ENTRIES_SHOWN],
        )
    )


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("assay.reports"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "name": functools.partial(text.plain, limit=text.NAME),
        "id": functools.partial(text.plain, limit=text.ID),
        "sentence": functools.partial(text.plain, limit=text.SENTENCE),
        "paragraph": functools.partial(text.plain, limit=text.PARAGRAPH),
        "anything": text.anything,
        "number": text.number,
        "p_value": text.p_value,
        "share": text.share,
        "bar": _bar,
        "duration": text.duration,
        "moment": text.moment,
    }
    return environment


def _bar(reach: float) -> str:
    """Turn a share of the threshold into the length of a bar, of which the threshold is 2/3."""
    return f"{100 * min(1.0, max(0.0, reach / 1.5)):.1f}"


def _subject_line(source: Source, delivered: Deliveries) -> str:
    """Name what was audited: the models, or the last part of the path of the prompt or the data."""
    if delivered.models:
        return text.plain(", ".join(model.name for model in delivered.models), text.NAME)
    inputs, is_prompt = source.info.inputs, source.findings.audit == "prompts"
    first = inputs.get("prompt") if is_prompt else next(iter(inputs.values()), None)
    return "" if first is None else text.plain(pathlib.PurePath(first.path).name, text.NAME)


def _tiles(source: Source, delivered: Deliveries) -> list[Tile]:
    findings, tiles = source.findings, []
    if source.scores is not None:
        count = len(source.scores.values)
        part = f"({100 * len(source.flagged) / count:.2f} %)" if count else ""
        tiles += [
            Tile(what="samples inspected", value=text.number(count)),
            Tile(what="samples flagged", value=text.number(len(source.flagged)), extra=part),
        ]
    if source.calibration is not None:
        tiles.append(
            Tile(
                what="trusted samples for calibration",
                value=text.number(len(source.calibration.values)),
            )
        )
    verdicts = [verdict for _, verdict, _ in source.cases()]
    if delivered.models:
        tiles.append(Tile(what="questions asked", value=text.number(delivered.questions_in_all)))
    what = "classes" if source.classes else "models" if delivered.models else "subjects"
    what = "prompts" if source.findings.audit == "prompts" else what
    tiles += [
        Tile(
            what=f"{what} flagged",
            value=text.number(verdicts.count(Verdict.FLAGGED)),
            extra=f"of {len(verdicts):,}",
        ),
        Tile(what="false alarm rate at most", value=text.share(findings.alpha)),
        Tile(what="time", value=text.duration(findings.cost.wall_s)),
    ]
    return tiles


def _subjects(source: Source) -> list[Subject]:
    """List the subjects that the table of classes does not show already."""
    classes = {row.name for row in source.classes}
    return [subject for subject in source.findings.subjects if subject.name not in classes]


def _looks(source: Source, shown: Gallery) -> list[Look]:
    rows: Mapping[int, ClassRow] = {row.label: row for row in source.classes}
    flagged = [row.label for row in source.classes if row.verdict == Verdict.FLAGGED]
    labels = dict.fromkeys([item.label for item in shown.items] + flagged)
    looks = []
    for label in list(labels)[:LOOKED_AT]:
        items = [item for item in shown.items if item.label == label]
        looks.append(
            Look(
                name=rows[label].name if label in rows else str(label),
                verdict=rows[label].verdict if label in rows else None,
                suspicious=[item for item in items if item.suspicious],
                typical=[item for item in items if not item.suspicious],
                chart=_chart(source, label),
            )
        )
    return looks


def _chart(source: Source, label: int | None) -> Chart | None:
    """Draw the scores of one class, or of all."""
    if source.scores is None:
        return None
    scores = _of_class(source.scores, label)
    trusted = scores.values[:0]
    if source.calibration is not None:
        trusted = _of_class(source.calibration, label).values
    flagged, inspected = scores.values[scores.flagged], scores.values[~scores.flagged]
    svg = histogram(inspected, trusted, flagged, name=f"class {label}")
    if not svg:
        return None
    drawn = flagged[flagged.isfinite()]
    return Chart(
        svg=svg,
        inspected=len(inspected),
        calibration=len(trusted),
        flagged=len(flagged),
        threshold=drawn.min().item() if len(drawn) else None,
        missing=int((~scores.values.isfinite()).sum()),
    )


def _of_class(scores: Scores, label: int | None) -> Scores:
    if label is None:
        return scores
    rows = scores.labels == label
    return Scores(
        labels=scores.labels[rows], values=scores.values[rows], flagged=scores.flagged[rows]
    )


def _settings(settings: Mapping[str, Any]) -> str:
    lines = json.dumps(settings, indent=2, ensure_ascii=False, default=str).splitlines()
    shown = [text.plain(line) for line in lines[:SETTINGS_SHOWN]]
    return "\n".join(shown + ["…"] * (len(lines) > SETTINGS_SHOWN))
