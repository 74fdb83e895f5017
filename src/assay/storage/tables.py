"""Parquet, CSV and TSV files: numeric columns, or one column of images, and a column `label`."""

import codecs
import csv
import json
import pathlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyarrow.csv
import pyarrow.parquet
import torch
from jaxtyping import Int64
from numpy.typing import NDArray
from torch import Tensor

from assay.errors import InputError, RefusedError

from .files import refusing
from .found import Found, Reading, check_names, chosen
from .images import decode_all
from .rows import FileRows, spill
from .zips import MAX_RATIO

LABEL = "label"
_ID = "id"
_TEXT = frozenset({"text", "sentence"})
_MAX_COLUMNS = 100_000
_MAX_LINE = 8 * 2**20
_BATCH, _FEW = 1024, 16  # rows that are unpacked at once; of images that are written
_MAX_WORD = 4096  # bytes of a label or an id
_INDEX = "__index_level_"
_DELIMITERS = {".csv": ",", ".tsv": "\t"}
_SEPARATORS = (",", ";", "\t", "|")

Batches = Callable[[list[str]], Iterator[pa.RecordBatch]]
"""Starts a pass over some columns of a table."""


def recognises(path: pathlib.Path) -> bool:
    """Tell whether `path` is a `.parquet`, `.csv` or `.tsv` file."""
    return path.is_file() and _kind(path) in {".parquet", *_DELIMITERS}


def read(path: pathlib.Path, how: Reading) -> Found:
    """Read a table: `label` holds classes, `id` names samples, every other column is an input.

    Images are one column of encoded images (bytes, or Hugging Face's struct with `bytes`).

    Raises:
        RefusedError: no `label`, columns of other types, missing values, a broken file.
        InputError: a table of texts.
    """
    if _kind(path) == ".parquet":
        check_parquet(path, how)
    schema = _schema(path)
    return read_batches(schema, _batches(path, schema), _names(path), how, path)


def read_batches(
    schema: pa.Schema, batches: Batches, names: tuple[str, ...] | None, how: Reading, where: object
) -> Found:
    """Read what passes over record batches yield; `names` are the classes' names, if known."""
    columns = _inputs(schema, how.columns, where)
    labels, ids = _labels(batches, schema, how, where)
    if _are_images(columns):
        inputs = decode_all(lambda: _encoded(batches, columns[0].name), how, where)
    else:
        inputs = _numeric(batches, columns, len(labels), how, where)
    numbers, own = _numbers(labels, where)
    return Found(
        inputs=inputs,
        labels=torch.from_numpy(numbers),
        names=own or names,
        numbered=own is None,
        ids=ids,
        columns=tuple(field.name for field in columns),
    )


def check_parquet(path: pathlib.Path, how: Reading, only: list[str] | None = None) -> None:
    """Check what a parquet file declares, before any of it is unpacked; of `only` some columns.

    A page may be as large as its column of a row group, and one of every column is held.

    Raises:
        RefusedError: columns of other types, too many rows, row groups that unpack to too much.
        InputError: a table of texts.
    """
    with refusing(path, pa.ArrowException):
        footer = pa.parquet.read_metadata(path)
        schema = footer.schema.to_arrow_schema()
    if only is not None:
        schema = pa.schema([field for field in schema if field.name in only])
    columns = _inputs(schema, None, path)
    row, itemsize = ((1,), 1) if _are_images(columns) else ((len(columns),), 4)
    how.bound(footer.num_rows, row, itemsize, path)
    groups = [footer.row_group(place).total_byte_size for place in range(footer.num_row_groups)]
    check_unpacked(max(groups, default=0), path.stat().st_size, how, f"a row group of {path}")


def check_rows(path: pathlib.Path, how: Reading, only: list[str] | None = None) -> None:
    """Read a parquet file through, for a reader that does not bound what it unpacks itself.

    Of `only` some columns, if they are given.

    Raises:
        RefusedError: it is broken, holds long words, or unpacks to too much.
    """
    schema, unpacked = _schema(path), 0
    for batch in _batches(path, schema)(only or schema.names):
        unpacked += batch.nbytes
        check_unpacked(unpacked, path.stat().st_size, how, path)


def check_unpacked(unpacked: int, packed: int, how: Reading, where: object) -> None:
    """Check that what is unpacked fits into memory, or is not far larger than what was sent.

    Raises:
        RefusedError: neither.
    """
    if unpacked > max(how.memory_mb * 2**20, MAX_RATIO * packed):
        raise RefusedError(
            f"expected at most {how.memory_mb} MB (memory_mb), or {MAX_RATIO} times the packed "
            f"size, unpacked from {where}, got {unpacked} bytes from {packed}; write it anew, in "
            "smaller parts"
        )


