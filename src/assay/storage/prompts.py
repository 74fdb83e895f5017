"""Prompts: one a line of text, or a column of a table."""

import csv
import io
import json
import pathlib
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute
import pyarrow.parquet

from assay.errors import InputError, RefusedError

from .files import existing, read_bounded, refusing

COLUMNS = ("prompt", "text", "sentence", "instruction")
"""What the column of prompts may be called; the first that is there counts."""

FORMS = (".txt", ".jsonl", ".json", ".csv", ".tsv", ".parquet")
_MAX_BYTES = 2**28
_MAX_PROMPTS = 1_000_000
_MAX_CHARACTERS = 100_000


def read_prompts(source: str) -> tuple[str, ...]:
    r"""Read prompts, each up to where the response begins.

    Args:
        source: a file; `.txt` with a prompt a line (`\\n` in it stands for a line break), `.jsonl`
            or `.json` with strings, or with objects that have one of `COLUMNS`; or a `.csv`, `.tsv`
            or `.parquet` with such a column.

    Returns:
        The prompts that are not empty, in order.

    Raises:
        UsageError: there is no such file.
        InputError: another form of file, no column of prompts, or no prompts.
        RefusedError: a broken or oversized file.
    """
    path = existing(pathlib.Path(source))
    if not path.is_file() or path.suffix not in FORMS:
        raise InputError(f"expected prompts as a file of {', '.join(FORMS)}, got {source}")
    if path.stat().st_size > _MAX_BYTES:
        raise RefusedError(f"expected at most {_MAX_BYTES} bytes in {path}, got more")
    with refusing(path, pa.ArrowException, csv.Error):
        prompts = tuple(text for text in _READERS[path.suffix](path) if text.strip())
    if not 0 < len(prompts) <= _MAX_PROMPTS:
        raise InputError(f"expected 1 to {_MAX_PROMPTS} prompts in {path}, got {len(prompts)}")
    longest = max(map(len, prompts))
    if longest > _MAX_CHARACTERS:
        raise RefusedError(
            f"expected prompts of at most {_MAX_CHARACTERS} characters in {path}, got {longest}"
        )
    return prompts


def _text(path: pathlib.Path) -> str:
    return read_bounded(path, _MAX_BYTES).decode("utf-8-sig")


def _lines(path: pathlib.Path) -> Iterator[str]:
    for line in _text(path).split("\n"):
        yield line.rstrip("\r").replace("\\n", "\n")


def _json_lines(path: pathlib.Path) -> Iterator[str]:
    for line in _text(path).split("\n"):
        if line.strip():
            yield _prompt_of(json.loads(line), path)


def _json(path: pathlib.Path) -> Iterator[str]:
    entries = json.loads(_text(path))
    if not isinstance(entries, list):
        raise InputError(f"expected a list of prompts in {path}, got {type(entries).__name__}")
    for entry in entries:
        yield _prompt_of(entry, path)


def _prompt_of(entry: Any, path: pathlib.Path) -> str:
    found = entry if isinstance(entry, str) else None
    if isinstance(entry, dict):
        found = next((entry[name] for name in COLUMNS if name in entry), None)
    if not isinstance(found, str):
        raise InputError(
            f"expected strings in {path}, or objects with one of {', '.join(COLUMNS)} as a string"
        )
    return found


def _delimited(path: pathlib.Path) -> Iterator[str]:
    rows = csv.DictReader(
        io.StringIO(_text(path), newline=""), delimiter="\t" if path.suffix == ".tsv" else ","
    )
    column = _column([name.strip() for name in rows.fieldnames or ()], path)
    rows.fieldnames = [name.strip() for name in rows.fieldnames or ()]
    for row in rows:
        yield row[column] or ""


def _parquet(path: pathlib.Path) -> Iterator[str]:
    """Read prompts; one long text that a small file holds for many rows is not unpacked."""
    schema = pa.parquet.read_schema(path)
    column, held = _column(schema.names, path), 0
    kind = schema.field(column).type
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
        raise InputError(f"expected strings in {path}, got {kind} in column {column!r}")
    with pa.parquet.ParquetFile(path, buffer_size=2**20, read_dictionary=[column]) as file:
        if file.metadata.num_rows > _MAX_PROMPTS:
            raise RefusedError(f"expected at most {_MAX_PROMPTS} prompts in {path}, got more")
        for batch in file.iter_batches(batch_size=1024, columns=[column], use_threads=False):
            texts = batch.column(column)
            lengths = pa.compute.binary_length(texts.dictionary).take(texts.indices)
            held += pa.compute.sum(lengths).as_py() or 0
            if held > _MAX_BYTES:
                raise RefusedError(
                    f"expected at most {_MAX_BYTES} bytes of prompts in {path}, got more"
                )
            for value in texts.to_pylist():
                yield _prompt_of("" if value is None else value, path)


def _column(names: list[str], path: pathlib.Path) -> str:
    found = next((name for name in COLUMNS if name in names), None)
    if found is None:
        raise InputError(f"expected a column {' or '.join(COLUMNS)} in {path}, got {names[:12]}")
    return found


_READERS = {
    ".txt": _lines,
    ".jsonl": _json_lines,
    ".json": _json,
    ".csv": _delimited,
    ".tsv": _delimited,
    ".parquet": _parquet,
}
