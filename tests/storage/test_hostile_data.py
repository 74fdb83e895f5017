"""Data sets made to mislead, exhaust or take over the reader are refused, and run nothing."""

import gzip
import io
import json
import os
import pathlib
import re
import struct
import zipfile
import zlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from assay.errors import InputError, RefusedError, UsageError
from assay.storage import digest, files, images, read_images, read_samples, write_samples, zips

LABELS = np.arange(6) % 2


def refused(source: object, pattern: str, **settings: object) -> None:
    with pytest.raises(RefusedError, match=pattern):
        read_samples(str(source), **settings)


def npz(path: pathlib.Path, **arrays: object) -> pathlib.Path:
    inputs = {} if "images" in arrays else {"features": np.eye(6)}
    np.savez(path / "a.npz", **{"labels": LABELS, **inputs, **arrays})
    return path / "a.npz"


# broken and truncated


def test_truncated_files_of_every_form(case) -> None:
    everything = [p for p in [case.path, *case.path.rglob("*")] if p.is_file()]
    tests = [p for p in everything if re.search("test|t10k", str(p.relative_to(case.path)))]
    read = tests if "#" in case.source else set(everything) - set(tests)
    target = max(read, key=lambda p: p.stat().st_size)
    content = target.read_bytes()
    for end in (len(content) * 2 // 3 - 1, 7, 3):
        target.write_bytes(content[:end])
        with pytest.raises(RefusedError):
            read_samples(case.source)


@pytest.mark.parametrize("source", ["no/such", "no.npz", "x\0y"])
def test_paths_that_do_not_exist(tmp_path, source: str) -> None:
    with pytest.raises(UsageError, match="expected a file or a folder"):
        read_samples(f"{tmp_path}/{source}")


def test_files_of_unknown_forms(tmp_path) -> None:
    (tmp_path / "a.pkl").write_bytes(b"x")
    with pytest.raises(InputError, match=r"class folders.*\.npz"):
        read_samples(f"{tmp_path}/a.pkl")


def test_broken_images(forms, tmp_path, colour) -> None:
    source = forms.class_folders(tmp_path, *colour)
    (tmp_path / "folders" / "bee" / "00010.png").write_bytes(b"\x89PNG\r\n\x1a\n but no more")
    refused(source, "00010.png is broken")


def test_files_that_are_not_images(forms, tmp_path, colour) -> None:
    source = forms.class_folders(tmp_path, *colour)
    (tmp_path / "folders" / ".hidden").write_text("of no interest")
    read_samples(source)
    (tmp_path / "folders" / "bee" / "run.sh").write_text("rm")
    refused(source, r"only images.*run\.sh")
    (tmp_path / "folders" / "bee" / "run.sh").rename(tmp_path / "folders" / "a.png")
    refused(source, "only inside the class folders")


def test_postscript_is_no_image(forms, tmp_path, colour) -> None:
    source = forms.class_folders(tmp_path, *colour)
    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\nshowpage\n"
    (tmp_path / "folders" / "bee" / "00010.png").write_bytes(script)
    refused(source, "00010.png is broken")


def test_empty_folders(forms, tmp_path, colour) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="nothing"):
        read_samples(f"{tmp_path}/empty")
    refused_images = pytest.raises(RefusedError, match="empty folder")
    with refused_images:
        read_images(f"{tmp_path}/empty")
    source = forms.class_folders(tmp_path, *colour)
    (tmp_path / "folders" / "dog").mkdir()
    refused(source, "dog")


def test_images_of_mixed_sizes(forms, tmp_path, colour) -> None:
    source = forms.class_folders(tmp_path, *colour)
    Image.new("RGB", (31, 32)).save(tmp_path / "folders" / "cat" / "new.png")
    with pytest.raises(InputError, match=r"one size.*32x32.*31x32.*new.png"):
        read_samples(source)
    assert read_samples(source, size=32).inputs.shape[0] == 31


# labels


