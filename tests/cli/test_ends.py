"""What is said of an error is one line, does nothing to a terminal, and is never a traceback."""

import importlib

from tokenizers import Tokenizer

from assay.cli.ends import in_one_line
from assay.errors import RefusedError

from .conftest import Run, parsed


def test_errors_are_shown_without_what_moves_a_terminal() -> None:
    assert in_one_line(RefusedError("got\n'\x1b[2J\x07'")) == "got '\\u001b[2J\\u0007'"
    assert in_one_line(ValueError("\x1b]0;x\x07")) == "ValueError: \\u001b]0;x\\u0007"
    assert in_one_line(KeyError()) == "KeyError"
    assert len(in_one_line(RefusedError("x" * 10_000))) == 4_000


def panic(*, json: bool = False) -> None:
    Tokenizer.from_str(
        '{"normalizer": {"type": "Precompiled", "precompiled_charsmap": "/////w=="}, '
        '"model": {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}}'
    )


def test_a_panic_counts_as_an_error_and_not_as_a_flag(run: Run, monkeypatch) -> None:
    monkeypatch.setattr(importlib.import_module("assay.cli.doctor"), "doctor", panic)
    result = run("doctor", "--json")
    assert result.exit_code == 2
    assert "error: RuntimeError: PanicException: " in result.stderr
    found = parsed(result.stdout)
    assert (found["schema"], found["exit_code"]) == ("assay/error/v1", 2)