def _inputs(schema: pa.Schema, wanted: tuple[str, ...] | None, where: object) -> list[pa.Field]:
    """Choose the inputs, and check all columns by their types, before any is read."""
    _no_text(schema.names, where)
    if schema.names.count(LABEL) != 1 or len(set(schema.names)) != len(schema.names):
        raise RefusedError(
            f"expected different columns, one of them {LABEL!r} for the classes, in {where}, "
            f"got {schema.names[:10]}; rename the one that holds them"
        )
    label = _plain(schema.field(LABEL).type)
    if not (pa.types.is_integer(label) or pa.types.is_null(label) or _is_word(label)):
        raise RefusedError(f"expected labels that are integers or words in {where}, got {label}")
    columns = _columns(schema, wanted, where)
    beside = [field for field in schema if field not in columns]
    odd = [field for field in beside if not (_is_word(field.type) or _is_short(field.type))]
    if odd:
        raise RefusedError(
            f"expected numbers or words as ids and index in {where}, got {odd[0].type} in column "
            f"{odd[0].name!r}"
        )
    odd = [] if _are_images(columns) else [field for field in columns if not _is_number(field.type)]
    if odd:
        raise RefusedError(
            f"expected numbers, or one column of images, beside {LABEL!r} in {where}, "
            f"got {odd[0].type} in column {odd[0].name!r}"
        )
    return columns


def _columns(schema: pa.Schema, wanted: tuple[str, ...] | None, where: object) -> list[pa.Field]:
    """Choose the inputs, in the order of another table's, without an index that pandas wrote."""
    given = {
        field.name: field
        for field in schema
        if field.name not in {LABEL, _ID} and not field.name.startswith(_INDEX)
    }
    if wanted is None or len(wanted) == len(given) == 1:
        return list(given.values())
    missing, foreign = ([n for n in a if n not in b] for a, b in ((wanted, given), (given, wanted)))
    if missing or foreign:
        raise InputError(
            f"expected the columns of the data in {where}, got {len(missing)} missing and "
            f"{len(foreign)} others: {', '.join([*missing[:3], *foreign[:3]])}"
        )
    return [given[name] for name in wanted]


def write(
    path: pathlib.Path, _split: str | None, keep: Int64[Tensor, " kept"], out: pathlib.Path
) -> None:
    """Write the kept rows with all their columns; numbers in CSV keep the text they had."""
    schema = _schema(path, plain=True)
    if _kind(path) == ".parquet":
        _inputs(schema, None, path)
    batches = _batches(path, schema, _FEW)
    rows = chosen(keep, sum(batch.num_rows for batch in batches([LABEL])))
    with _writer(path, out, schema) as writer:
        start = 0
        for batch in batches(schema.names):
            low, high = np.searchsorted(rows, [start, start + batch.num_rows])
            writer.write_batch(batch.take(pa.array(rows[low:high] - start)))
            start += batch.num_rows


def _kind(path: pathlib.Path) -> str:
    return path.suffix.lower()


def _writer(path: pathlib.Path, out: pathlib.Path, schema: pa.Schema) -> Any:
    if _kind(path) == ".parquet":
        return pa.parquet.ParquetWriter(out, schema)
    options = pa.csv.WriteOptions(delimiter=_DELIMITERS[_kind(path)], quoting_style="needed")
    return pa.csv.CSVWriter(out, schema, write_options=options)


def _schema(path: pathlib.Path, *, plain: bool = False) -> pa.Schema:
    """Columns and their types; `plain` takes every column of a text file as text."""
    if _kind(path) == ".parquet":
        with refusing(path, pa.ArrowException):
            return pa.parquet.read_schema(path)
    texts = {LABEL, _ID}
    return pa.schema(
        [(name, pa.string() if plain or name in texts else pa.float64()) for name in _header(path)]
    )


def _batches(path: pathlib.Path, schema: pa.Schema, images: int = 1) -> Batches:
    """Open a table for repeated passes, of so many `images` at once."""
    if _kind(path) != ".parquet":
        return lambda names: refused(_delimited(path, schema, names), path)
    return lambda names: refused(_parquet(path, schema, images, names), path)


