"""Any bytes are either a data set or an error of ours."""

import contextlib
import gzip
import io
import json
import pathlib
import struct
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from assay.errors import AssayError
from assay.samples import Samples
from assay.storage import pickles, read_samples, tensors
from assay.storage.rows import OpenFile

fuzz = settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)

small = st.integers(0, 4) | st.integers(0, 2**32 - 1)
patches = st.lists(st.tuples(st.integers(0, 2**16), st.binary(min_size=1, max_size=4)), max_size=6)


def patched(content: bytes, changes: list[tuple[int, bytes]], cut: int) -> bytes:
    """Overwrite a valid file in places, and cut it."""
    result = bytearray(content)
    for place, piece in changes:
        start = place % max(1, len(result))
        result[start : start + len(piece)] = piece
    return bytes(result[: len(result) - cut])


def check(source: pathlib.Path) -> None:
    with contextlib.suppress(AssayError):
        samples = read_samples(str(source), max_mb=64, memory_mb=64)
        assert isinstance(samples, Samples)
        assert len(samples.inputs[:]) == len(samples.labels)


def archive(saver) -> bytes:
    stream = io.BytesIO()
    saver(stream, features=np.eye(4, dtype=np.float32), labels=np.arange(4) % 2)
    return stream.getvalue()


@fuzz
@given(
    counts=st.tuples(small, small, small, small),
    body=st.binary(max_size=40),
    labels=st.binary(max_size=6),
    zipped=st.booleans(),
)
def test_idx(tmp_path, counts, body: bytes, labels: bytes, zipped: bool) -> None:
    pack = gzip.compress if zipped else bytes
    for old in tmp_path.iterdir():
        old.unlink()
    suffix = ".gz" if zipped else ""
    images = struct.pack(">HBB3I", 0, 8, 3, *counts[:3]) + body
    (tmp_path / f"train-images-idx3-ubyte{suffix}").write_bytes(pack(images))
    numbers = struct.pack(">HBBI", 0, 8, 1, counts[3]) + labels
    (tmp_path / f"train-labels-idx1-ubyte{suffix}").write_bytes(pack(numbers))
    check(tmp_path)


@fuzz
@given(st.binary(max_size=64), st.integers(0, 3), st.binary(max_size=40))
def test_cifar(tmp_path, start: bytes, records: int, names: bytes) -> None:
    (tmp_path / "data_batch_1.bin").write_bytes((start + bytes(3073))[:3073] * records + start[:2])
    (tmp_path / "data_batch_2.bin").write_bytes(b"\1" * 3073)
    (tmp_path / "batches.meta.txt").write_bytes(names)
    check(tmp_path)


@fuzz
@given(patches, st.integers(0, 300), st.sampled_from([np.savez, np.savez_compressed]))
def test_npz(tmp_path, changes, cut: int, saver) -> None:
    (tmp_path / "a.npz").write_bytes(patched(archive(saver), changes, cut))
    check(tmp_path / "a.npz")


@fuzz
@given(st.binary(max_size=200))
def test_npy_headers(tmp_path, header: bytes) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as target:
        start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header))
        target.writestr("features.npy", start + header + bytes(64))
        target.writestr("labels.npy", start + header + bytes(64))
    check(tmp_path / "a.npz")


json_values = st.recursive(
    st.none()
    | st.integers(-9, 2**70)
    | st.text(max_size=3)
    | st.sampled_from(["U8", "F32", "I64"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["features", "labels", "dtype", "shape", "data_offsets"]), inner
        )
    ),
    max_leaves=12,
)


@fuzz
@given(json_values, st.binary(max_size=40))
def test_safetensors_headers(tmp_path, header: object, body: bytes) -> None:
    text = json.dumps(header).encode()
    (tmp_path / "a.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + body)
    check(tmp_path / "a.safetensors")
    with contextlib.suppress(AssayError):
        file = OpenFile.at(tmp_path / "a.safetensors")
        for tensor in tensors.declared(file).values():
            assert tensor.read(file).nbytes <= len(body)


@fuzz
@given(st.binary(max_size=64), st.integers(0, 80))
def test_safetensors_bytes(tmp_path, content: bytes, length: int) -> None:
    (tmp_path / "a.safetensors").write_bytes(length.to_bytes(8, "little") + content)
    check(tmp_path / "a.safetensors")


@fuzz
@given(st.binary(max_size=80))
def test_pickles(content: bytes) -> None:
    with contextlib.suppress(AssayError):
        assert all(isinstance(name, str) for name in pickles.foreign_globals(content, "here"))


@settings(fuzz, max_examples=10)
@given(st.data())
@pytest.mark.parametrize("kind", ["png", "jpeg", "gif", "bmp", "webp", "tiff", "ppm"])
def test_images(forms, tmp_path, colour, kind: str, data) -> None:
    stream = io.BytesIO()
    Image.fromarray(colour[0][0]).save(stream, kind)
    content = patched(stream.getvalue(), data.draw(patches), data.draw(st.integers(0, 20)))
    for name in "ab":
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "x.png").write_bytes(content)
    check(tmp_path)


@fuzz
@given(patches, st.integers(0, 50))
def test_parquet(forms, tmp_path, colour, changes, cut: int) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"a": [1.5, 2.5, 3.5], "label": [0, 1, 1]}), path)
    path.write_bytes(patched(path.read_bytes(), changes, cut))
    check(path)


@fuzz
@given(st.text(alphabet='a,label\n\r"01.-e\0é\t', max_size=60))
def test_delimited(tmp_path, text: str) -> None:
    (tmp_path / "a.csv").write_text(f"a,label\n{text}")
    check(tmp_path / "a.csv")
    (tmp_path / "a.csv").write_text(text)
    check(tmp_path / "a.csv")
