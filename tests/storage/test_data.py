"""Every form is read as it was written, in memory and from disk, and written as it was read."""

import pathlib

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

from assay.errors import InputError, RefusedError, UsageError
from assay.samples import Samples
from assay.storage import FileRows, digest, read_images, read_samples, write_indices, write_samples
from assay.storage import found as found_module

KEEP = torch.tensor([29, 0, 3, 11, 12, 7, 21])


def from_disk(source: str, monkeypatch) -> Samples:
    monkeypatch.setattr(found_module, "settle", lambda rows, _: rows)
    return read_samples(source)


def test_read_gives_what_was_written(case) -> None:
    samples = read_samples(case.source)
    assert torch.equal(samples.inputs[:], case.images)
    assert torch.equal(samples.labels, case.labels)
    assert samples.class_names in {("ant", "bee", "cat"), ("0", "1", "2")}


@pytest.mark.parametrize("form", ["packed", "safetensors", "parquet"])
def test_the_case_of_a_file_name_does_not_matter(forms, tmp_path, colour, form: str) -> None:
    file = pathlib.Path(getattr(forms, form)(tmp_path, *colour))
    loud = file.rename(tmp_path / f"LOUD{file.suffix.upper()}")
    assert torch.equal(read_samples(str(loud)).inputs[:], forms.channels_first(colour[0]))
    new = write_samples(str(loud), KEEP, tmp_path / loud.name[1:])
    assert len(read_samples(str(new))) == len(KEEP)


def test_reading_from_disk_gives_the_same(case, monkeypatch) -> None:
    samples = from_disk(case.source, monkeypatch)
    assert isinstance(samples.inputs, FileRows)
    assert torch.equal(samples.inputs[:], case.images)
    assert torch.equal(samples.inputs[KEEP], case.images[KEEP])


def test_written_samples_read_as_the_kept_ones(case, tmp_path) -> None:
    before = digest(case.source)
    out = tmp_path / f"out{case.path.suffix}"
    assert write_samples(case.source, KEEP, out) == out
    split = case.source[len(str(case.path)) :]
    kept, old = KEEP.sort().values, read_samples(case.source)
    new = read_samples(f"{out}{split}")
    assert torch.equal(new.inputs[:], case.images[kept])
    assert torch.equal(new.labels, case.labels[kept])
    assert new.class_names == old.class_names
    assert old.ids is None or new.ids == tuple(old.ids[i] for i in kept.tolist())
    assert digest(case.source) == before, "the source was touched"
    assert digest(str(out)) != before


def test_nothing_is_written_over(case, tmp_path) -> None:
    out = tmp_path / f"out{case.path.suffix}"
    out.write_bytes(b"mine")
    with pytest.raises(InputError, match="does not exist yet"):
        write_samples(case.source, KEEP, out)
    assert out.read_bytes() == b"mine"


@pytest.mark.parametrize("keep", [[], [0, 0], [30], [-1]])
def test_a_failed_write_leaves_nothing(case, tmp_path, keep: list[int]) -> None:
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InputError, match="rows"):
        write_samples(case.source, torch.tensor(keep, dtype=torch.int64), tmp_path / "out")
    assert sorted(tmp_path.iterdir()) == before


def test_digest_sees_every_byte_and_name(case) -> None:
    before = digest(case.source)
    file = next(p for p in sorted(case.path.rglob("*")) or [case.path] if p.is_file())
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert digest(case.source) != before
    file.write_bytes(content)
    assert digest(case.source) == before
    if case.path.is_dir():
        file.rename(file.with_name("other"))
        assert digest(case.source) != before


