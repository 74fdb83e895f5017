"""What a report is made from: the records of a run, read once."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float64, Int64
from torch import Tensor

from assay.errors import InputError
from assay.records import record
from assay.results import Findings, Subject, Verdict

from . import text
from .stored import Info, Run


@record
class ClassRow:
    """One class of a data set, as `classes.parquet` has it."""

    label: int
    name: str
    samples: int | None
    calibration: int | None
    flagged: int | None
    statistic: float | None
    p_value: float | None
    adjusted_p_value: float | None
    verdict: Verdict
    reason: str


@record
class Sample:
    """One sample, as `samples.parquet` has it."""

    index: int
    id: str
    label: int
    score: float | None
    p_value: float | None


@record
class Scores:
    """The scores of samples; NaN where there is none."""

    labels: Int64[Tensor, " samples"]
    values: Float64[Tensor, " samples"]
    flagged: Bool[Tensor, " samples"]


@record
class Model:
    """A model that was trained to prove what repairing the data changes."""

    name: str
    samples: int | None
    accuracy: float | None
    """In [0, 1]."""
    asr: float | None
    """Attack success rate, in [0, 1], where the trigger is known."""


@record
class Source:
    """Everything a report shows."""

    run: Run
    info: Info
    findings: Findings
    classes: tuple[ClassRow, ...]
    """The most suspicious first; none where the audit is not about classes."""
    flagged: tuple[Sample, ...]
    """The flagged samples, the most suspicious first."""
    scores: Scores | None
    """Of the inspected samples."""
    calibration: Scores | None
    """Of the trusted samples."""
    proof: tuple[Model, ...]

    def class_names(self) -> dict[int, str]:
        """Name the classes, by label."""
        return {row.label: row.name for row in self.classes}

    def assumptions(self) -> list[str]:
        """Collect the assumptions of all subjects, each once."""
        return list(
            dict.fromkeys(a for subject in self.findings.subjects for a in subject.assumptions)
        )

    def cases(self) -> list[tuple[str, Verdict, str]]:
        """List what got a verdict, with a sentence on why: the classes, or else the subjects."""
        if self.classes:
            return [(row.name, row.verdict, _class_reason(row)) for row in self.classes]
        return [(s.name, s.verdict, _subject_reason(s)) for s in self.findings.subjects]


def _class_reason(row: ClassRow) -> str:
    """Give the reason, or say how many samples of a class are flagged, and how sure that is."""
    if row.reason or not row.flagged:
        return row.reason
    sure = "" if row.adjusted_p_value is None else f", adjusted p-value {row.adjusted_p_value:.3g}"
    return f"{row.flagged} of {row.samples} samples are flagged{sure}"


def _subject_reason(subject: Subject) -> str:
    """Say why there is no p-value, as the evidence has it, or how large it is."""
    if subject.p_value is None:
        return str(subject.evidence.get("reason") or "no p-value")
    return f"p-value {subject.p_value:.3g}"


def read(run: Run) -> Source:
    """Read what a report needs.

    Raises:
        InputError: the run has no findings yet, or a record is damaged.
    """
    findings = run.read_findings()
    samples, calibration = run.read_table("samples"), run.read_table("calibration")
    try:
        return Source(
            run=run,
            info=run.info,
            findings=findings,
            classes=_classes(run.read_table("classes")),
            flagged=() if samples is None else _flagged(samples),
            scores=None if samples is None else _scores(samples),
            calibration=None if calibration is None else _scores(calibration),
            proof=_proof(run.read_json("proof")),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"the records in {run.path} are not as expected: {error!r}") from error


_ORDER = {Verdict.FLAGGED: 0, Verdict.INCONCLUSIVE: 1, Verdict.NO_INDICATOR: 2}


def _classes(table: Mapping[str, list[Any]] | None) -> tuple[ClassRow, ...]:
    if table is None:
        return ()
    rows = [
        ClassRow(
            label=table["class"][i],
            name=table["name"][i],
            samples=table["samples"][i],
            calibration=table["calibration"][i],
            flagged=table["flagged"][i],
            statistic=table["statistic"][i],
            p_value=table["p_value"][i],
            adjusted_p_value=table["adjusted_p_value"][i],
            verdict=Verdict(table["verdict"][i]),
            reason=table["reason"][i] or "",
        )
        for i in range(len(table["class"]))
    ]
    return tuple(sorted(rows, key=lambda r: (_ORDER[r.verdict], -rank(r.statistic), r.label)))


def _flagged(table: Mapping[str, list[Any]]) -> tuple[Sample, ...]:
    chosen = [i for i, is_poison in enumerate(table["is_poison_issue"]) if is_poison]
    chosen.sort(key=lambda i: -rank(table["poison_score"][i]))
    return tuple(
        Sample(
            index=table["index"][i],
            id=table["id"][i],
            label=table["label"][i],
            score=table["poison_score"][i],
            p_value=table["p_value"][i],
        )
        for i in chosen
    )


def _scores(table: Mapping[str, list[Any]]) -> Scores:
    values = [math.nan if v is None else v for v in table["poison_score"]]
    return Scores(
        labels=torch.tensor(table["label"], dtype=torch.int64),
        values=torch.tensor(values, dtype=torch.float64),
        flagged=torch.tensor(table.get("is_poison_issue", [False] * len(values)), dtype=torch.bool),
    )


def _proof(document: Any | None) -> tuple[Model, ...]:
    return tuple(
        Model(
            name=text.MODELS.get(row["model"], row["model"]),
            samples=row["samples"],
            accuracy=optional_float(row["accuracy"]),
            asr=optional_float(row["asr"]),
        )
        for row in (document["rows"] if document else [])
    )


def rank(value: float | None) -> float:
    """Order numbers by size, with what is missing at the end."""
    return -math.inf if value is None or math.isnan(value) else value


def optional_float(value: Any) -> float | None:
    """Read a number that may be missing.

    Raises:
        TypeError, ValueError: it is something else.
    """
    return None if value is None else float(value)
