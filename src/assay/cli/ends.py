"""How a command ends: its exit code, and what is said of an error."""

from assay.errors import InputError, UsageError
from assay.reports.text import PARAGRAPH, plain
from assay.results import Verdict

from .exits import Exit

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