def refused(batches: Iterator[pa.RecordBatch], where: object) -> Iterator[pa.RecordBatch]:
    """Pass batches on, and refuse the table where reading it fails."""
    while True:
        with refusing(where, pa.ArrowException):
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _parquet(
    path: pathlib.Path, schema: pa.Schema, images: int, names: list[str]
) -> Iterator[pa.RecordBatch]:
    """Read rows; one long word that a small file holds for many rows is not unpacked."""
    wanted = pa.schema([schema.field(name) for name in names])
    words = [field.name for field in wanted if _is_word(field.type)]
    size = images if any(_is_image(field.type) for field in wanted) else _BATCH
    with pa.parquet.ParquetFile(path, buffer_size=2**20, read_dictionary=words) as file:
        for batch in file.iter_batches(batch_size=size, columns=names, use_threads=False):
            for name in words:
                _check_longest(batch.column(name), name, path)
            yield batch.select(names).cast(wanted) if words else batch


def _check_longest(column: pa.DictionaryArray, name: str, path: pathlib.Path) -> None:
    longest = pa.compute.max(pa.compute.binary_length(column.dictionary)).as_py() or 0
    if longest > _MAX_WORD:
        raise RefusedError(
            f"expected words of at most {_MAX_WORD} bytes in column {name!r} of {path}, "
            f"got {longest}"
        )


def _plain(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _is_word(kind: pa.DataType) -> bool:
    return pa.types.is_string(_plain(kind)) or pa.types.is_large_string(_plain(kind))


def _is_bytes(kind: pa.DataType) -> bool:
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind)


def _is_short(kind: pa.DataType) -> bool:
    """Whether a type has one short size, whatever its values."""
    if pa.types.is_dictionary(kind) or pa.types.is_nested(kind):
        return False
    try:
        return bool(kind.bit_width <= 8 * _MAX_WORD)
    except ValueError:
        return pa.types.is_null(kind)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)


def _delimited(path: pathlib.Path, schema: pa.Schema, names: list[str]) -> Iterator[pa.RecordBatch]:
    types = dict(zip(schema.names, schema.types, strict=True))
    try:
        with pa.csv.open_csv(
            path,
            read_options=pa.csv.ReadOptions(
                use_threads=False, block_size=_MAX_LINE, column_names=list(types), skip_rows=1
            ),
            parse_options=pa.csv.ParseOptions(delimiter=_DELIMITERS[_kind(path)]),
            convert_options=pa.csv.ConvertOptions(
                column_types=types, strings_can_be_null=False, include_columns=names
            ),
        ) as reader:
            yield from reader
    except pa.ArrowInvalid as error:
        raise _named(error, list(types), path) from error


def _named(error: pa.ArrowInvalid, names: list[str], path: pathlib.Path) -> Exception:
    """Say which column it is that cannot be read, and which row, counted from 1."""
    place = re.search(r"In CSV column #(\d+): Row #(\d+): (.*)", str(error), re.DOTALL)
    if place is None or int(place[1]) >= len(names):
        return error
    return RefusedError(
        f"expected numbers in column {names[int(place[1])]!r} of {path}, line {place[2]}: "
        f"{place[3]:.200}"
    )


def _header(path: pathlib.Path) -> list[str]:
    """Column names of a CSV or TSV file, from its first line."""
    with path.open("rb") as file:
        line = file.readline(_MAX_LINE)
    with refusing(path, csv.Error):
        text = line.removeprefix(codecs.BOM_UTF8).decode().strip("\r\n")
        fields = next(csv.reader([text], delimiter=_DELIMITERS[_kind(path)], strict=True), [])
    names = [field.strip() for field in fields]
    if len(names) > _MAX_COLUMNS or len(set(names)) != len(names):
        raise RefusedError(f"expected different column names in the first line of {path}")
    unnamed = [name for name in names if not name or name.startswith("Unnamed:")]
    if unnamed:
        raise RefusedError(
            f"expected a name for every column in the first line of {path}, got {unnamed[0]!r}: if "
            "that is an index of rows, write the table without it"
        )
    _no_text(names, path)
    others = set(_SEPARATORS) - {_DELIMITERS[_kind(path)]}
    found = [mark for mark in others if LABEL in text.split(mark)]
    if LABEL not in names and found:
        raise RefusedError(
            f"expected columns separated by {_DELIMITERS[_kind(path)]!r} in {path}, got "
            f"{found[0]!r}: save the table anew"
        )
    return names


def _no_text(names: list[str], where: object) -> None:
    texts = _TEXT & set(names)
    if texts:
        raise InputError(
            f"expected numbers or images in {where}, got texts in column {min(texts)!r}; compute "
            "their features with a frozen encoder and save them as an .npz with `features` "
            "(samples, dims) and `labels`"
        )


