"""What was sent, received, measured and judged: lines that only grow, each bound to the one before.

Every line is a JSON object `{"index", "time", "kind", "body", "previous", "hash"}`. `hash` is the
SHA-256 of everything else in it, `previous` the `hash` of the line before. So a line that is
changed, taken out, put in or moved breaks the chain; lines that are missing at the end show by the
missing `closed`, which the client signs. Lines of `received` hold what providers signed.
"""

import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from assay.errors import InputError, UsageError
from assay.records import record
from assay.storage import documents
from assay.storage.files import read_bounded
from assay.storage.run_info import now

from .canonical import digest_document

LEDGER = "ledger.jsonl"
_FIELDS = {"index", "time", "kind", "body", "previous", "hash"}
_BEGINNING = "0" * 64
_MAX_LEDGER = 2**30


@record
class Entry:
    """A line."""

    index: int
    time: str
    kind: str
    body: dict[str, Any]
    hash: str


class Ledger:
    """A ledger that is written; opening it cuts off a line that a kill tore."""

    def __init__(self, path: pathlib.Path) -> None:
        """Open or begin a ledger.

        Raises:
            InputError: the chain is broken.
        """
        self._path = path
        _cut_torn_line(path)
        self._entries = list(read_ledger(path)) if path.exists() else []

    @property
    def entries(self) -> Sequence[Entry]:
        """All lines."""
        return self._entries

    def append(self, kind: str, body: dict[str, Any]) -> Entry:
        """Add a line: on disk when this returns.

        Raises:
            InputError: the ledger would be larger than can be read, or the line is none that can.
        """
        previous = self._entries[-1].hash if self._entries else _BEGINNING
        line = {
            "index": len(self._entries),
            "time": now(),
            "kind": kind,
            "body": body,
            "previous": previous,
        }
        text = documents.dump({**line, "hash": digest_document(line)}, indent=None).encode()
        entry = _entry(text, len(self._entries), previous)
        with self._path.open("ab") as file:
            size = file.tell() + len(text) + 1
            if size > _MAX_LEDGER:
                raise InputError(
                    f"expected at most {_MAX_LEDGER} bytes in {self._path}, with what comes next "
                    f"it had {size}: start a training of fewer sub-runs or providers"
                )
            file.write(text + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self._entries.append(entry)
        return entry


def _cut_torn_line(path: pathlib.Path) -> None:
    if not path.exists():
        return
    content = path.read_bytes()
    whole = content.rfind(b"\n") + 1
    if whole < len(content):
        with path.open("r+b") as file:
            file.truncate(whole)
            os.fsync(file.fileno())


def read_ledger(path: pathlib.Path) -> tuple[Entry, ...]:
    """Read a ledger, whoever wrote it, and check its chain; a line that a kill tore is left out.

    Raises:
        UsageError: there is none.
        InputError: a line was changed, taken out, put in or moved.
    """
    if not path.is_file():
        raise UsageError(f"expected a ledger at {path}, there is none")
    content = read_bounded(path, _MAX_LEDGER)
    return check_chain(content.split(b"\n")[:-1])


def check_chain(lines: Iterable[bytes]) -> tuple[Entry, ...]:
    """Check that lines are as they were written, in order, without a gap.

    Raises:
        InputError: they are not; names the first line that does not fit.
    """
    entries: list[Entry] = []
    for index, line in enumerate(lines):
        entries.append(_entry(line, index, entries[-1].hash if entries else _BEGINNING))
    return tuple(entries)


def _entry(line: bytes, index: int, previous: str) -> Entry:
    try:
        document = documents.load(line)
    except InputError as error:
        raise InputError(f"line {index + 1} of the ledger is damaged: {error}") from error
    if not isinstance(document, dict) or document.keys() != _FIELDS:
        raise InputError(f"line {index + 1} of the ledger is damaged: expected {sorted(_FIELDS)}")
    rest = {name: value for name, value in document.items() if name != "hash"}
    if document["index"] != index or document["previous"] != previous:
        raise InputError(f"line {index + 1} of the ledger does not follow the one before it")
    as_written = documents.dump(document, indent=None).encode() == line
    if document["hash"] != digest_document(rest) or not as_written:
        raise InputError(f"line {index + 1} of the ledger was changed")
    return Entry(
        index=index,
        time=document["time"],
        kind=document["kind"],
        body=document["body"],
        hash=document["hash"],
    )