def test_every_array_with_a_row_a_sample_is_filtered(forms, tmp_path, colour) -> None:
    images, labels = colour
    matrix = np.eye(3, dtype=np.float32)
    arrays = {"images": images, "labels": labels, "matrix": matrix, "scalar": np.float64(7)}
    track = np.array([f"t{i}" for i in range(30)])
    np.savez_compressed(tmp_path / "a.npz", **arrays, names=forms.NAMES, track=track)
    write_samples(f"{tmp_path}/a.npz", KEEP, tmp_path / "b.npz")
    with np.load(tmp_path / "b.npz") as new:
        assert np.array_equal(new["matrix"], matrix)
        assert new["scalar"] == 7
        assert new["names"].tolist() == list(forms.NAMES)
        assert np.array_equal(new["track"], track[KEEP.sort().values])


def test_names_stay_whole_where_there_are_as_many_samples(forms, tmp_path, colour) -> None:
    source = forms.packed(tmp_path, colour[0][:3], np.arange(3))
    write_samples(source, torch.tensor([0, 2]), tmp_path / "new.npz")
    assert read_samples(str(tmp_path / "new.npz")).class_names == forms.NAMES


def test_splits(forms, tmp_path, colour) -> None:
    source = forms.cifar(tmp_path, *colour)
    assert len(read_samples(source)) == len(read_samples(f"{source}#train")) == 30
    with pytest.raises(InputError, match="got one"):  # the test batch holds the first class only
        read_samples(f"{source}#test")
    with pytest.raises(UsageError, match="#train or #test"):
        read_samples(f"{source}#dev")
    with pytest.raises(UsageError, match="single file"):
        read_samples(forms.packed(tmp_path, *colour) + "#test")
    with pytest.raises(UsageError, match="train"):
        read_samples(forms.class_folders(tmp_path, *colour) + "#test")


def test_a_path_may_hold_the_mark_of_a_split(forms, tmp_path, colour) -> None:
    (tmp_path / "a#b").mkdir()
    assert len(read_samples(forms.packed(tmp_path / "a#b", *colour))) == 30
    forms.class_folders(tmp_path, *colour)
    (tmp_path / "folders").rename(tmp_path / "x#test")
    assert len(read_samples(str(tmp_path / "x#test"))) == 30


def test_class_folders_called_by_numbers_are_in_numerical_order(tmp_path) -> None:
    for name in ("10", "9", "0100"):
        (tmp_path / "d" / name).mkdir(parents=True)
        Image.new("L", (2, 2), int(name)).save(tmp_path / "d" / name / "a.png")
    samples = read_samples(str(tmp_path / "d"))
    assert samples.class_names == ("9", "10", "0100")
    assert samples.inputs[:, 0, 0, 0].tolist() == [9, 10, 100]


def test_classes_are_matched_by_name(forms, tmp_path, colour) -> None:
    wanted = ("cat", "dog", "bee", "ant")
    samples = read_samples(forms.class_folders(tmp_path, *colour), class_names=wanted)
    assert samples.class_names == wanted
    assert samples.labels.unique().tolist() == [0, 2, 3]
    assert torch.equal(samples.labels == 3, torch.from_numpy(colour[1]) == 0)
    with pytest.raises(InputError, match="got cat"):
        read_samples(str(tmp_path / "folders"), class_names=("ant", "bee"))


def test_classes_are_matched_by_number_where_one_side_has_no_names(forms, tmp_path, colour) -> None:
    named, bare = forms.cifar(tmp_path, *colour), forms.unpacked(tmp_path, *colour)
    unnamed = read_samples(bare)
    assert read_samples(named, class_names=unnamed.class_names).class_names == ("0", "1", "2")
    assert read_samples(bare, class_names=forms.NAMES).class_names == forms.NAMES
    with pytest.raises(InputError, match="classes among 0, 1, 2"):
        read_samples(forms.class_folders(tmp_path, *colour), class_names=("0", "1", "2"))


