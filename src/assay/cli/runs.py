"""`assay runs`: list, show and resume what was run."""

import functools
import pathlib
from typing import Annotated

import typer
from rich.console import Console

from assay.errors import AssayError
from assay.reports import render
from assay.reports.text import plain
from assay.storage import documents
from assay.storage.run_info import info_document
from assay.storage.runs import RunFolder, list_runs

from . import options
from .exits import EXIT_CODES, Exit
from .output import say, write
from .perform import task_of
from .summary import Manner, carry_out
from .tables import table
from .task import resume as take_up

runs = typer.Typer(
    name="runs",
    help="List, show and resume runs.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
)

Run = Annotated[pathlib.Path, typer.Argument(metavar="RUN", help="A run folder.")]


@runs.command(name="list", epilog=EXIT_CODES)
def list_(
    root: Annotated[pathlib.Path, typer.Argument(help="The folder that holds runs.")] = (
        pathlib.Path("runs")
    ),
    json: options.Json = False,
) -> int:
    """List the runs in a folder: when they started, how they stand, what they found."""
    found = [_line(run) for run in list_runs(root)]
    if json:
        write(documents.dump({"schema": "assay/runs/v1", "runs": found}))
        return Exit.NOTHING_FLAGGED
    heads = ("run", "audit", "state", "verdict", "started")
    rows = [[plain(line[head] or "") for head in heads] for line in found]
    everything = sum(max(map(len, column)) + 4 for column in zip(heads, *rows, strict=True))
    console = Console()
    if not console.is_terminal:  # a name that is cut names nothing
        console.width = max(console.width, everything)
    console.print(table(heads, rows), soft_wrap=True)
    return Exit.NOTHING_FLAGGED


@runs.command(epilog=EXIT_CODES)
def show(run: Run, json: options.Json = False) -> int:
    """Show what a run was asked, how it stands, and what it found, if it has found something."""
    folder = RunFolder.open(run)
    if (run / "findings.json").exists():
        write(render(folder, "json" if json else "md"))
        return Exit.NOTHING_FLAGGED
    asked = info_document(folder.info)
    if json:
        write(documents.dump(asked))
        return Exit.NOTHING_FLAGGED
    rows = [(name, plain(value, 1000)) for name, value in asked.items()]
    Console().print(table(("", run.name), rows), soft_wrap=True)
    say(f"nothing found yet; go on with: assay runs resume {run}")
    return Exit.NOTHING_FLAGGED


@runs.command(epilog=EXIT_CODES)
def resume(
    run: Run,
    max_minutes: options.MaxMinutes = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
    exit_zero: options.ExitZero = False,
) -> int:
    """Go on with a run that was interrupted or killed, or that failed.

    It is asked again what it was asked, with the stored settings; its inputs have to hold what
    they held. The result is that of a run that was never stopped.
    """
    asked = RunFolder.open(run).info
    task = task_of(asked.audit, asked.settings)
    begin = functools.partial(take_up, task, run)
    manner = Manner(quiet=quiet, json=json, exit_zero=exit_zero, max_minutes=max_minutes)
    return carry_out(task, run, begin, manner)


def _line(run: RunFolder) -> dict[str, str | None]:
    line: dict[str, str | None] = {"run": str(run.path)}
    try:
        info = run.info
        line |= {"audit": info.audit, "state": info.state, "started": info.started}
        line["verdict"] = run.read_findings().verdict.value
    except AssayError:
        line = {"audit": None, "state": "damaged", "started": None, "verdict": None} | line
    return line
