"""How a command ends: its exit code, and what is said of an error."""

import enum

from assay.errors import InputError, UsageError
from assay.reports.text import PARAGRAPH, plain
from assay.results import Verdict


class Exit(enum.IntEnum):
    """What a command's end means to the shell; a contract with scripts."""

    NOTHING_FLAGGED = 0
    FLAGGED = 1
    ERROR = 2
    """Or inconclusive: no answer, whatever the reason."""
    UNSUPPORTED = 3
    USAGE = 4
    INTERRUPTED = 130


EXIT_CODES = (
    "Exit codes: 0 completed and nothing flagged; 1 flagged; 2 error or inconclusive; "
    "3 unsupported input; 4 wrong usage; 130 interrupted and resumable."
)

_OF_VERDICT = {
    Verdict.NO_INDICATOR: Exit.NOTHING_FLAGGED,
    Verdict.FLAGGED: Exit.FLAGGED,
    Verdict.INCONCLUSIVE: Exit.ERROR,
}


def of_verdict(verdict: Verdict) -> Exit:
    """Turn a verdict into an exit code; what is not known never counts as nothing flagged."""
    return _OF_VERDICT[verdict]


def of_error(error: Exception) -> Exit:
    """Turn an error into an exit code."""
    if isinstance(error, UsageError):
        return Exit.USAGE
    return Exit.UNSUPPORTED if isinstance(error, InputError) else Exit.ERROR


def in_one_line(error: Exception) -> str:
    """Say what went wrong, for a person; what a file made it say does nothing to a terminal."""
    said = " ".join(str(error).split())
    known = type(error).__module__.startswith("assay.")
    whole = said if known and said else f"{type(error).__name__}: {said}".removesuffix(": ")
    return plain(whole, PARAGRAPH)