def test_numbered_classes_are_matched_by_number_where_the_names_are_numbers(tmp_path) -> None:
    path, names = tmp_path / "numbered.npz", ("1", "10", "2")  # as folders are sorted
    images = np.zeros((3, 4, 4, 3), np.uint8)
    np.savez(path, images=images, labels=np.array([1, 2, 10]))
    samples = read_samples(str(path), class_names=names)
    assert [names[label] for label in samples.labels.tolist()] == ["1", "2", "10"]
    np.savez(path, images=images, labels=np.array([0, 1, 2]))
    with pytest.raises(RefusedError, match=r"labels among 1, 10, 2 .*got 0"):
        read_samples(str(path), class_names=names)


def test_size_cuts_and_scales(tmp_path) -> None:
    for name, size in (("a", (40, 20)), ("b", (10, 30))):
        (tmp_path / "d" / name).mkdir(parents=True)
        image = Image.new("RGB", size, (200, 10, 30))
        image.putpixel((0, 0), (0, 0, 0))
        image.save(tmp_path / "d" / name / "x.png")
    samples = read_samples(str(tmp_path / "d"), size=8)
    assert samples.inputs.shape == (2, 3, 8, 8)
    assert samples.inputs[0, :, 4, 4].tolist() == [200, 10, 30]


def test_grey_and_coloured_images_become_coloured(tmp_path) -> None:
    for name, mode, value in (("a", "L", 7), ("b", "RGBA", (1, 2, 3, 0)), ("c", "P", 0)):
        (tmp_path / "d" / name).mkdir(parents=True)
        Image.new(mode, (2, 2), value).save(tmp_path / "d" / name / "x.png")
    samples = read_samples(str(tmp_path / "d"))
    assert samples.inputs[:, :, 0, 0].tolist() == [[7, 7, 7], [1, 2, 3], [0, 0, 0]]


def table(tmp_path: pathlib.Path, suffix: str) -> str:
    rows = {
        "id": ["x", "y", "z"],
        "width": [1, 2, 3],
        "ratio": [0.5, -1e-3, 2e5],
        "label": [1, 0, 1],
    }
    path = tmp_path / f"t{suffix}"
    if suffix == ".parquet":
        pq.write_table(pa.table({**rows, "good": [True, False, True]}), path)
        return str(path)
    mark = "," if suffix == ".csv" else "\t"
    lines = [mark.join(map(str, line)) for line in zip(*rows.values(), strict=True)]
    path.write_text(
        "\n".join([mark.join([*rows, "good"]), *(f"{line}{mark}1.50" for line in lines)])
    )
    return str(path)


@pytest.mark.parametrize("suffix", [".parquet", ".csv", ".tsv"])
def test_tables_of_numbers(tmp_path, suffix: str) -> None:
    source = table(tmp_path, suffix)
    samples = read_samples(source)
    assert samples.inputs.shape == (3, 3)
    assert samples.inputs[:, :2].tolist() == torch.tensor([[1, 0.5], [2, -1e-3], [3, 2e5]]).tolist()
    assert samples.labels.tolist() == [1, 0, 1]
    assert samples.ids == ("x", "y", "z")
    write_samples(source, torch.tensor([1, 2]), tmp_path / f"new{suffix}")
    new = read_samples(str(tmp_path / f"new{suffix}"))
    assert torch.equal(new.inputs[:], samples.inputs[1:])
    assert new.ids == ("y", "z")
    if suffix != ".parquet":
        assert "1.50" in (tmp_path / f"new{suffix}").read_text(), "numbers changed their text"


def test_words_as_labels_are_numbered_in_alphabetical_order(tmp_path) -> None:
    (tmp_path / "t.csv").write_text("a,label\n1,worm\n2, cat \n3,worm\n")
    samples = read_samples(str(tmp_path / "t.csv"))
    assert samples.class_names == ("cat", "worm")
    assert samples.labels.tolist() == [1, 0, 1]


