"""`assay report`: render a stored run again."""

import pathlib
from typing import Annotated

import typer

from assay.errors import UsageError
from assay.reports import Format, render
from assay.storage.runs import RunFolder

from .exits import Exit
from .output import say, write


def report(
    run: Annotated[pathlib.Path, typer.Argument(metavar="RUN", help="A run folder.")],
    form: Annotated[
        Format, typer.Option("--format", help="html opens from disk; sarif and junit are for CI.")
    ] = "html",
    out: Annotated[
        pathlib.Path | None,
        typer.Option("--output", "-o", help="File to write, new.  [default: stdout]"),
    ] = None,
) -> int:
    """Render a stored run as a report; nothing is computed again.

    \b
    Examples:
      assay report runs/dataset-20260101-120000-3f9a -o report.html
      assay report RUN --format sarif -o assay.sarif
      assay report RUN --format md > comment.md
    """
    text = render(RunFolder.open(run), form)
    if out is None:
        write(text)
        return Exit.NOTHING_FLAGGED
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        if not isinstance(error, FileExistsError):
            out.unlink(missing_ok=True)  # what was written of it
        raise UsageError(f"cannot write {out}: {error.strerror}; choose another file") from error
    say(f"written: {out}")
    return Exit.NOTHING_FLAGGED
