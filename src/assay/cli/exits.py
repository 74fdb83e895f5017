"""What the end of a command means to the shell."""

import enum


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
