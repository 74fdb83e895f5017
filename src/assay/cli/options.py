"""Options that commands share."""

import pathlib
from typing import Annotated

import typer

from assay.errors import UsageError

Seed = Annotated[
    int, typer.Option(min=0, max=2**63 - 1, help="Decides everything that is drawn by chance.")
]
Device = Annotated[str, typer.Option(metavar="auto|cpu|cuda[:N]", help="Where to compute.")]
Alpha = Annotated[
    float,
    typer.Option(help="How often, at most, a data set without poison may be flagged; in (0, 1)."),
]
MaxMinutes = Annotated[
    float | None,
    typer.Option(min=0, help="Stop after this time; the run can be resumed. Exit code 2."),
]
MemoryMb = Annotated[
    int,
    typer.Option(
        min=2,
        help="Memory for inputs, in MB: half for reading, half for training. What does not fit is "
        "read piece by piece.",
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(metavar="M[,M...]", help="Mean of each channel of images in [0, 1]."),
]
Std = Annotated[
    str | None, typer.Option(metavar="S[,S...]", help="Standard deviation of each channel.")
]
Size = Annotated[int | None, typer.Option(min=1, help="Side that images are scaled to, in pixels.")]
Quiet = Annotated[bool, typer.Option("--quiet", help="Show no progress and no log.")]
Json = Annotated[
    bool, typer.Option("--json", help="Write the findings as JSON to stdout; the rest to stderr.")
]
ExitZero = Annotated[
    bool,
    typer.Option("--exit-zero", help="Exit with 0 whatever the verdict; errors keep their codes."),
]
Out = Annotated[
    pathlib.Path | None,
    typer.Option(help="Folder for the run, new or empty.  [default: runs/COMMAND-DATE-TIME-XXXX]"),
]


def numbers(text: str | None, name: str) -> tuple[float, ...] | None:
    """Read numbers that are separated by commas.

    Raises:
        UsageError: they are none.
    """
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"expected numbers like 0.49,0.48,0.45 in {name}, got {text!r}") from error
