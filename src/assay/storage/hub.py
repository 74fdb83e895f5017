"""Data sets that `datasets` opens: `hf:NAME` or `hf:NAME@CONFIGURATION`, a folder or on the hub."""

import codecs
import contextlib
import hashlib
import pathlib
import tempfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import yaml  # type: ignore[import-untyped]
from jaxtyping import Int64
from torch import Tensor

from assay.errors import RefusedError, UsageError

from .files import listing, read_bounded, refusing, walk
from .found import Found, Reading, chosen
from .images import MAX_ENCODED, SUFFIXES
from .tables import LABEL, check_parquet, check_rows, check_unpacked, read_batches, refused

if TYPE_CHECKING:
    from datasets import Dataset

_BUILDERS = frozenset({"arrow", "csv", "imagefolder", "json", "parquet"})
_SUFFIXES = SUFFIXES | {".arrow", ".csv", ".json", ".jsonl", ".parquet", ".tsv"}
_BATCH = 256
_MAX_SETTINGS = 2**20
_PACKED = {
    b"\x1f\x8b": "gzip",
    b"PK\x03\x04": "zip",
    b"\xfd7zXZ": "xz",
    b"BZh": "bzip2",
    b"(\xb5/\xfd": "zstd",
    b"7z\xbc\xaf": "7z",
    b"Rar!\x1a\x07": "rar",
    b"\x04\x22M\x18": "lz4",
}
"""First bytes of forms that `datasets` unpacks, whatever a file is called."""
_WIDE = frozenset({codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE})
_SAVED = "state.json"
"""Stands beside the one split that `save_to_disk` wrote."""
_SAVED_SPLITS = "dataset_dict.json"
"""Stands beside the folders of splits that `save_to_disk` wrote."""


def read(name: str, how: Reading) -> Found:
    """Read the train split, or another, as `assay.storage.tables.read` reads a table.

    Raises:
        UsageError: there is no such data set, configuration or split.
        RefusedError: it needs code of its own, or files from elsewhere.
    """
    table = _load(name, how.split)
    feature = table.features.get(LABEL)
    names = getattr(feature, "names", None)
    return read_batches(
        table.data.schema,
        lambda columns: _batches(table.select_columns(columns), name),
        None if names is None else tuple(names),
        how,
        name,
    )


def write(name: str, split: str | None, keep: Int64[Tensor, " kept"], out: pathlib.Path) -> None:
    """Write the kept rows as a folder that `datasets` can open, or load where it saved it.

    That is a parquet file of the split; or what `save_to_disk` writes, where it wrote the source.
    """
    import datasets

    table, folder = _load(name, split), pathlib.Path(_named(name)[0])
    rows = chosen(keep, len(table))
    if any((folder / saved).is_file() for saved in (_SAVED, _SAVED_SPLITS)):
        _check_files(table, name)
        kept = table.select(rows)
        is_one = (folder / _SAVED).is_file()
        (kept if is_one else datasets.DatasetDict({split or "train": kept})).save_to_disk(out)
        return
    out.mkdir()
    file = out / f"{split or 'train'}.parquet"
    with pa.parquet.ParquetWriter(file, table.data.schema) as writer:
        start = 0
        for batch in _batches(table, name):
            low, high = np.searchsorted(rows, [start, start + batch.num_rows])
            writer.write_batch(batch.take(pa.array(rows[low:high] - start)))
            start += batch.num_rows


def digest(name: str, split: str | None) -> str:
    """SHA-256 over the rows of a split, in order."""
    whole = hashlib.sha256()
    for batch in _batches(_load(name, split), name):
        whole.update(batch.serialize())
    return whole.hexdigest()


def _named(name: str) -> tuple[str, str | None]:
    """Take the configuration off a name, unless a folder is called like that."""
    place, mark, configuration = name.rpartition("@")
    return (place, configuration) if mark and not pathlib.Path(name).exists() else (name, None)


def _load(named: str, split: str | None) -> "Dataset":
    import datasets

    name, configuration = _named(named)
    folder = pathlib.Path(name)
    if folder.is_dir():
        _check_settings(folder)
    failures = (datasets.exceptions.DatasetsError, pa.ArrowException, RuntimeError)
    source: tuple[str, dict[str, Any]] = (name, {"name": configuration})
    if (folder / _SAVED).is_file():
        # what `save_to_disk` wrote of one split, whose files are named here, not by the folder
        source = ("arrow", {"data_files": [str(folder / f) for f in _arrow_files(folder)]})
    broken = refusing(f"hf:{name}", *failures)
    with contextlib.ExitStack() as private, broken, _explained(name):
        if folder.is_dir():
            # never what was converted before: a file that was exchanged may have kept its time.
            # What is open stays readable once it has no name.
            made = tempfile.TemporaryDirectory(prefix="assay-hf-")
            source[1]["cache_dir"] = private.enter_context(made)
            private.enter_context(_offline())
        builder = datasets.load_dataset_builder(source[0], **source[1])
        _check(builder, name)
        splits = [str(each) for each in builder.config.data_files or {}]
        if splits and (split or "train") not in splits:
            raise UsageError(
                f"expected one of the splits {', '.join(splits)} of hf:{named}, as in "
                f"hf:{named}#{splits[0]}, got {split or 'train'}"
            )
        if folder.is_dir():
            _check_packed(builder)
            _bound(builder, name)
        builder.download_and_prepare()
        return builder.as_dataset(split=split or "train")