def test_parquet_names_classes_in_its_metadata(forms, tmp_path, colour) -> None:
    rows = pq.read_table(forms.parquet(tmp_path, *colour))
    said = (
        b'{"info": {"features": {"label": {"_type": "ClassLabel", "names": ["x", "y", "z", "w"]}}}}'
    )
    path = tmp_path / "named.parquet"
    pq.write_table(rows.replace_schema_metadata({b"huggingface": said}), path)
    assert read_samples(str(path)).class_names == ("x", "y", "z", "w")
    write_samples(str(path), KEEP, tmp_path / "new.parquet")
    assert read_samples(str(tmp_path / "new.parquet")).class_names == ("x", "y", "z", "w")


def test_features_in_archives(tmp_path) -> None:
    features = np.linspace(0, 1, 36).reshape(9, 4)
    np.savez(tmp_path / "f.npz", features=features, labels=np.arange(9) % 3)
    samples = read_samples(str(tmp_path / "f.npz"))
    assert samples.inputs.dtype == torch.float32
    assert torch.equal(samples.inputs[:], torch.from_numpy(features).float())
    assert not samples.is_image


def test_a_table_of_texts_is_told_what_to_do(tmp_path) -> None:
    (tmp_path / "t.tsv").write_text('sentence\tlabel\nan "unclosed quote\t1\n')
    with pytest.raises(InputError, match=r"frozen encoder.*features"):
        read_samples(str(tmp_path / "t.tsv"))


def test_images_without_classes(forms, tmp_path, colour) -> None:
    (tmp_path / "pool").mkdir()
    for row, image in enumerate(colour[0][:5]):
        (tmp_path / "pool" / f"{row}.png").write_bytes(forms.png(image))
    expected = forms.channels_first(colour[0][:5])
    assert torch.equal(read_images(str(tmp_path / "pool"))[:], expected)
    with pytest.raises(InputError, match="class folders"):
        read_samples(str(tmp_path / "pool"))
    np.savez(tmp_path / "pool.npz", images=colour[0][:5])
    assert torch.equal(read_images(str(tmp_path / "pool.npz"))[:], expected)
    with pytest.raises(RefusedError, match="`labels`"):
        read_samples(str(tmp_path / "pool.npz"))
    labelled = read_images(forms.class_folders(tmp_path, *colour))
    assert torch.equal(labelled[:], forms.channels_first(colour[0]))


def test_indices_are_written_in_order(tmp_path) -> None:
    out = write_indices(torch.tensor([5, 1, 3]), tmp_path / "kept.txt")
    assert out.read_text() == "1\n3\n5\n"
    with pytest.raises(InputError, match="does not exist yet"):
        write_indices(torch.tensor([1]), out)


def test_real_data(assay_data) -> None:
    samples = read_samples(str(assay_data / "fashion-mnist#test"))
    assert samples.inputs.shape == (10_000, 1, 28, 28)
    assert samples.labels.bincount().tolist() == [1_000] * 10
    samples = read_samples(str(assay_data / "cifar-10-batches-bin"), memory_mb=1)
    assert isinstance(samples.inputs, FileRows)
    assert samples.class_names[6] == "frog"
    assert samples.inputs.shape == (20_000, 3, 32, 32)
    signs = read_samples(str(assay_data / "gtsrb#test"))
    assert signs.classes == 43


@pytest.mark.parametrize("beside", ["train.npz", "train-images-idx3-ubyte", "data_batch_1.bin"])
def test_a_folder_of_two_forms_is_refused(forms, tmp_path, colour, beside) -> None:
    source = pathlib.Path(forms.class_folders(tmp_path, *colour))
    read_samples(str(source))
    if beside.endswith(".npz"):
        np.savez(source / beside, images=colour[0], labels=colour[1])
    else:
        (source / beside).write_bytes(b"\0")
    with pytest.raises(UsageError, match=r"in one form .* and class folders"):
        read_samples(str(source))


def test_images_beside_features_are_refused(tmp_path, colour) -> None:
    features = np.zeros((len(colour[1]), 3), dtype=np.float32)
    np.savez(tmp_path / "both.npz", images=colour[0], features=features, labels=colour[1])
    with pytest.raises(RefusedError, match="got both"):
        read_samples(str(tmp_path / "both.npz"))