@pytest.mark.parametrize(
    ("labels", "pattern"),
    [
        (LABELS[:5], "one label a sample"),
        (LABELS.astype(float), "labels"),
        (LABELS[:, None], "one axis"),
        (np.eye(2)[LABELS % 2], "one axis, of an integer type.*float64"),
        (np.where(LABELS == 0, -1, 1), r"labels in \[0.*got -1"),
        (LABELS * 2, "none of 1"),
        (LABELS * 2**40, "labels in"),
        (LABELS.astype(np.uint64) * np.uint64(2**63), "labels in"),
        (np.array(list("aabbab"), dtype=object), "never unpickled"),
    ],
)
def test_labels_of_archives(tmp_path, labels: np.ndarray, pattern: str) -> None:
    refused(npz(tmp_path, labels=labels), pattern)


def test_one_class_only(tmp_path) -> None:
    with pytest.raises(InputError, match="at least two classes"):
        read_samples(str(npz(tmp_path, labels=np.zeros(6, int))))


def test_classes_without_samples_need_names(forms, tmp_path) -> None:
    path = npz(tmp_path, labels=LABELS * 2)
    refused(path, "none of 1; name the classes")
    assert read_samples(str(path), class_names=forms.NAMES).classes == 3
    npz(tmp_path, labels=LABELS * 2, names=forms.NAMES)
    assert read_samples(str(path)).class_names == forms.NAMES
    npz(tmp_path, labels=LABELS * 3, names=forms.NAMES)
    refused(path, r"\[0, 3\).*got 0 to 3")


def test_classes_that_are_counted_from_one(forms, tmp_path) -> None:
    path = npz(tmp_path, labels=LABELS + 1)
    refused(path, "none of 0; labels count from 0: subtract 1")
    refused(path, "subtract 1", class_names=("a", "b"))
    npz(tmp_path, labels=np.array([1, 2, 2, 3, 3, 1]), names=forms.NAMES)
    refused(path, r"\[0, 3\).*subtract 1")


@pytest.mark.parametrize(
    "names", [["a", "a"], ["a", "b\n"], ["a", ""], ["a", "\u202e"], ["a", "x" * 300]]
)
def test_class_names_that_mislead(tmp_path, names: list[str]) -> None:
    refused(npz(tmp_path, names=names), "class names")


def test_labels_outside_the_names_of_a_cifar_folder(forms, tmp_path, colour) -> None:
    source = forms.cifar(tmp_path, colour[0], colour[1] * 3)
    refused(source, r"\[0, 3\)")


@pytest.mark.parametrize(
    ("text", "pattern"),
    [
        ("a,b\n1,2\n", "label"),
        ("a,label,label\n1,2,3\n", "different column names"),
        ("a,label\n1,0.5\n2,1\n", "0.5"),
        ("a,label\n1,-1\n2,1\n", "labels in"),
        ("a,label\n1,0\nnan,1\n", "sample 1"),
        ("a,label\n1,0\n,1\n", "sample 1"),
        ("a,label\n1e999,0\n1,1\n", "sample 0"),
        ("a,label\n1,0\nx,1\n", "column 'a' of .*, line 3"),
        ("a,label\n1,0\n1,2,3\n", "broken"),
        ("a,label\n", "rows"),
        ("label\n0\n1\n", "samples of"),
        ("", "label"),
        ('a,"label\n1,0\n', "broken"),
        ("label,a,b\n0,1,2\n1,3,none?\n", "column 'b' of .*, line 3: .*none"),
        ("label,a,b\n0,1,2\n1,3,\n", "sample 1, column 'b'"),
        ("label,a,b\n0,1,2\n1,1e300,4\n", "float32 .* sample 1, column 'a'"),
        ("label;a\n0;1\n1;2\n", "separated by ',' .* got ';'"),
        ("label,a\n0,1\ncat,2\n", "all integers or all words in column 'label'.*'0'"),
        ("a,label\n" + "1" * 9_000_000 + ",0\n1,1\n", "broken|sample 0"),
    ],
)
def test_delimited_text(tmp_path, text: str, pattern: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    refused(tmp_path / "t.csv", pattern)


@pytest.mark.parametrize(
    ("columns", "pattern"),
    [
        ({"a": [1, 2]}, "label"),
        ({"a": [1, 2], "label": [0.0, 1.0]}, "integers or words"),
        ({"a": [1, 2], "label": [0, None]}, "every row"),
        ({"a": [1.0, None], "label": [0, 1]}, "sample 1"),
        ({"a": [1.0, float("inf")], "label": [0, 1]}, "sample 1"),
        ({"a": ["x", "y"], "label": [0, 1]}, "string in column 'a'"),
        ({"a": [[1], [2]], "label": [0, 1]}, "list"),
        ({"image": [b"x", b"y"], "label": [0, 1]}, "in row 0 is broken"),
        ({"image": [b"", None], "label": [0, 1]}, "row"),
    ],
)
def test_parquet(tmp_path, columns: dict[str, list], pattern: str) -> None:
    pq.write_table(pa.table(columns), tmp_path / "t.parquet")
    refused(tmp_path / "t.parquet", pattern)


def test_paths_in_a_table_are_not_followed(tmp_path) -> None:
    (tmp_path / "secret.png").write_bytes(b"")
    image = {"bytes": None, "path": str(tmp_path / "secret.png")}
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.table({"image": pa.array([image, image], kind), "label": [0, 1]})
    pq.write_table(table, tmp_path / "t.parquet")
    refused(tmp_path / "t.parquet", "not followed")


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_numbers_that_are_not_finite(tmp_path, value: float) -> None:
    features = np.eye(6)
    features[4, 2] = value
    refused(npz(tmp_path, features=features), "sample 4")


# archives


def test_object_arrays_run_nothing(tmp_path, betraying: bytes, marker) -> None:
    path = tmp_path / "a.npz"
    for name in ("images", "labels", "extra"):
        npz(tmp_path)
        with zipfile.ZipFile(path, "a") as archive:
            header = b"{'descr': '|O', 'fortran_order': False, 'shape': (6,), }\n"
            start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header))
            archive.writestr(f"{name}2.npy", start + header + betraying)
        refused(path, "never unpickled")
        with pytest.raises(RefusedError, match="never unpickled"):
            write_samples(str(path), torch.tensor([0]), tmp_path / "out.npz")
    path.write_bytes(betraying)
    refused(path, "broken")
    assert not marker.exists()


