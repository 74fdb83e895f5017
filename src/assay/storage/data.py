"""Data sets of every form: read, written in the form they came in, and hashed."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from assay.errors import InputError, UsageError
from assay.samples import Rows, Samples

from . import cifar, folders, hub, idx, npz, tables, tensors
from .files import digest_path, existing, fresh, listing
from .found import Form, Found, Reading, check_finite, samples_of
from .rows import settle

FORMS: tuple[Form, ...] = (npz, tensors, tables, cifar, idx, folders)
"""In the order in which they are asked whether a path is theirs."""

_SPLITS = ("train", "test")
_HUB = "hf:"


def read_samples(
    source: str,
    *,
    class_names: Sequence[str] | None = None,
    columns: tuple[str, ...] | None = None,
    size: int | None = None,
    memory_mb: int = 2048,
    max_mb: int = 65_536,
) -> Samples:
    """Read a labelled data set that someone else made.

    Args:
        source: a folder of class folders, a folder in CIFAR-10 or IDX layout, a `.npz`,
            `.safetensors`, `.parquet`, `.csv` or `.tsv` file, or `hf:NAME`, where needed as
            `hf:NAME@CONFIGURATION`. `#train` or `#test` at its end chooses a split; without it,
            a folder with both gives `train`.
        class_names: the classes in order, if they are known, as those of another data set; labels
            are matched to them by name, or by number where only one side has names. Classes
            without samples are allowed only where they are named, here or by the source.
        columns: of a table, as another one has them: inputs are put into this order, by name.
        size: side in pixels that encoded images are cut and scaled to; without it, images of
            different sizes are refused.
        memory_mb: inputs up to this size are read into memory; larger ones are read from disk
            when they are asked for, and compressed ones unpacked to a temporary file first.
        max_mb: what the inputs may take when unpacked.

    Raises:
        UsageError: there is no such path, split or data set.
        RefusedError: the source is malformed, oversized or tries to run code.
        InputError: the data are of no use here: one class, mixed sizes, texts, foreign classes.
    """
    how = Reading(size=size, memory_mb=memory_mb, max_mb=max_mb, columns=columns)
    found, how = _read(source, how)
    return samples_of(found, class_names, how, source)


def read_images(
    source: str, *, size: int | None = None, memory_mb: int = 2048, max_mb: int = 65_536
) -> Rows:
    """Read inputs without classes: a folder of images, or any source of `read_samples`.

    Args:
        source: as for `read_samples`; an `.npz` or `.safetensors` may lack labels.
        size: as for `read_samples`.
        memory_mb: as for `read_samples`.
        max_mb: as for `read_samples`.

    Raises:
        UsageError: as for `read_samples`.
        RefusedError: as for `read_samples`.
        InputError: as for `read_samples`.
    """
    how = Reading(size=size, memory_mb=memory_mb, max_mb=max_mb)
    path = pathlib.Path(source)
    if path.is_dir() and _form(path) is folders and not listing(path, path)[0]:
        inputs = folders.read_images(path, how)
    elif path.is_file() and npz.recognises(path):
        inputs = npz.read_inputs(path, how)
    elif path.is_file() and tensors.recognises(path):
        inputs = tensors.read_inputs(path, how)
    else:
        inputs = _read(source, how)[0].inputs
    rows = settle(inputs, memory_mb)
    check_finite(rows, source)
    return rows


def write_samples(
    source: str,
    keep: Int64[Tensor, " kept"],
    out: pathlib.Path,
    *,
    complete: Callable[[pathlib.Path], None] = lambda _: None,
) -> pathlib.Path:
    """Write some samples of a data set to a new one of the same form.

    The new data set is what `source` is, a file or a folder, without other splits: class folders
    hold copies of the kept files, tables all columns, archives every array with one row a sample.
    It appears at `out` complete or not at all.

    Args:
        source: as for `read_samples`.
        keep: which samples, by their index in `read_samples`, in any order; the order of the
            source is kept.
        out: where to; nothing may be there yet.
        complete: called with the path of the complete new data set, just before it appears at
            `out`: what is recorded then is known of whatever a killed process left at `out`.

    Returns:
        `out`, which `read_samples` reads (with the split that `source` names, if it names one).

    Raises:
        InputError: `out` exists, or `keep` is empty, repeated or out of range.
        UsageError: as for `read_samples`.
        RefusedError: as for `read_samples`.
    """
    place, split = _parsed(source)
    with fresh(out) as partial:
        if place.startswith(_HUB):
            hub.write(place.removeprefix(_HUB), split, keep, partial)
        else:
            path, inner, split = _located(place, split)
            if inner is not None:
                partial.mkdir()
            _form(path).write(path, split, keep, partial / inner if inner else partial)
        complete(partial)
    return out


def write_indices(keep: Int64[Tensor, " kept"], out: pathlib.Path) -> pathlib.Path:
    """Write indices of samples as text, one a line in ascending order; returns `out`.

    Raises:
        InputError: `out` exists already.
    """
    rows = torch.sort(keep).values.tolist()
    with fresh(out) as partial:
        partial.write_text("".join(f"{row}\n" for row in rows))
    return out


def digest(source: str) -> str:
    """SHA-256 of a data set: of a file, of a folder's names and contents, of a hub split's rows.

    A split that the source names does not change the digest of a file or folder.

    Returns:
        64 hexadecimal digits.

    Raises:
        UsageError: there is no such path or data set.
        RefusedError: the folder holds special files or links that lead out of it.
    """
    place, split = _parsed(source)
    if place.startswith(_HUB):
        return hub.digest(place.removeprefix(_HUB), split)
    return digest_path(pathlib.Path(place))


def _read(source: str, how: Reading) -> tuple[Found, Reading]:
    place, split = _parsed(source)
    how = dataclasses.replace(how, split=split)
    if place.startswith(_HUB):
        return hub.read(place.removeprefix(_HUB), how), how
    path, _, split = _located(place, split)
    how = dataclasses.replace(how, split=split)
    return _form(path).read(path, how), how


def _parsed(source: str) -> tuple[str, str | None]:
    """Take the split off a source, unless a file is called like that."""
    place, mark, split = source.rpartition("#")
    if not mark or pathlib.Path(source).exists():
        return source, None
    if not place.startswith(_HUB) and split not in _SPLITS:
        raise UsageError(f"expected #train or #test after the path, got {source!r}")
    return place, split


def _located(place: str, split: str | None) -> tuple[pathlib.Path, str | None, str | None]:
    """Find the file of a split in a folder, where files are called after splits.

    Returns:
        What to read; its name in the folder that the source is, if it is one; the split that is
        still to be chosen.
    """
    path = existing(pathlib.Path(place))
    if path.is_dir():
        files = [
            name
            for name in listing(path, path)[1]
            if pathlib.PurePath(name).stem == (split or "train")
            and any(form.recognises(path / name) for form in (npz, tensors, tables))
        ]
        others = {"CIFAR-10 batches": cifar, "IDX files": idx}
        held = [*files, *(name for name, form in others.items() if form.recognises(path))]
        if held and folders.holds(path):
            held.append("class folders")
        if len(held) > 1:
            raise UsageError(
                f"expected data in one form in {path}, got {' and '.join(held)}: take the others "
                "away, or name the file to read"
            )
        if files:
            return path / files[0], files[0], None
    elif split is not None:
        raise UsageError(f"expected no #{split} after a single file, got {place}#{split}")
    return path, None, split


def _form(path: pathlib.Path) -> Form:
    for form in FORMS:
        if form.recognises(existing(path)):
            return form
    raise InputError(
        f"expected a data set (class folders, CIFAR-10 or IDX folder, .npz, .safetensors, "
        f".parquet, .csv, .tsv, hf:NAME), got {path}"
    )
