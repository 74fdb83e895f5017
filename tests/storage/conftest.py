"""Data sets of every form, written by independent means, and pickles that betray themselves."""

import dataclasses
import gzip
import io
import os
import pathlib
import pickle  # noqa: TID251
import struct
import sys
import types
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

NAMES = ("ant", "bee", "cat")

Write = Callable[[pathlib.Path, np.ndarray, np.ndarray], str]
"""Writes images (NHWC) and labels below a folder, and returns the source to read."""


def class_folders(path: pathlib.Path, images: np.ndarray, labels: np.ndarray) -> str:
    for row, (image, label) in enumerate(zip(images, labels, strict=True)):
        file = path / "folders" / NAMES[label] / f"{row:05d}.png"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image.squeeze()).save(file)
    return str(path / "folders")


def split_folders(path: pathlib.Path, images: np.ndarray, labels: np.ndarray) -> str:
    for split in ("train", "test"):
        source = pathlib.Path(class_folders(path / "tmp", images, labels))
        (path / "split").mkdir(exist_ok=True)
        source.rename(path / "split" / split)
    return f"{path / 'split'}#test"


def packed(path: pathlib.Path, images: np.ndarray, labels: np.ndarray) -> str:
    np.savez_compressed(path / "a.npz", images=images, labels=labels, names=np.array(NAMES))
    return str(path / "a.npz")


def unpacked(path: pathlib.Path, images: np.ndarray, labels: np.ndarray) -> str:
    weight = np.arange(len(labels), dtype=">f8")
    np.savez(path / "b.npz", labels=labels.astype(np.int16), images=images, weight=weight)
    return str(path / "b.npz")


def folder_of_npz(path: pathlib.Path, images: np.ndarray, labels: np.ndarray) -> str:
    (path / "npz").mkdir()
    for split in ("train", "test"):
        np.savez_compressed(path / "npz" / f"{split}.npz", images=images, labels=labels)
    return f"{path / 'npz'}#test"


def safetensors(path: pathlib.Path, images: np.ndarray, labels: np.ndarray) -> str:
    tensors = {"images": torch.from_numpy(images), "labels": torch.from_numpy(labels)}
    save_file(tensors, path / "c.safetensors")
    return str(path / "c.safetensors")


def cifar(path: pathlib.Path, images: np.ndarray, labels: np.ndarray) -> str:
    folder = path / "cifar"
    folder.mkdir()
    (folder / "batches.meta.txt").write_text("\n".join(NAMES) + "\n\n")
    pixels = images.transpose(0, 3, 1, 2).reshape(len(images), -1)
    records = np.concatenate([labels[:, None].astype(np.uint8), pixels], axis=1)
    half = len(records) // 3
    (folder / "data_batch_1.bin").write_bytes(records[:half].tobytes())
    (folder / "data_batch_2.bin").write_bytes(records[half:].tobytes())
    (folder / "test_batch.bin").write_bytes(records[:half].tobytes())
    return str(folder)


def _idx(path: pathlib.Path, images: np.ndarray, labels: np.ndarray, *, zipped: bool) -> str:
    path.mkdir()
    for name, array in (("images-idx3", images.squeeze(-1)), ("labels-idx1", labels)):
        content = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
        content += array.astype(np.uint8).tobytes()
        for split in ("train", "t10k"):
            file = path / f"{split}-{name}-ubyte{'.gz' if zipped else ''}"
            file.write_bytes(gzip.compress(content) if zipped else content)
    return str(path)


def idx(path: pathlib.Path, images: np.ndarray, labels: np.ndarray) -> str:
    return _idx(path / "idx", images, labels, zipped=False)


def idx_packed(path: pathlib.Path, images: np.ndarray, labels: np.ndarray) -> str:
    return _idx(path / "gz", images, labels, zipped=True) + "#test"


def png(image: np.ndarray) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(image.squeeze()).save(stream, "png")
    return stream.getvalue()


def parquet(path: pathlib.Path, images: np.ndarray, labels: np.ndarray) -> str:
    encoded = [{"bytes": png(image), "path": None} for image in images]
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.table({"image": pa.array(encoded, kind), "label": labels})
    pq.write_table(table, path / "d.parquet")
    return str(path / "d.parquet")


COLOURED: tuple[Write, ...] = (
    *(class_folders, split_folders, packed, unpacked, folder_of_npz, safetensors, cifar, parquet),
)
GREY: tuple[Write, ...] = (idx, idx_packed, class_folders, packed)


@dataclasses.dataclass
class Case:
    """A data set in a file or folder, and what it holds."""

    source: str
    images: torch.Tensor
    labels: torch.Tensor

    @property
    def path(self) -> pathlib.Path:
        return pathlib.Path(self.source.partition("#")[0])


@pytest.fixture(
    params=[*((w, 3) for w in COLOURED), *((w, 1) for w in GREY)],
    ids=lambda p: p[0].__name__ + str(p[1]),
)
def case(request: pytest.FixtureRequest, tmp_path: pathlib.Path) -> Case:
    """A data set of every form in turn."""
    form, channels = request.param
    images, labels = _data(channels)
    return Case(form(tmp_path, images, labels), channels_first(images), torch.from_numpy(labels))


@pytest.fixture
def forms() -> types.ModuleType:
    """The functions of this file, by name."""
    return sys.modules[__name__]


@pytest.fixture
def colour() -> tuple[np.ndarray, np.ndarray]:
    """Random images (NHWC) and labels, sorted so that class folders keep the order."""
    return _data(3)


@pytest.fixture
def grey() -> tuple[np.ndarray, np.ndarray]:
    return _data(1)


def _data(channels: int) -> tuple[np.ndarray, np.ndarray]:
    generator = torch.Generator().manual_seed(channels)
    images = torch.randint(256, (30, 32, 32, channels), generator=generator, dtype=torch.uint8)
    return images.numpy(), np.arange(30) * 3 // 30


def channels_first(images: np.ndarray) -> Tensor:
    return torch.from_numpy(images).permute(0, 3, 1, 2)


class Betraying:
    """Creates a file when it is unpickled."""

    def __init__(self, marker: pathlib.Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, ...]:
        return pathlib.Path.touch, (self.marker,)


@pytest.fixture
def marker(tmp_path: pathlib.Path) -> pathlib.Path:
    """A file that exists as soon as a pickle of `betraying` has run."""
    return tmp_path / "code-was-run"


@pytest.fixture(params=[0, 2, 4])
def betraying(request: pytest.FixtureRequest, marker: pathlib.Path) -> bytes:
    """A pickle that creates `marker` when it is loaded; the fixture proves that it does."""
    content = pickle.dumps(Betraying(marker), protocol=request.param)
    pickle.loads(content)  # noqa: S301
    assert marker.exists()
    marker.unlink()
    return content


@pytest.fixture
def assay_data() -> pathlib.Path:
    """Real data sets, where they are at hand."""
    beside = pathlib.Path(__file__).parents[2].parent / "shared" / "data"
    path = pathlib.Path(os.environ.get("ASSAY_DATA", beside))
    if not (path / "cifar-10-batches-bin").is_dir():
        pytest.skip(f"no real data at {path}; set ASSAY_DATA")
    return path