@pytest.mark.parametrize("suffix", [".npz", ".parquet", ".csv", ".safetensors", "/a/x.png"])
def test_pickles_under_other_names_run_nothing(tmp_path, suffix, betraying: bytes, marker) -> None:
    path = tmp_path / f"data{suffix}"
    path.parent.mkdir(exist_ok=True, parents=True)
    path.write_bytes(betraying)
    with pytest.raises(InputError):
        read_samples(str(path.parent.parent if "/" in suffix else path))
    assert not marker.exists()


@pytest.mark.parametrize(
    "header",
    [
        "{'descr': '|u1', 'fortran_order': False, 'shape': (6, 99999999999, 99999999999), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (999999999999999999999, 2), }",
        "{'descr': '|u1', 'fortran_order': False, 'shape': (-6, 2), }",
        "{'descr': '<U999999999', 'fortran_order': False, 'shape': (6,), }",
        "{'descr': [('a', '|u1')], 'fortran_order': False, 'shape': (6, 2), }",
        "{'descr': '<f8', 'fortran_order': True, 'shape': (6, 6), }",
        "__import__('os').system('true')",
        "(" * 5000,
        "{'descr': '<f8', 'fortran_order': False, 'shape': (" + "1" * 60 + "x), }",
        "{'descr': '<f8', 'fortran_order': False, 'shape': (6 6), }",
    ],
)
def test_headers_of_arrays(tmp_path, header: str) -> None:
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        text = header.encode() + b"\n"
        start = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text))
        archive.writestr("features.npy", start + text + bytes(6 * 6 * 8))
        archive.writestr("labels.npy", npy(LABELS))
    refused(tmp_path / "a.npz", "features.npy")


