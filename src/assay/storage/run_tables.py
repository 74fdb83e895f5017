"""Tables as parquet."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from torch import Tensor

from assay.errors import InputError

from . import documents

TABLES: Mapping[str, Mapping[str, pa.DataType]] = {
    "samples": {
        "index": pa.int64(),
        "id": pa.string(),
        "label": pa.int64(),
        "poison_score": pa.float64(),
        "p_value": pa.float64(),
        "is_poison_issue": pa.bool_(),
    },
    "classes": {
        "class": pa.int64(),
        "name": pa.string(),
        "samples": pa.int64(),
        "calibration": pa.int64(),
        "flagged": pa.int64(),
        "statistic": pa.float64(),
        "p_value": pa.float64(),
        "adjusted_p_value": pa.float64(),
        "verdict": pa.string(),
        "reason": pa.string(),
    },
    "models": {
        "name": pa.string(),
        "accuracy": pa.float64(),
        "verdict": pa.string(),
        "p_value": pa.float64(),
        "alone_p_value": pa.float64(),
        "reason": pa.string(),
        "family": pa.string(),
        "source": pa.int64(),
        "target": pa.int64(),
        "asr_tuned": pa.float64(),
    },
    "pairs": {
        "model": pa.string(),
        "family": pa.string(),
        "pool": pa.string(),
        "source": pa.int64(),
        "target": pa.int64(),
        "margin": pa.float64(),
        "asr": pa.float64(),
        "reference_margin": pa.float64(),
        "excess": pa.float64(),
        "p_value": pa.float64(),
        "alone": pa.float64(),
        "alone_p_value": pa.float64(),
    },
    "subruns": {
        "sub_run": pa.int64(),
        "provider": pa.string(),
        "replicated": pa.bool_(),
        "environment": pa.string(),
        "digest": pa.string(),
        "fault": pa.string(),
        "detail": pa.string(),
        "state": pa.string(),
        "distance": pa.string(),
        "measured": pa.float64(),
        "expected": pa.float64(),
        "p_value": pa.float64(),
    },
    "providers": {
        "name": pa.string(),
        "verdict": pa.string(),
        "p_value": pa.float64(),
        "tier": pa.string(),
        "convicted": pa.string(),
        "faults": pa.int64(),
        "trusted": pa.bool_(),
        "reason": pa.string(),
    },
    "calibration": {"label": pa.int64(), "poison_score": pa.float64()},
}
"""The columns of the tables that have a fixed form; other tables may have any."""


def write_table(
    path: pathlib.Path, name: str, columns: Mapping[str, Sequence[Any] | Tensor]
) -> None:
    """Write a table, whole or not at all; see `RunFolder.write_table`."""
    types = TABLES.get(name)
    if types is not None and set(types) != set(columns):
        raise InputError(
            f"expected the columns {sorted(types)} in table {name!r}, got {sorted(columns)}"
        )
    kinds = types or dict.fromkeys(columns)
    try:
        table = pa.table({column: _array(columns[column], kind) for column, kind in kinds.items()})
    except (pa.ArrowException, TypeError, ValueError) as error:
        raise InputError(f"cannot store table {name!r}: {error}") from error
    documents.write_whole(path, lambda temporary: pq.write_table(table, temporary))


def read_table(path: pathlib.Path, columns: Sequence[str] | None) -> dict[str, list[Any]] | None:
    """Read a table, or return None where there is none; see `RunFolder.read_table`."""
    if not path.is_file():
        return None
    try:
        table = pq.ParquetFile(path).read(columns=None if columns is None else list(columns))
    except (pa.ArrowException, OSError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    missing = set(columns or ()) - set(table.column_names)
    if missing:
        raise InputError(f"expected columns {sorted(missing)} in {path}, there are none")
    return table.to_pydict()


def _array(values: Sequence[Any] | Tensor, kind: pa.DataType | None) -> pa.Array:
    """Store a column; what is no valid Unicode in a string is written as an escape."""
    if isinstance(values, Tensor):
        array = pa.array(values.detach().cpu().numpy())
        return array if kind is None else array.cast(kind)
    return pa.array([_valid(v) if isinstance(v, str) else v for v in values], type=kind)


def _valid(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()