@contextlib.contextmanager
def _offline() -> Iterator[None]:
    """Keep `datasets` from the hub, while it opens a folder."""
    import datasets
    import huggingface_hub.constants

    switches: tuple[Any, ...] = (datasets.config, huggingface_hub.constants)
    before = [switch.HF_HUB_OFFLINE for switch in switches]
    try:
        for switch in switches:
            switch.HF_HUB_OFFLINE = True
        yield
    finally:
        for switch, was in zip(switches, before, strict=True):
            switch.HF_HUB_OFFLINE = was


@contextlib.contextmanager
def _explained(name: str) -> Iterator[None]:
    """Say what to ask for, where `datasets` finds none such, and what we refused inside it."""
    import datasets

    try:
        yield
    except datasets.exceptions.DatasetGenerationError as error:
        if isinstance(error.__cause__, RefusedError):
            raise error.__cause__ from None
        raise
    except (FileNotFoundError, ConnectionError) as error:
        if pathlib.Path(name).is_dir():
            raise
        raise UsageError(f"expected a data set that can be opened, got hf:{name}") from error
    except ValueError as error:
        if "config" not in str(error).lower():
            raise
        raise UsageError(
            f"expected a configuration of hf:{name}, as in hf:{name}@NAME: {error}"
        ) from error


def _arrow_files(folder: pathlib.Path) -> list[str]:
    return [name for name in listing(folder, folder)[1] if name.endswith(".arrow")]


def _check_settings(folder: pathlib.Path) -> None:
    """Check, before `datasets` follows them, that the settings of a folder name files in it."""
    from huggingface_hub.repocard import REGEX_YAML_BLOCK

    names = set(walk(folder, folder))
    for name in names & {"README.md", ".huggingface.yaml"}:
        text = read_bounded(folder / name, _MAX_SETTINGS)
        with refusing(folder / name, yaml.YAMLError):
            said = text.decode("utf-8-sig")
            if name == "README.md":
                found = REGEX_YAML_BLOCK.search(said)
                said = found[2] if found else ""
            settings = yaml.safe_load(said) or {}
            if _written_out(settings, {}) > _MAX_SETTINGS:
                raise RefusedError(f"expected settings of at most {_MAX_SETTINGS} parts in {name}")
            outside = [p for p in _texts(settings.get("configs")) if _leads_out(p)]
        if outside:
            raise RefusedError(f"expected files of {folder} itself in {name}, got {outside[0]!r}")


def _written_out(settings: Any, known: dict[int, int]) -> int:
    """Count the parts of settings, once for every alias that YAML has for them."""
    if not isinstance(settings, dict | list):
        return 1
    if id(settings) not in known:
        known[id(settings)] = _MAX_SETTINGS + 1  # where they contain themselves
        parts = settings.values() if isinstance(settings, dict) else settings
        known[id(settings)] = 1 + sum(_written_out(part, known) for part in parts)
    return known[id(settings)]


def _texts(settings: Any) -> Iterator[str]:
    if isinstance(settings, str):
        yield settings
    elif isinstance(settings, dict | list):
        for part in settings.values() if isinstance(settings, dict) else settings:
            yield from _texts(part)


def _leads_out(pattern: str) -> bool:
    """Whether a pattern is absolute, climbs, or is an address or a chain of them."""
    path = pathlib.PurePosixPath(pattern)
    return path.is_absolute() or ".." in path.parts or ":" in pattern


def _check(builder: Any, name: str) -> None:
    """Check that a data set has no code and takes no files from elsewhere."""
    kind = type(builder).__module__.split(".")
    if kind[:2] != ["datasets", "packaged_modules"] or kind[2] not in _BUILDERS:
        raise RefusedError(
            f"expected hf:{name} to hold {sorted(_BUILDERS)}, got {kind[-1]}; convert it to parquet"
        )
    folder = pathlib.Path(name)
    for files in (builder.config.data_files or {}).values():
        for file in files:
            local = folder.is_dir() and _inside(pathlib.Path(file), folder)
            if not (local or file.startswith(f"hf://datasets/{name}@")):
                raise RefusedError(f"expected files of hf:{name} itself, got {file}")
            if pathlib.PurePath(file).suffix.lower() not in _SUFFIXES:
                raise RefusedError(f"expected files {sorted(_SUFFIXES)} in hf:{name}, got {file}")