def npy(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()


def test_zip_bombs(tmp_path, monkeypatch) -> None:
    zeros = np.zeros((6, 2**16), np.float64)
    np.savez_compressed(tmp_path / "a.npz", features=zeros, labels=LABELS)
    assert read_samples(str(tmp_path / "a.npz")).inputs.shape == (6, 2**16)
    refused(tmp_path / "a.npz", "at most 2 MB", max_mb=2)
    monkeypatch.setattr(zips, "_LARGE", 2**20)
    refused(tmp_path / "a.npz", "times their packed size")


def test_archives_that_lie_about_sizes(tmp_path) -> None:
    np.savez_compressed(tmp_path / "a.npz", features=np.eye(6), labels=LABELS)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    place = content.index(b"PK\1\2") + 24
    for declared in (128, 2**31, 417):
        content[place : place + 4] = struct.pack("<I", declared)
        (tmp_path / "a.npz").write_bytes(content)
        refused(tmp_path / "a.npz", "features.npy")


@pytest.mark.parametrize("name", ["../a.npy", "/etc/a.npy", "x/../../a.npy"])
def test_members_that_lead_out_of_the_archive(tmp_path, name: str) -> None:
    path = npz(tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, npy(LABELS))
    refused(path, "plain member names")


def test_members_called_the_same(tmp_path) -> None:
    path = npz(tmp_path)
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("labels.npy", npy(LABELS))
    refused(path, "different members")


def test_arrays_that_numpy_would_read_instead(tmp_path) -> None:
    path = npz(tmp_path)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("labels", npy(LABELS[::-1].copy()))
    assert (np.load(path)["labels"] == LABELS[::-1]).all()
    refused(path, r"\.npy alone")


def test_archives_that_are_damaged_in_place(tmp_path) -> None:
    np.savez(tmp_path / "a.npz", features=np.eye(6), labels=LABELS)
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[content.index(np.float64(1).tobytes())] ^= 1
    (tmp_path / "a.npz").write_bytes(content)
    refused(tmp_path / "a.npz", "CRC")


def test_gzip_bombs_stop_at_the_declared_size(forms, tmp_path, grey) -> None:
    source = forms.idx_packed(tmp_path, *grey).replace("#test", "")
    file = tmp_path / "gz" / "train-images-idx3-ubyte.gz"
    content = gzip.decompress(file.read_bytes())
    file.write_bytes(gzip.compress(content + b"x" * 1_000_000))
    refused(source, "longer than its header")


@pytest.mark.parametrize("form", ["idx", "idx_packed"])
def test_huge_shapes_in_idx_headers(forms, tmp_path, grey, form: str) -> None:
    source = getattr(forms, form)(tmp_path, *grey)
    suffix = ".gz" if form == "idx_packed" else ""
    start = "t10k" if suffix else "train"
    file = pathlib.Path(source.partition("#")[0]) / f"{start}-images-idx3-ubyte{suffix}"
    for shape in [(2**32 - 1, 2**32 - 1, 2**32 - 1), (30, 0, 5), (0, 32, 32), (30, 20_000, 20_000)]:
        content = struct.pack(">HBB3I", 0, 8, 3, *shape)
        file.write_bytes(gzip.compress(content) if suffix else content)
        refused(source, "samples of")
    content = struct.pack(">HBB3I", 0, 13, 3, 30, 32, 32)
    file.write_bytes(gzip.compress(content) if suffix else content)
    refused(source, "0x0d")


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "U8", "shape": [6, 2**40], "data_offsets": [0, 6 * 2**40]},
        {"dtype": "U8", "shape": [6, 2], "data_offsets": [0, 11]},
        {"dtype": "U8", "shape": [6, -2], "data_offsets": [0, -12]},
        {"dtype": "U8", "shape": [6.0, 2], "data_offsets": [0, 12]},
        {"dtype": "OBJECT", "shape": [6], "data_offsets": [0, 6]},
        {"dtype": "U8", "shape": [6]},
        [],
    ],
)
def test_headers_of_safetensors(tmp_path, entry: object) -> None:
    path = tmp_path / "a.safetensors"
    text = json.dumps({"features": entry}).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(12))
    refused(path, "features|broken")
    for header in (b"[]", b'"x"', b"[" * 100_000, b"{", b"\xff"):
        path.write_bytes(len(header).to_bytes(8, "little") + header)
        refused(path, "broken")
    path.write_bytes((2**63).to_bytes(8, "little"))
    refused(path, "header of at most")


# folders


def test_links_that_lead_outside(forms, tmp_path, colour) -> None:
    source = forms.class_folders(tmp_path, *colour)
    link = tmp_path / "folders" / "bee" / "link.png"
    link.symlink_to(tmp_path / "folders" / "ant" / "00000.png")
    assert len(read_samples(source)) == 31
    (tmp_path / "secret.png").write_bytes(forms.png(colour[0][0]))
    for target in (tmp_path / "secret.png", tmp_path / "none", tmp_path / "folders", tmp_path):
        link.unlink()
        link.symlink_to(target)
        refused(source, "links")
        with pytest.raises(RefusedError, match="links"):
            digest(source)


