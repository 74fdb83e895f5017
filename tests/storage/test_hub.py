"""Data sets that `datasets` opens: folders that the tests make."""

import bz2
import gzip
import io
import json
import lzma
import os
import pathlib
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from assay.errors import InputError, RefusedError, UsageError
from assay.storage import digest, hub, read_samples, write_samples
from assay.storage.found import Reading

KEEP = torch.tensor([29, 2, 14, 20])


@pytest.fixture(autouse=True)
def _apart(tmp_path_factory, monkeypatch) -> None:
    """Keep the cache of `datasets` in a folder of the test, and its hands off the network."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def image_folder(forms, path: pathlib.Path, data) -> str:
    source = pathlib.Path(forms.class_folders(path, *data))
    (path / "set").mkdir()
    source.rename(path / "set" / "train")
    return f"hf:{path / 'set'}"


def parquet(forms, path: pathlib.Path, data) -> str:
    source = pathlib.Path(forms.parquet(path, *data))
    (path / "set").mkdir()
    source.rename(path / "set" / "train-00000.parquet")
    return f"hf:{path / 'set'}"


@pytest.mark.parametrize("make", [image_folder, parquet])
def test_read_and_write(forms, tmp_path, colour, make) -> None:
    source = make(forms, tmp_path, colour)
    samples = read_samples(source)
    expected = forms.channels_first(colour[0])
    assert torch.equal(samples.inputs[:], expected)
    assert torch.equal(samples.labels, torch.from_numpy(colour[1]))
    assert read_samples(f"{source}#train").class_names == samples.class_names
    write_samples(source, KEEP, tmp_path / "new")
    kept = KEEP.sort().values
    new = read_samples(f"hf:{tmp_path / 'new'}")
    assert torch.equal(new.inputs[:], expected[kept])
    assert torch.equal(new.labels, samples.labels[kept])
    assert new.class_names == samples.class_names
    assert digest(source) == digest(source) != digest(f"hf:{tmp_path / 'new'}")


def test_a_file_that_was_exchanged_is_read_anew(tmp_path) -> None:
    file = tmp_path / "train.csv"
    digests = []
    for rows in ("1,2,0\n3,4,1\n", "1,2,1\n3,4,0\n"):
        file.write_text(f"a,b,label\n{rows}")
        os.utime(file, (1.7e9, 1.7e9))  # as `tar` and `rsync -a` do
        digests.append(digest(f"hf:{tmp_path}"))
    assert digests[0] != digests[1]
    assert read_samples(f"hf:{tmp_path}").labels.tolist() == [1, 0]


def test_tables_of_numbers(tmp_path) -> None:
    (tmp_path / "train.csv").write_text("a,b,label\n1,2.5,0\n3,4,1\n")
    samples = read_samples(f"hf:{tmp_path}")
    assert samples.inputs[:].tolist() == [[1.0, 2.5], [3.0, 4.0]]


def test_texts_are_told_what_to_do(tmp_path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "a", "label": 0}\n{"text": "b", "label": 1}\n')
    with pytest.raises(InputError, match="frozen encoder"):
        read_samples(f"hf:{tmp_path}")


def test_data_sets_and_splits_that_do_not_exist(forms, tmp_path, colour) -> None:
    with pytest.raises(UsageError, match="that can be opened"):
        read_samples(f"hf:{tmp_path}/none")
    with pytest.raises(UsageError, match=r"one of the splits train of .*, got nowhere"):
        read_samples(f"{parquet(forms, tmp_path, colour)}#nowhere")


def test_code_in_the_folder_runs_nothing(forms, tmp_path, colour, marker) -> None:
    source = parquet(forms, tmp_path, colour)
    code = f"__import__('pathlib').Path({str(marker)!r}).touch()"
    (tmp_path / "set" / "set.py").write_text(code)
    with pytest.raises(RefusedError, match=r"set\.py"):
        read_samples(source)
    assert not marker.exists()


@pytest.mark.parametrize(
    "name", ["train.pkl", "train.pickle", "train.tar", "train.zip", "train.xml"]
)
def test_files_of_other_kinds(tmp_path, name: str, betraying: bytes, marker) -> None:
    (tmp_path / name).write_bytes(betraying)
    with pytest.raises(InputError):
        read_samples(f"hf:{tmp_path}")
    assert not marker.exists()


@pytest.mark.parametrize(
    "files",
    [
        *("../secret.csv", "{tmp}/secret.csv", "a/../../secret.csv", "train.csv.gz"),
        *("hf://datasets/a/b/c.csv", "http://localhost:1/c.csv", "zip://x.csv::train.zip"),
    ],
)
@pytest.mark.parametrize("settings", ["README.md", ".huggingface.yaml"])
def test_files_from_elsewhere(tmp_path, files: str, settings: str) -> None:
    (tmp_path / "secret.csv").write_text("a,label\n1,0\n2,1\n")
    folder = tmp_path / "set"
    folder.mkdir()
    (folder / "train.csv.gz").write_bytes(b"")
    said = json.dumps([{"config_name": "default", "data_files": files.format(tmp=tmp_path)}])
    mark = "---\n" if settings == "README.md" else ""
    (folder / settings).write_text(f"{mark}configs: {said}\n{mark}")
    with pytest.raises(RefusedError, match="expected files"):
        read_samples(f"hf:{folder}")


def test_images_from_elsewhere(forms, tmp_path, colour) -> None:
    (tmp_path / "secret.png").write_bytes(forms.png(colour[0][0]))
    (tmp_path / "set").mkdir()
    image = {"bytes": None, "path": str(tmp_path / "secret.png")}
    kind = pa.struct({"bytes": pa.binary(), "path": pa.string()})
    table = pa.table({"image": pa.array([image, image], kind), "label": [0, 1]})
    pq.write_table(table, tmp_path / "set" / "train.parquet")
    with pytest.raises(RefusedError, match="itself"):
        read_samples(f"hf:{tmp_path / 'set'}")


def test_links_that_lead_outside(tmp_path) -> None:
    (tmp_path / "secret.csv").write_text("a,label\n1,0\n2,1\n")
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "train.csv").symlink_to(tmp_path / "secret.csv")
    with pytest.raises(RefusedError, match="links"):
        read_samples(f"hf:{tmp_path / 'set'}")


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + bytes(40) + b"PAR1"])
def test_broken_files(tmp_path, content: bytes) -> None:
    (tmp_path / "train.parquet").write_bytes(content)
    with pytest.raises(InputError):
        read_samples(f"hf:{tmp_path}")


def test_a_split_that_was_saved_to_disk(tmp_path) -> None:
    import datasets

    named = datasets.Features(
        {
            "a": datasets.Value("float64"),
            "label": datasets.ClassLabel(names=["no", "yes"]),
        }
    )
    rows = datasets.Dataset.from_dict({"a": [1.0, 2.0, 3.0], "label": [1, 0, 1]}, features=named)
    rows.select([2, 0, 1]).save_to_disk(tmp_path / "saved", num_shards=2)
    samples = read_samples(f"hf:{tmp_path / 'saved'}")
    assert samples.inputs[:].flatten().tolist() == [3.0, 1.0, 2.0]
    assert samples.class_names == ("no", "yes")
    assert samples.labels.tolist() == [1, 1, 0]
    with pytest.raises(InputError, match=f"hf:{tmp_path / 'saved'} opens"):
        read_samples(str(tmp_path / "saved"))


def test_a_saved_split_with_files_of_others(tmp_path) -> None:
    import datasets

    rows = datasets.Dataset.from_dict({"a": [1.0, 2.0, 3.0], "label": [1, 0, 1]})
    rows.save_to_disk(tmp_path / "other")
    rows.save_to_disk(tmp_path / "saved")
    (table,) = (tmp_path / "saved").glob("*.arrow")
    table.unlink()
    table.symlink_to(next((tmp_path / "other").glob("*.arrow")))
    with pytest.raises(RefusedError, match="outside"):
        read_samples(f"hf:{tmp_path / 'saved'}")
    table.unlink()
    state = tmp_path / "saved" / "state.json"
    said = json.loads(state.read_text())
    said["_data_files"] = [{"filename": "../other/data-00000-of-00001.arrow"}]
    state.write_text(json.dumps(said))
    with pytest.raises(RefusedError):
        read_samples(f"hf:{tmp_path / 'saved'}")


def test_a_configuration_is_chosen_or_asked_for(tmp_path) -> None:
    for name, label in (("even", 0), ("odd", 1)):
        (tmp_path / f"{name}.csv").write_text(f"a,label\n1,{label}\n2,{1 - label}\n3,0\n")
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n"
        + "".join(f"- config_name: {n}\n  data_files: {n}.csv\n" for n in ("even", "odd"))
        + "---\n"
    )
    for name, labels in (("even", [0, 1, 0]), ("odd", [1, 0, 0])):
        source = f"hf:{tmp_path}@{name}"
        assert read_samples(source).labels.tolist() == labels
        assert read_samples(f"{source}#train").labels.tolist() == labels
        new = write_samples(source, torch.tensor([0, 1]), tmp_path.with_name(f"new-{name}"))
        assert read_samples(f"hf:{new}").labels.tolist() == labels[:2]
    assert digest(f"hf:{tmp_path}@even") != digest(f"hf:{tmp_path}@odd")
    for source in (f"hf:{tmp_path}", f"hf:{tmp_path}@neither"):
        with pytest.raises(UsageError, match=r"(?s)@NAME.*even.*odd"):
            read_samples(source)


def test_what_was_saved_to_disk_is_written_as_such(tmp_path) -> None:
    import datasets

    rows = datasets.Dataset.from_dict({"a": [1.0, 2.0, 3.0, 4.0], "label": [0, 1, 0, 1]})
    rows.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": rows, "test": rows}).save_to_disk(tmp_path / "both")
    keep = torch.tensor([3, 0])
    new = write_samples(f"hf:{tmp_path / 'one'}", keep, tmp_path / "one-less")
    assert datasets.load_from_disk(new)["a"] == [1.0, 4.0]
    assert read_samples(f"hf:{new}").inputs[:].tolist() == [[1.0], [4.0]]
    new = write_samples(f"hf:{tmp_path / 'both'}#test", keep, tmp_path / "both-less")
    assert datasets.load_from_disk(new)["test"]["a"] == [1.0, 4.0]
    assert read_samples(f"hf:{new}#test").labels.tolist() == [0, 1]


def test_saved_rows_that_name_files_elsewhere_are_not_written(tmp_path) -> None:
    import datasets

    secret = tmp_path / "secret.png"
    secret.write_bytes(b"mine")
    kind = datasets.Features(
        {
            "a": datasets.Value("float64"),
            "more": datasets.List(datasets.Image()),
            "label": datasets.Value("int64"),
        }
    )
    plain = pa.table(
        {
            "a": [1.0, 2.0],
            "more": [[{"bytes": None, "path": str(secret)}]] * 2,
            "label": [0, 1],
        }
    )
    rows = datasets.Dataset(plain.cast(kind.arrow_schema), datasets.DatasetInfo(features=kind))
    (tmp_path / "set").mkdir()
    file = tmp_path / "set" / "data-00000-of-00001.arrow"
    with pa.ipc.new_stream(file, rows.data.schema) as writer:
        writer.write_table(rows.data.table)
    (tmp_path / "set" / "state.json").write_text("{}")
    with pytest.raises(RefusedError, match="columns of their own, got them inside 'more'"):
        write_samples(f"hf:{tmp_path / 'set'}", torch.tensor([0, 1]), tmp_path / "new")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("before", "mark"),
    [("", "---\r\n"), ("\n", "---\n"), (" \r\n", "---\r\n"), ("\ufeff", "---\n"), ("", "---\r")],
)
def test_settings_in_every_form_that_is_followed(
    tmp_path, before: str, mark: str, monkeypatch
) -> None:
    monkeypatch.setattr("datasets.load_dataset_builder", lambda *_, **__: pytest.fail("followed"))
    (tmp_path / "train.csv").write_text("a,label\n1,0\n2,1\n")
    said = json.dumps([{"config_name": "default", "data_files": "http://localhost:1/c.csv"}])
    (tmp_path / "README.md").write_bytes(f"{before}{mark}configs: {said}\n---\n".encode())
    with pytest.raises(RefusedError, match="expected files of"):
        read_samples(f"hf:{tmp_path}")


def test_folders_are_opened_without_the_network(tmp_path, monkeypatch) -> None:
    import datasets
    import huggingface_hub

    switches = (datasets.config, huggingface_hub.constants)
    for switch in switches:
        monkeypatch.setattr(switch, "HF_HUB_OFFLINE", False)
    build, seen = datasets.load_dataset_builder, []

    def noted(*given, **named):
        seen.extend(switch.HF_HUB_OFFLINE for switch in switches)
        return build(*given, **named)

    monkeypatch.setattr(datasets, "load_dataset_builder", noted)
    (tmp_path / "train.csv").write_text("a,label\n1,0\n2,1\n")
    read_samples(f"hf:{tmp_path}")
    assert seen == [True, True]
    assert not any(switch.HF_HUB_OFFLINE for switch in switches)


def zipped(content: bytes, before: bytes = b"") -> bytes:
    packed = io.BytesIO(before)
    with zipfile.ZipFile(packed, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train.csv", content)
    return packed.getvalue()


def tarred(content: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        entry = tarfile.TarInfo("train.csv")
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
    return packed.getvalue()


PACKED = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda content: lzma.compress(content, lzma.FORMAT_ALONE),
    "zstd": lambda content: pa.compress(content, "zstd", asbytes=True),
    "zip": zipped,
    "zip behind text": lambda content: zipped(content, b"a,label\n"),
    "tar": tarred,
    "7z": lambda _: b"7z\xbc\xaf\x27\x1c",
    "rar": lambda _: b"Rar!\x1a\x07\x01\x00",
}


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@pytest.mark.parametrize("form", PACKED)
def test_packed_files_under_another_name(tmp_path, form: str, suffix: str) -> None:
    content = b"a,label\n" + b"1,0\n2,1\n" * 1000
    (tmp_path / f"train{suffix}").write_bytes(PACKED[form](content))
    with pytest.raises(RefusedError, match=f"expected text in .*, got {form[:3]}"):
        read_samples(f"hf:{tmp_path}")


@pytest.fixture
def converts_nothing(monkeypatch) -> None:
    """Let `datasets` convert nothing."""
    name = "datasets.builder.DatasetBuilder.download_and_prepare"
    monkeypatch.setattr(name, lambda *_, **__: pytest.fail("converted"))


@pytest.mark.parametrize("name", ["label", "t"])
@pytest.mark.usefixtures("converts_nothing")
def test_parquet_that_unpacks_to_far_more_is_not_converted(tmp_path, name: str) -> None:
    rows = {"label": [0, 1] * 500, "x": [0.0] * 1000, name: ["x" * 50_000] * 1000}
    pq.write_table(pa.table(rows), tmp_path / "train.parquet", compression="zstd")
    with pytest.raises(RefusedError, match=r"at most 4096 bytes|one column of images"):
        read_samples(f"hf:{tmp_path}")


@pytest.mark.usefixtures("converts_nothing")
def test_an_image_that_parquet_repeats_is_not_converted(tmp_path) -> None:
    rows = {"label": [0, 1] * 300, "image": [b"x" * 2**22] * 600}
    pq.write_table(pa.table(rows), tmp_path / "train.parquet", compression="zstd")
    with pytest.raises(RefusedError, match="at most 2048 MB"):
        read_samples(f"hf:{tmp_path}")


def test_what_folders_are_converted_to_is_bounded(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(hub, "Reading", lambda: Reading(memory_mb=1))
    zeros = {f"x{i}": np.zeros(400_000) for i in range(8)}
    table = pa.table({"label": [0] * 200_000 + [1] * 200_000, **zeros})
    options = pa.ipc.IpcWriteOptions(compression="zstd")
    with pa.ipc.new_stream(tmp_path / "train.arrow", table.schema, options=options) as writer:
        writer.write_table(table)
    with pytest.raises(RefusedError, match="unpacked from hf:"):
        read_samples(f"hf:{tmp_path}")


def test_settings_may_choose_columns_of_parquet(tmp_path) -> None:
    rows = {"label": [0, 1], "a": [1.0, 2.0], "note": [["x"], ["y" * 5000]]}
    pq.write_table(pa.table(rows), tmp_path / "train.parquet")
    said = json.dumps([{"config_name": "default", "columns": ["a", "label"]}])
    (tmp_path / "README.md").write_text(f"---\nconfigs: {said}\n---\n")
    assert read_samples(f"hf:{tmp_path}").inputs[:].tolist() == [[1.0], [2.0]]


def test_a_clip_on_the_hub_is_looked_for_by_whoever_imported_nothing_else(tmp_path):
    asked = "from assay.storage.clip import load_backbone; load_backbone('hf:nobody/nothing')"
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    ended = subprocess.run(  # noqa: S603  our own
        [sys.executable, "-c", asked], env=offline, capture_output=True, text=True, check=False
    )
    assert "expected a model on the hub that can be fetched, got hf:nobody/nothing" in ended.stderr
