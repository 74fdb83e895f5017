"""Small parquet files that unpack to far more are refused before they do."""

import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from assay.errors import RefusedError
from assay.storage import read_samples, tables, write_samples

LABELS = [0, 1] * 512


def bomb(path: pathlib.Path, column: pa.Array, name: str = "x") -> str:
    columns = {"label": LABELS, "x": np.zeros(len(LABELS)), name: column}
    pq.write_table(pa.table(columns), path / "a.parquet", compression="zstd")
    assert (path / "a.parquet").stat().st_size < 2**17
    return str(path / "a.parquet")


@pytest.fixture
def unpacks_nothing(monkeypatch) -> None:
    """Let no row be read from a parquet file."""

    def read(*_: object, **__: object) -> None:
        raise AssertionError("a row was unpacked")

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", read)


@pytest.mark.parametrize(
    ("kind", "value"), [(pa.string(), "x"), (pa.list_(pa.string()), ["x"]), (pa.binary(), b"x")]
)
@pytest.mark.usefixtures("unpacks_nothing")
def test_columns_are_checked_before_any_is_unpacked(tmp_path, kind, value) -> None:
    source = bomb(tmp_path, pa.array([value * 50_000] * len(LABELS), kind), "y")
    with pytest.raises(RefusedError, match="numbers, or one column of images"):
        read_samples(source)


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        ("label", "labels that are integers or words"),
        ("id", "words as ids"),
        ("__index_level_0__", "words as ids and index"),
    ],
)
@pytest.mark.usefixtures("unpacks_nothing")
def test_labels_and_ids_of_other_types(tmp_path, name: str, pattern: str) -> None:
    source = bomb(tmp_path, pa.array([["x" * 50_000]] * len(LABELS)), name)
    with pytest.raises(RefusedError, match=pattern):
        read_samples(source)


@pytest.mark.parametrize("name", ["label", "id"])
def test_long_words_of_categories(tmp_path, name: str) -> None:
    words = ["x" * 50_000, "y"]
    places = pa.array(LABELS, pa.int32())
    source = bomb(tmp_path, pa.DictionaryArray.from_arrays(places, words), name)
    with pytest.raises(RefusedError, match="words of at most 4096 bytes"):
        read_samples(source)


def test_long_words_of_an_index_are_not_written(tmp_path) -> None:
    source = bomb(tmp_path, pa.array(["x" * 50_000] * len(LABELS)), "__index_level_0__")
    samples = read_samples(source)
    assert samples.columns == ("x",)
    with pytest.raises(RefusedError, match="words of at most 4096 bytes"):
        write_samples(source, samples.labels.nonzero().flatten(), tmp_path / "b.parquet")


@pytest.mark.usefixtures("unpacks_nothing")
def test_row_groups_that_unpack_to_more_than_memory(tmp_path) -> None:
    count = 400_000
    zeros = {f"x{i}": np.zeros(count) for i in range(8)}
    rows = pa.table({"label": np.arange(count) * 2 // count, **zeros})
    file = tmp_path / "a.parquet"
    pq.write_table(
        rows,
        file,
        compression="zstd",
        use_dictionary=False,
        data_page_size=2**30,
        max_rows_per_page=count,
    )
    with pytest.raises(RefusedError, match=r"at most 8 MB .* a row group"):
        read_samples(str(file), memory_mb=8)
    with pytest.raises(RefusedError, match=r"1 MB \(max_mb\)"):
        read_samples(str(file), max_mb=1)


def test_smaller_row_groups_are_read_within_the_same_memory(tmp_path) -> None:
    count = 400_000
    zeros = {f"x{i}": np.zeros(count) for i in range(8)}
    rows = pa.table({"label": np.arange(count) * 2 // count, **zeros})
    file = tmp_path / "a.parquet"
    pq.write_table(rows, file, compression="zstd", use_dictionary=False, row_group_size=100_000)
    assert len(read_samples(str(file), memory_mb=8).inputs) == count


def test_only_the_columns_that_are_asked_for_are_read(tmp_path, monkeypatch) -> None:
    asked = []
    plain = tables._parquet

    def noted(path, schema, images, names):
        asked.append(names)
        return plain(path, schema, images, names)

    monkeypatch.setattr(tables, "_parquet", noted)
    rows = {"a.b": [1.0, 2.0], "__index_level_0__": ["p", "q"], "label": ["n", "y"], "id": [7, 8]}
    pq.write_table(pa.table(rows), tmp_path / "a.parquet")
    samples = read_samples(str(tmp_path / "a.parquet"))
    assert asked == [["label", "id"], ["a.b"]]
    assert samples.ids == ("7", "8")
    assert samples.inputs[:].tolist() == [[1.0], [2.0]]


def test_categories_as_labels_stay_what_they_are(tmp_path) -> None:
    words = pa.DictionaryArray.from_arrays(pa.array([0, 1, 0, 1], pa.int8()), ["no", "yes"])
    rows = pa.table({"label": words, "x": [1.0, 2.0, 3.0, 4.0]})
    pq.write_table(rows, tmp_path / "a.parquet")
    samples = read_samples(str(tmp_path / "a.parquet"))
    assert samples.class_names == ("no", "yes")
    kept = write_samples(str(tmp_path / "a.parquet"), samples.labels[:2], tmp_path / "b.parquet")
    assert pa.types.is_dictionary(pq.read_schema(kept).field("label").type)
    assert read_samples(str(kept)).inputs[:].flatten().tolist() == [1.0, 2.0]
