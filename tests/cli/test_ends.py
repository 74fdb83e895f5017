"""What is said of an error is one line, and does nothing to a terminal."""

from assay.cli.ends import in_one_line
from assay.errors import RefusedError


def test_errors_are_shown_without_what_moves_a_terminal() -> None:
    assert in_one_line(RefusedError("got\n'\x1b[2J\x07'")) == "got '\\u001b[2J\\u0007'"
    assert in_one_line(ValueError("\x1b]0;x\x07")) == "ValueError: \\u001b]0;x\\u0007"
    assert in_one_line(KeyError()) == "KeyError"
    assert len(in_one_line(RefusedError("x" * 10_000))) == 4_000