def test_special_files_do_not_block(forms, tmp_path, colour) -> None:
    source = forms.class_folders(tmp_path, *colour)
    os.mkfifo(tmp_path / "folders" / "bee" / "pipe.png")
    refused(source, "special file")
    os.mkfifo(tmp_path / "pipe.npz")
    refused(tmp_path / "pipe.npz", "special file")


def test_names_that_cannot_be_shown(forms, tmp_path, colour) -> None:
    source = forms.class_folders(tmp_path, *colour)
    for name in (b"line\nbreak.png", b"\xff.png", b"\x1b[31m.png"):
        odd = os.fsencode(tmp_path / "folders" / "bee") + b"/" + name
        pathlib.Path(os.fsdecode(odd)).write_bytes(forms.png(colour[0][0]))
        refused(source, "printable")
        pathlib.Path(os.fsdecode(odd)).unlink()


def test_absurd_numbers_of_files(forms, tmp_path, colour, monkeypatch) -> None:
    source = forms.class_folders(tmp_path, *colour)
    monkeypatch.setattr(files, "MAX_FILES", 9)
    refused(source, "at most 9 entries")


def test_absurd_numbers_of_batches(tmp_path) -> None:
    for number in range(101):
        (tmp_path / f"data_batch_{number}.bin").touch()
    refused(tmp_path, "at most 100 batches")


def test_absurd_images(forms, tmp_path, colour, monkeypatch) -> None:
    source = forms.class_folders(tmp_path, *colour)
    bomb = bytearray(forms.png(colour[0][0]))
    for side in (9_000, 60_000, 2**31 - 1):  # the second is Pillow's own idea of a bomb
        bomb[16:24] = struct.pack(">II", side, side)
        bomb[29:33] = struct.pack(">I", zlib.crc32(bytes(bomb[12:29])))
        (tmp_path / "folders" / "ant" / "00000.png").write_bytes(bomb)
        refused(source, "00000.png")
    (tmp_path / "folders" / "ant" / "00000.png").write_bytes(forms.png(colour[0][0]))
    refused(source, "at most 0 MB", max_mb=0)
    monkeypatch.setattr(images, "MAX_ENCODED", 50)
    refused(source, "at most 50 bytes")


