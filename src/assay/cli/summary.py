"""What a person reads at the end of a run; a program gets the same as JSON."""

import pathlib
from collections.abc import Callable, Sequence

import rich.box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from assay.records import record
from assay.repair import Proof
from assay.reports import render
from assay.reports.text import WORDING
from assay.results import Verdict
from assay.storage.runs import RunFolder

from .ends import Exit, of_verdict
from .job import DatasetJob, Loaded
from .output import say, write
from .perform import Done, OutOfTimeError, perform

_CLASSES_SHOWN = 10


@record
class Manner:
    """How a run is carried out and shown; changes nothing of what it finds."""

    quiet: bool
    json: bool
    exit_zero: bool
    max_minutes: float | None


def carry_out(
    job: DatasetJob,
    loaded: Loaded,
    path: pathlib.Path,
    begin: Callable[[], RunFolder],
    manner: Manner,
) -> Exit:
    """Perform a run, show what it found, and say how the command ends."""
    try:
        done = perform(job, loaded, path, begin, quiet=manner.quiet, max_minutes=manner.max_minutes)
    except OutOfTimeError as error:
        say(str(error))
        if manner.json:
            write(render(RunFolder.open(path), "json"))
        return Exit.ERROR
    if manner.json:
        write(render(RunFolder.open(path), "json"))
    else:
        show(job, path, done)
    return Exit.NOTHING_FLAGGED if manner.exit_zero else of_verdict(done.findings.verdict)


def show(job: DatasetJob, path: pathlib.Path, done: Done) -> None:
    """Print the verdict, its reasons, the classes behind it, the proof, and where things are."""
    console, words = Console(), WORDING[done.findings.verdict]
    console.print(Text(f"\n{words.word}. {words.headline}", style="bold"))
    for reason in done.findings.reasons:
        console.print(Padding(Text(reason), (0, 0, 0, 2)))
    noted = [s for s in done.findings.subjects if s.verdict is not Verdict.NO_INDICATOR]
    if noted:
        rows = [(s.name, WORDING[s.verdict].word, _p_value(s.p_value)) for s in noted]
        console.print(table(("class", "verdict", "p-value"), rows[:_CLASSES_SHOWN]))
    if len(noted) > _CLASSES_SHOWN:
        console.print(f"  and {len(noted) - _CLASSES_SHOWN} more, in classes.parquet")
    if done.proof is not None:
        console.print(proof_table(done.proof))
    if job.cleanse is not None:
        console.print(Text(_cleansed(job.cleanse, done.flagged)))
    console.print(Text(f"report: {path / 'report.html'}"), soft_wrap=True)


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """Lay out texts as they are: names of an audited party are never read as markup."""
    made = Table(box=rich.box.SIMPLE)
    for place, head in enumerate(heads):
        made.add_column(head, justify="left" if place == 0 else "right")
    for row in rows:
        made.add_row(*(Text(cell) for cell in row))
    return made


def proof_table(proof: Proof) -> Table:
    """Lay out what retraining showed."""
    rows = [
        (
            f"{row.model} cleansing",
            f"{row.samples:,}",
            f"{row.accuracy:.1%}",
            f"{row.accuracy_interval.low:.1%} to {row.accuracy_interval.high:.1%}",
            "no trigger known" if row.asr is None else f"{row.asr:.1%}",
        )
        for row in proof.rows
    ]
    return table(("trained", "samples", "accuracy", "95 % interval", "attack succeeds"), rows)


def _p_value(value: float | None) -> str:
    return "not tested" if value is None else f"{value:.2g}"


def _cleansed(path: str, flagged: int) -> str:
    if flagged:
        return f"cleansed data, without {flagged} samples: {path}"
    return f"nothing was flagged, so no cleansed data were written to {path}"
