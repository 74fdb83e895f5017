"""What goes where: results to stdout, everything else to stderr."""

import contextlib
import time
from collections.abc import Iterator

import rich.progress
import typer
from rich.console import Console

from assay.results import Progress, silent
from assay.storage import documents

from .ends import in_one_line
from .exits import Exit

_EVERY_S = 10.0
"""How often a log that is no terminal hears of progress."""


def say(text: str, *, quiet: bool = False) -> None:
    """Tell the user something that is no result."""
    if not quiet:
        typer.echo(text, err=True)


def write(text: str) -> None:
    """Write a result."""
    typer.echo(text)


def write_error(error: Exception, code: Exit) -> None:
    """Write an error where a program waits for JSON."""
    document = {
        "schema": "assay/error/v1",
        "error": type(error).__name__,
        "message": in_one_line(error),
        "exit_code": int(code),
    }
    write(documents.dump(document))


@contextlib.contextmanager
def progress(*, quiet: bool) -> Iterator[Progress]:
    """Show how far the work is: a bar on a terminal, a line now and then in a log."""
    console = Console(stderr=True)
    if quiet:
        yield silent
    elif not console.is_terminal:
        yield _Lines()
    else:
        with _bars(console) as bars:
            stages: dict[str, rich.progress.TaskID] = {}

            def show(stage: str, done: int, total: int) -> None:
                if stage not in stages:
                    stages[stage] = bars.add_task(stage, total=total)
                bars.update(stages[stage], completed=done, total=total)

            yield show


def _bars(console: Console) -> rich.progress.Progress:
    return rich.progress.Progress(
        rich.progress.TextColumn("{task.description}"),
        rich.progress.BarColumn(),
        rich.progress.MofNCompleteColumn(),
        rich.progress.TimeElapsedColumn(),
        rich.progress.TimeRemainingColumn(),
        console=console,
    )


class _Lines:
    """Progress as lines: when a stage starts and ends, and every few seconds between."""

    def __init__(self) -> None:
        self._stage = ""
        self._started = self._told = 0.0
        self._first = 0

    def __call__(self, stage: str, done: int, total: int) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._started, self._first = stage, now, done
        elif done < total and now - self._told < _EVERY_S:
            return
        self._told = now
        say(f"{stage} {done}/{total}{self._left(done, total, now)}")

    def _left(self, done: int, total: int, now: float) -> str:
        if done >= total or done == self._first:
            return ""
        left = (now - self._started) / (done - self._first) * (total - done)
        return f", about {left:.0f} s left"