def test_deep_colours_are_not_cut_down_in_silence(tmp_path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
        Image.new("I;16", (4, 4), 9).save(tmp_path / name / "x.png")
    refused(tmp_path, "8 bits a channel")


def test_folders_in_class_folders(forms, tmp_path, colour) -> None:
    source = forms.class_folders(tmp_path, *colour)
    (tmp_path / "folders" / "bee" / "more").mkdir()
    refused(source, "more")


def test_shapes_that_are_no_images(tmp_path) -> None:
    images = np.zeros((6, 3, 32, 32), np.uint8)
    refused(npz(tmp_path, images=images), "channels come last")
    refused(npz(tmp_path, images=images.astype(np.float32)), "uint8")
    refused(npz(tmp_path, images=np.zeros((6, 0, 4), np.uint8)), "samples of")
    np.savez(tmp_path / "a.npz", labels=LABELS)
    refused(tmp_path / "a.npz", "`images` or `features`")


# what one reader sees and another does not


@pytest.mark.parametrize("hidden", ["CLASS/.0.png", ".a/0.png"])
def test_images_behind_a_dot(tmp_path, forms, colour, hidden: str) -> None:
    source = pathlib.Path(forms.class_folders(tmp_path, *colour))
    place = source / hidden.replace("CLASS", next(source.iterdir()).name)
    place.parent.mkdir(exist_ok=True)
    place.write_bytes(forms.png(colour[0][0]))
    refused(source, "start with a dot")


def test_images_of_16_bits(tmp_path, forms, colour) -> None:
    source = forms.class_folders(tmp_path, *colour)
    image = next(pathlib.Path(source).rglob("*.png"))
    content = bytearray(image.read_bytes())
    content[24] = 16
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    image.write_bytes(content)
    refused(source, "16 bits")


def test_16_bits_of_other_formats(tmp_path, forms, colour) -> None:
    source = pathlib.Path(forms.class_folders(tmp_path, *colour))
    place = next(source.rglob("*.png"))
    deep = np.zeros((8, 8, 3), ">u2").tobytes()
    place.with_suffix(".ppm").write_bytes(b"P6 8 8 65535\n" + deep)
    refused(source, "16 bits")
    place.with_suffix(".ppm").unlink()
    place.with_suffix(".tif").write_bytes(tiff(bits=16, pixels=deep))
    refused(source, "16 bits")


def tiff(*, bits: int, pixels: bytes) -> bytes:
    """Lay out 8 x 8 pixels of three channels."""
    shorts = [(256, 8), (257, 8), (259, 1), (262, 2), (277, 3), (278, 8)]
    entries = {tag: struct.pack(">HHIHH", tag, 3, 1, value, 0) for tag, value in shorts}
    behind = 8 + 2 + 12 * (len(entries) + 3) + 4
    entries[258] = struct.pack(">HHII", 258, 3, 3, behind)
    entries[273] = struct.pack(">HHII", 273, 4, 1, behind + 6)
    entries[279] = struct.pack(">HHII", 279, 4, 1, len(pixels))
    table = b"".join(entries[tag] for tag in sorted(entries))
    start = b"MM" + struct.pack(">HIH", 42, 8, len(entries))
    return start + table + bytes(4) + struct.pack(">HHH", bits, bits, bits) + pixels


def test_images_with_channels_first(tmp_path) -> None:
    np.savez(tmp_path / "a.npz", labels=LABELS, images=np.zeros((6, 3, 8, 8), np.uint8))
    refused(tmp_path / "a.npz", "channels come last")


def test_long_words_that_a_small_table_repeats(tmp_path) -> None:
    ids = pa.DictionaryArray.from_arrays(pa.array([0] * 512, pa.int32()), ["x" * 2**20])
    labels = pa.array([0, 1] * 256)
    table = pa.table({"label": labels, "id": ids.cast(pa.string()), "x": labels.cast(pa.float64())})
    pq.write_table(table, tmp_path / "a.parquet", store_schema=False)
    assert (tmp_path / "a.parquet").stat().st_size < 2**17
    refused(tmp_path / "a.parquet", "words of at most 4096 bytes")


def test_settings_that_name_each_other_again_and_again(tmp_path) -> None:
    pytest.importorskip("datasets")
    pq.write_table(pa.table({"label": [0, 1], "x": [0.0, 1.0]}), tmp_path / "train.parquet")
    names = [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 30)}]" for i in range(1, 20)]
    lines = ["---", "a0: &a0 [x]", *names, "configs: *a19", "---", ""]
    (tmp_path / "README.md").write_text("\n".join(lines))
    with pytest.raises(InputError):
        read_samples(f"hf:{tmp_path}")


def test_links_in_a_loop(tmp_path, forms, colour) -> None:
    source = pathlib.Path(forms.class_folders(tmp_path, *colour))
    (source / "loop.png").symlink_to("loop.png")
    refused(source, "loop")


# columns of tables


def test_columns_are_matched_by_name(tmp_path) -> None:
    table = {"label": [0, 1, 0], "a": [1.0, 2.0, 3.0], "b": [4.0, 5.0, 6.0]}
    pq.write_table(pa.table(table), tmp_path / "data.parquet")
    other = {"b": table["b"], "__index_level_0__": [2, 0, 1], "a": table["a"]}
    pq.write_table(pa.table({**other, "label": table["label"]}), tmp_path / "clean.parquet")
    data = read_samples(f"{tmp_path}/data.parquet")
    assert data.columns == ("a", "b")
    clean = read_samples(f"{tmp_path}/clean.parquet", columns=data.columns)
    assert torch.equal(clean.inputs[:], data.inputs[:])
    pq.write_table(pa.table({**table, "c": table["a"]}), tmp_path / "clean.parquet")
    with pytest.raises(InputError, match="0 missing and 1 others: c"):
        read_samples(f"{tmp_path}/clean.parquet", columns=data.columns)


def test_a_column_without_a_name(tmp_path) -> None:
    (tmp_path / "a.csv").write_text(",label,x\n0,0,1.5\n1,1,2.5\n")
    refused(tmp_path / "a.csv", "an index of rows")