def _check_packed(builder: Any) -> None:
    """Check files of a folder: `datasets` unpacks whatever is in them, and as much as it is."""
    for file in _files(builder):
        suffix = file.suffix.lower()
        if suffix == ".parquet":
            only = getattr(builder.config, "columns", None)
            if type(builder).__module__.split(".")[2] == "parquet":
                check_parquet(file, Reading(), only)
            check_rows(file, Reading(), only)
        elif suffix not in SUFFIXES | {".arrow"}:
            packed = _packing(file)
            if packed is not None:
                raise RefusedError(f"expected text in {file}, got {packed}; unpack it")


def _packing(file: pathlib.Path) -> str | None:
    from datasets.utils.extract import Extractor

    with file.open("rb") as opened:
        start = opened.read(8)
    found = next((form for magic, form in _PACKED.items() if start.startswith(magic)), None)
    if found is None and start[:2] not in _WIDE and start[1:5].count(0) > 1:
        return "lzma or other bytes"
    # last, since it unpacks the first header of what is a tar archive inside
    return found or Extractor.infer_extractor_format(file)


def _bound(builder: Any, name: str) -> None:
    """Bound what `datasets` converts files to: it writes all of that to disk."""
    generate = getattr(builder, "_generate_tables", None)
    if generate is None:  # image folders, whose rows name the files
        return
    packed = sum(file.stat().st_size for file in _files(builder))

    def bounded(*given: Any, **named: Any) -> Iterator[tuple[Any, pa.Table]]:
        unpacked = 0
        for key, table in generate(*given, **named):
            unpacked += table.nbytes
            check_unpacked(unpacked, packed, Reading(), f"hf:{name}")
            yield key, table

    builder._generate_tables = bounded  # noqa: SLF001


def _files(builder: Any) -> list[pathlib.Path]:
    return [pathlib.Path(f) for files in builder.config.data_files.values() for f in files]


def _inside(path: pathlib.Path, folder: pathlib.Path) -> bool:
    return path.resolve().is_relative_to(folder.resolve())


def _batches(table: "Dataset", name: str) -> Iterator[pa.RecordBatch]:
    parts = table.with_format("arrow").iter(_BATCH)
    batches = (batch for part in parts for batch in part.combine_chunks().to_batches())
    for batch in refused(batches, f"hf:{name}"):
        yield _embedded(batch, name)


def _check_files(table: "Dataset", name: str) -> None:
    """Check that nothing names a file elsewhere, before `datasets` puts what is named into a copy.

    Raises:
        RefusedError: a row does, or a column could in parts that are not looked into.
    """
    for field in table.data.schema:
        inner = [field.type.field(place).type for place in range(field.type.num_fields)]
        if any(_holds_files(each) for each in inner):
            raise RefusedError(
                f"expected images of hf:{name} in columns of their own, got them inside "
                f"{field.name!r}"
            )
    for _ in _batches(table, name):
        pass


def _holds_files(kind: pa.DataType) -> bool:
    inner = [kind.field(place) for place in range(kind.num_fields)]
    return "path" in {field.name for field in inner} or any(_holds_files(f.type) for f in inner)


def _embedded(batch: pa.RecordBatch, name: str) -> pa.RecordBatch:
    """Put images that lie beside the table into it."""
    for place, field in enumerate(batch.schema):
        if pa.types.is_struct(field.type) and {f.name for f in field.type} == {"bytes", "path"}:
            images = [_image(image, name) for image in batch.column(place).to_pylist()]
            batch = batch.set_column(place, field, pa.array(images, type=field.type))
    return batch


def _image(image: dict[str, Any] | None, name: str) -> dict[str, Any]:
    if image is None:
        raise RefusedError(f"expected an image in every row of hf:{name}, got none")
    if image["bytes"] is not None or image["path"] is None:
        return image
    path = pathlib.Path(image["path"])
    if not _inside(path, _home(name)):
        raise RefusedError(f"expected images of hf:{name} itself, got {path}")
    return {"bytes": read_bounded(path, MAX_ENCODED), "path": path.name}


def _home(name: str) -> pathlib.Path:
    """Where the files of a data set may lie: its own folder, or the download cache."""
    import huggingface_hub.constants

    folder = pathlib.Path(_named(name)[0])
    return folder if folder.is_dir() else pathlib.Path(huggingface_hub.constants.HF_HUB_CACHE)
