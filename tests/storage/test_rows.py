"""Rows on disk behave as the tensor that they stand for, in bounded memory."""

import itertools
import pathlib
import subprocess
import sys
import textwrap

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from assay.errors import RefusedError
from assay.samples import Rows
from assay.storage import rows as rows_module
from assay.storage.rows import FileRows, OpenFile, Stretch, settle, spill


def stored(
    path: pathlib.Path, table: np.ndarray, *, gap: int = 0, cuts: tuple[int, ...] = (), last=False
) -> FileRows:
    """Write records with `gap` bytes before each, in several files, each behind a header."""
    stretches = []
    for part, (start, stop) in enumerate(itertools.pairwise([0, *cuts, len(table)])):
        records = [b"#" * gap + row.tobytes() for row in table[start:stop]]
        (path / f"{part}").write_bytes(b"header" + b"".join(records))
        file = OpenFile.at(path / f"{part}")
        stretches.append(Stretch(file=file, offset=6 + gap, count=stop - start))
    return FileRows(
        stretches=tuple(stretches),
        stored=table.dtype,
        row=table.shape[1:],
        stride=gap + table[0].nbytes,
        channels_last=last,
    )


TABLE = np.arange(23 * 2 * 3 * 4, dtype=np.uint8).reshape(23, 2, 3, 4)
TENSOR = torch.from_numpy(TABLE)


@given(rows=st.lists(st.integers(-23, 22), max_size=40))
def test_index_tensors_read_as_from_a_tensor(tmp_path_factory, rows: list[int]) -> None:
    file = stored(tmp_path_factory.mktemp("rows"), TABLE, gap=1, cuts=(5, 5, 19))
    index = torch.tensor(rows, dtype=torch.int64)
    assert torch.equal(file[index], TENSOR[index])


@given(st.slices(23))
def test_slices_read_as_from_a_tensor(tmp_path_factory, rows: slice) -> None:
    file = stored(tmp_path_factory.mktemp("rows"), TABLE, cuts=(7,))
    assert torch.equal(file[rows], torch.from_numpy(TABLE[rows].copy()))


def test_blocks_smaller_than_a_run_change_nothing(tmp_path, monkeypatch) -> None:
    file = stored(tmp_path, TABLE, gap=3, cuts=(10,))
    monkeypatch.setattr(rows_module, "BLOCK", 60)
    index = torch.tensor([4, 3, 3, 3, 5, 6, 7, 22, 0, 3])
    assert torch.equal(file[index], TENSOR[index])
    assert torch.equal(file[:], TENSOR)


def test_masks_shapes_and_the_protocol(tmp_path) -> None:
    file = stored(tmp_path, TABLE, last=True)
    assert isinstance(file, Rows)
    assert file.shape == (23, 4, 2, 3)
    assert file.dtype == torch.uint8
    mask = torch.arange(23) % 3 == 1
    assert torch.equal(file[mask], TENSOR.movedim(-1, 1)[mask])
    with pytest.raises(IndexError, match="23"):
        file[torch.tensor([23])]


@pytest.mark.parametrize("kind", ["<f2", "<f4", ">f4", "<f8", ">f8"])
def test_floats_of_every_size_become_float32(tmp_path, kind: str) -> None:
    table = np.linspace(-3, 9, 40).reshape(8, 5).astype(kind)
    file = stored(tmp_path, table)
    assert file.dtype == torch.float32
    assert torch.equal(file[:], torch.from_numpy(table.astype(np.float32)))


def test_too_large_numbers_become_infinite_without_a_warning(tmp_path) -> None:
    assert stored(tmp_path, np.array([[1e300]]))[:].isinf().all()


def test_a_file_that_shrinks_is_refused(tmp_path) -> None:
    file = stored(tmp_path, TABLE)
    (tmp_path / "0").write_bytes(b"header")
    with pytest.raises(RefusedError, match="shorter"):
        file[:]


def test_settle_reads_what_fits(tmp_path) -> None:
    table = np.zeros((3, 2**19), np.uint8)
    file = stored(tmp_path, table)
    assert isinstance(settle(file, 1), FileRows)
    assert isinstance(settle(file, 2), torch.Tensor)


def test_spill_stops_at_its_bound_and_leaves_no_file(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    written = []

    def chunks():
        for chunk in [b"abc"] * 1000:
            written.append(chunk)
            yield chunk

    with pytest.raises(RefusedError, match="at most 10 bytes"):
        spill(chunks(), stored=np.dtype(np.uint8), row=(3,), most=10)
    assert len(written) == 4
    kept = spill([b"abc", b"def"], stored=np.dtype(np.uint8), row=(3,), most=10)
    assert bytes(kept[:].flatten().tolist()) == b"abcdef"
    assert list(tmp_path.iterdir()) == []


def test_peak_memory_stays_near_the_budget(tmp_path) -> None:
    script = """
    import pathlib, resource, sys, numpy, torch
    from assay.storage import read_samples
    folder = pathlib.Path(sys.argv[1]) / "cifar"
    folder.mkdir()
    with (folder / "data_batch_1.bin").open("wb") as file:
        for row in range(0, 70_000, 1_000):
            file.write((bytes([row // 1_000 % 2]) + b"x" * 3072) * 1_000)
    def peak():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    torch.zeros(10).sum()
    before = peak()
    samples = read_samples(str(folder), memory_mb=40)
    total = 0
    for start in range(0, len(samples), 5_000):
        total += int(samples.inputs[start : start + 5_000][:, 0, 0, 0].sum())
    some = torch.randperm(len(samples), generator=torch.Generator().manual_seed(0))[:2_000]
    total += int(samples.inputs[some][:, 0, 0, 0].sum())
    assert total == 72_000 * ord("x"), total
    print((folder / "data_batch_1.bin").stat().st_size >> 20, peak() - before)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    assert done.returncode == 0, done.stderr
    size, grown = map(int, done.stdout.split())
    assert size > 200
    assert grown < 60, f"{grown} MB more in memory for a budget of 40 MB"