def _labels(
    batches: Batches, schema: pa.Schema, how: Reading, where: object
) -> tuple[pa.ChunkedArray, tuple[str, ...] | None]:
    """Read `label`, and `id` if there is one, in one pass."""
    named, taken = _ID in schema.names, 0
    labels: list[pa.Array] = []
    ids: list[str] = []
    for batch in batches([LABEL, _ID] if named else [LABEL]):
        label = batch.column(LABEL)
        labels.append(label.cast(_plain(label.type)))
        taken += labels[-1].nbytes
        if named:
            with refusing(where, pa.ArrowException):
                ids.extend(str(name) for name in batch.column(_ID).to_pylist())
            taken += batch.column(_ID).nbytes
        if taken > how.memory_mb * 2**20:
            raise RefusedError(f"expected at most {how.memory_mb} MB of labels in {where}")
    if not labels:
        raise RefusedError(f"expected rows in {where}, got none")
    return pa.chunked_array(labels), tuple(ids) if named else None


def _numbers(
    labels: pa.ChunkedArray, where: object
) -> tuple[NDArray[np.int64], tuple[str, ...] | None]:
    """Turn labels into numbers; labels that are words are numbered in alphabetical order."""
    if labels.null_count:
        raise RefusedError(
            f"expected a label in every row of {where}, got {labels.null_count} none"
        )
    if pa.types.is_integer(labels.type):
        with refusing(where, pa.ArrowException):
            return labels.cast(pa.int64()).to_numpy().copy(), None
    with refusing(where, pa.ArrowException):
        words = pa.compute.utf8_trim_whitespace(labels)
        names = sorted(words.unique().to_pylist())
        if all(_is_integer(name) for name in names):
            return words.cast(pa.int64()).to_numpy().copy(), None
        fractions = [name for name in names if _is_fraction(name)]
        if fractions:
            raise RefusedError(
                f"expected labels that are all integers or all words in column {LABEL!r} of "
                f"{where}, got {fractions[0]!r}"
            )
        check_names(names, where)
        found = pa.compute.index_in(words, value_set=pa.array(names))
        return found.cast(pa.int64()).to_numpy().copy(), tuple(names)


def _is_integer(text: str) -> bool:
    return text.removeprefix("-").isdecimal() and text.isascii() and len(text) < 19


def _is_fraction(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _are_images(columns: list[pa.Field]) -> bool:
    return len(columns) == 1 and _is_image(columns[0].type)


def _is_image(kind: pa.DataType) -> bool:
    if not pa.types.is_struct(kind):
        return _is_bytes(kind)
    inner = {field.name: field.type for field in kind}
    known = all(_is_word(t) or _is_bytes(t) or _is_short(t) for t in inner.values())
    return known and "bytes" in inner and pa.types.is_binary(inner["bytes"])


def _encoded(batches: Batches, column: str) -> Iterator[tuple[str, bytes]]:
    row = 0
    for batch in batches([column]):
        images = batch.column(column)
        if pa.types.is_struct(images.type):
            images = pa.compute.struct_field(images, "bytes")
        for image in images:
            content = image.as_py()
            if content is None:
                raise RefusedError(
                    f"expected every image inside the table, got none in row {row}; "
                    "paths to files are not followed"
                )
            yield f"in row {row}", content
            row += 1


def _numeric(
    batches: Batches, columns: list[pa.Field], count: int, how: Reading, where: object
) -> FileRows:
    how.bound(count, (len(columns),), 4, where)

    def chunks() -> Iterator[bytes]:
        for batch in batches([column.name for column in columns]):
            table = np.empty((batch.num_rows, len(columns)), np.float32)
            for place, column in enumerate(columns):
                values = batch.column(column.name).cast(pa.float64(), safe=False)
                wide = torch.from_numpy(values.to_numpy(zero_copy_only=False).copy())
                table[:, place] = wide.float().numpy()
            yield table.tobytes()

    return spill(
        chunks(), stored=np.dtype(np.float32), row=(len(columns),), most=how.max_mb * 2**20
    )


def _names(path: pathlib.Path) -> tuple[str, ...] | None:
    """Class names that Hugging Face's `datasets` keeps in the metadata of a parquet file."""
    if _kind(path) != ".parquet":
        return None
    with refusing(path, pa.ArrowException):
        metadata = pa.parquet.read_schema(path).metadata or {}
        features = json.loads(metadata.get(b"huggingface", b"{}")).get("info", {}).get("features")
        names = (features or {}).get(LABEL, {}).get("names")
        return None if names is None else tuple(str(name) for name in names)
