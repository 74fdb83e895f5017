"""Folders of class folders with image files, and folders of images without classes."""

import pathlib
from collections.abc import Iterator

import torch
from jaxtyping import Int64
from torch import Tensor

from assay.errors import InputError, RefusedError, UsageError

from .files import MAX_FILES, copy, listing, read_bounded
from .found import Found, Reading, chosen
from .images import MAX_ENCODED, SUFFIXES, decode_all
from .rows import FileRows

_SPLITS = frozenset({"train", "test", "val", "valid", "validation"})
_SAVED = frozenset({"state.json", "dataset_info.json"})
"""What `save_to_disk` of `datasets` writes beside the rows."""


def recognises(path: pathlib.Path) -> bool:
    """Tell whether `path` is a folder; every other form has to be asked before."""
    return path.is_dir()


def holds(path: pathlib.Path) -> bool:
    """Tell whether a folder in `path`, or one in that, holds a file with a name of images."""
    inner = [path / name for name in listing(path, path)[0]]
    deeper = [each / name for each in inner for name in listing(each, path)[0]]
    return any(
        pathlib.PurePath(name).suffix.lower() in SUFFIXES
        for each in (*inner, *deeper)
        for name in listing(each, path)[1]
    )


def read(path: pathlib.Path, how: Reading) -> Found:
    """Read a folder of class folders; classes are in alphabetical, or numerical, order.

    Raises:
        RefusedError: a class without images, files that are not images, broken images.
        InputError: no class folders, or images of different sizes.
    """
    root = _root(path, how.split)
    classes = _classes(root)
    names = [f"{folder}/{file}" for folder, files in classes.items() for file in files]
    counts = torch.tensor([len(files) for files in classes.values()])
    return Found(
        inputs=_decoded(root, names, how),
        labels=torch.arange(len(counts)).repeat_interleave(counts),
        names=tuple(classes),
        numbered=False,
        ids=tuple(names),
    )


def read_images(path: pathlib.Path, how: Reading) -> FileRows:
    """Read the image files that lie in a folder, in alphabetical order of their names."""
    _, files = listing(path, path)
    _no_hidden(path, path)
    return _decoded(path, _images(path, files), how)


def write(
    path: pathlib.Path, split: str | None, keep: Int64[Tensor, " kept"], out: pathlib.Path
) -> None:
    """Copy the files of the kept images, under the same names."""
    root = _root(path, split)
    names = [f"{folder}/{file}" for folder, files in _classes(root).items() for file in files]
    for row in chosen(keep, len(names)):
        copy(root / names[row], out / root.relative_to(path) / names[row])


def _root(path: pathlib.Path, split: str | None) -> pathlib.Path:
    """The folder of class folders: `path`, or the folder of a split in it."""
    folders, _ = listing(path, path)
    if not ({"train", "test"} & set(folders) and set(folders) <= _SPLITS):
        if split is not None:
            raise UsageError(f"expected folders `train` and `test` in {path}, got {folders[:5]}")
        return path
    wanted = split or "train"
    if wanted not in folders:
        raise UsageError(f"expected a folder `{wanted}` in {path}, got {folders}")
    return path / wanted


def _classes(root: pathlib.Path) -> dict[str, list[str]]:
    folders, beside = listing(root, root)
    _no_hidden(root, root)
    if not folders:
        hint = f"; hf:{root} opens what `datasets` wrote" if set(beside) >= _SAVED else ""
        raise InputError(
            f"expected class folders with images in {root}, got {beside[:3] or 'nothing'}{hint}"
        )
    if any(pathlib.PurePath(name).suffix.lower() in SUFFIXES for name in beside):
        raise RefusedError(f"expected images only inside the class folders of {root}")
    if all(name.isascii() and name.isdigit() for name in folders):
        folders.sort(key=lambda name: (len(name.lstrip("0")), name.lstrip("0"), name))
    classes = {}
    for name in folders:
        inner, files = listing(root / name, root)
        _no_hidden(root / name, root)
        if inner:
            raise RefusedError(f"expected only images in class folder {name}, got {inner[0]}")
        classes[name] = _images(root / name, files)
    if sum(map(len, classes.values())) > MAX_FILES:
        raise RefusedError(f"expected at most {MAX_FILES} images in {root}, got more")
    return classes


def _no_hidden(folder: pathlib.Path, root: pathlib.Path) -> None:
    """Refuse images behind names with a dot, which some trainers read and others do not."""
    folders, files = listing(folder, root, hidden=True)
    hidden = [name for name in files if name.startswith(".")]
    for name in folders:
        if name.startswith("."):
            hidden += [f"{name}/{file}" for file in listing(folder / name, root, hidden=True)[1]]
    images = [name for name in hidden if pathlib.PurePath(name).suffix.lower() in SUFFIXES]
    if images:
        raise RefusedError(
            f"expected no images with names that start with a dot in {folder}, got {images[0]}: "
            "some trainers read them; rename or remove them"
        )


def _images(folder: pathlib.Path, files: list[str]) -> list[str]:
    if not files:
        raise RefusedError(f"expected images in {folder}, got an empty folder")
    for name in files:
        if pathlib.PurePath(name).suffix.lower() not in SUFFIXES:
            raise RefusedError(f"expected only images {sorted(SUFFIXES)} in {folder}, got {name}")
    return files


def _decoded(root: pathlib.Path, names: list[str], how: Reading) -> FileRows:
    def encoded() -> Iterator[tuple[str, bytes]]:
        for name in names:
            yield name, read_bounded(root / name, MAX_ENCODED)

    return decode_all(encoded, how, root)
