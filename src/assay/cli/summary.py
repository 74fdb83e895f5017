"""What a person reads at the end of a run; a program gets the same as JSON."""

import pathlib
from collections.abc import Callable

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from assay.records import record
from assay.reports import render
from assay.reports.text import NAME, PARAGRAPH, WORDING, plain, wording
from assay.results import Findings, Verdict
from assay.storage.runs import RunFolder

from .ends import of_verdict
from .exits import Exit
from .output import say, write
from .running import OutOfTimeError, run_task
from .tables import table
from .task import Done, Task

_SUBJECTS_SHOWN = 10


@record
class Manner:
    """How a run is carried out and shown; changes nothing of what it finds."""

    quiet: bool
    json: bool
    exit_zero: bool
    max_minutes: float | None


def carry_out(
    task: Task, path: pathlib.Path, begin: Callable[[], RunFolder], manner: Manner
) -> Exit:
    """Perform a run, show what it found, and say how the command ends."""
    try:
        done = run_task(task, path, begin, quiet=manner.quiet, max_minutes=manner.max_minutes)
    except OutOfTimeError as error:
        say(str(error))
        if manner.json:
            write(render(RunFolder.open(path), "json"))
        return Exit.ERROR
    if manner.json:
        write(render(RunFolder.open(path), "json"))
    else:
        show(path, done)
    return Exit.NOTHING_FLAGGED if manner.exit_zero else of_verdict(done.findings.verdict)


def show(path: pathlib.Path, done: Done) -> None:
    """Print the verdict, its reasons, the subjects behind it, and where things are."""
    console = Console()
    show_findings(done.findings, done.subject, done.table)
    for part in done.more:
        console.print(part, soft_wrap=isinstance(part, Text))
    console.print(Text(f"report: {path / 'report.html'}"), soft_wrap=True)


def show_findings(findings: Findings, subject: str, where: str) -> None:
    """Print the verdict, its reasons, and the subjects behind it; `where` holds all of them."""
    console, words = Console(), wording(findings.audit, findings.verdict)
    console.print(Text(f"\n{words.word}. {words.headline}", style="bold"))
    for reason in findings.reasons:
        console.print(Padding(Text(plain(reason, PARAGRAPH)), (0, 0, 0, 2)))
    noted = [s for s in findings.subjects if s.verdict is not Verdict.NO_INDICATOR]
    if noted:
        rows = [(plain(s.name, NAME), WORDING[s.verdict].word, _p_value(s.p_value)) for s in noted]
        console.print(table((subject, "verdict", "p-value"), rows[:_SUBJECTS_SHOWN]))
    if len(noted) > _SUBJECTS_SHOWN:
        console.print(f"  and {len(noted) - _SUBJECTS_SHOWN} more, in {where}")


def _p_value(value: float | None) -> str:
    return "not tested" if value is None else f"{value:.2g}"
