"""Paths and files of a party that is not trusted: listed, bounded, hashed, and written anew."""

import contextlib
import hashlib
import os
import pathlib
import shutil
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator

from assay.errors import AssayError, InputError, RefusedError, UsageError

MAX_FILES = 2_000_000
"""How many files a folder may hold."""

_BROKEN = (
    *(OSError, EOFError, ValueError, LookupError, TypeError, OverflowError, SyntaxError),
    *(AttributeError, NotImplementedError, RecursionError, MemoryError),
    *(struct.error, zlib.error, zipfile.BadZipFile),
)


@contextlib.contextmanager
def refusing(where: object, *more: type[Exception]) -> Iterator[None]:
    """Turn what parsers raise on broken content, and `more`, into a refusal.

    Only for a few lines that hand content of an audited party to a parser.

    Raises:
        RefusedError: the parser failed.
    """
    try:
        yield
    except AssayError:
        raise
    except _BROKEN + more as error:
        raise RefusedError(
            f"{where} is broken or truncated: {type(error).__name__}: {error}"
        ) from error


def existing(path: pathlib.Path) -> pathlib.Path:
    """Return `path`, which must be a regular file or a folder.

    Raises:
        UsageError: there is nothing at this path.
        RefusedError: it is a device, a pipe or a socket.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError) as error:
        raise UsageError(f"expected a file or a folder at {str(path)!r}: {error}") from error
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        raise RefusedError(f"expected a regular file or a folder, got a special file: {path}")
    return path


def listing(
    folder: pathlib.Path, root: pathlib.Path, *, hidden: bool = False
) -> tuple[list[str], list[str]]:
    """Names of the folders and of the files in `folder`, each in alphabetical order.

    Args:
        folder: what to list.
        root: what symbolic links must not leave.
        hidden: whether names that start with a dot are listed too.

    Raises:
        RefusedError: too many entries, a name that is not printable text, a special file, or a
            symbolic link to a folder or to anything outside `root`.
    """
    folders: list[str] = []
    files: list[str] = []
    with os.scandir(folder) as entries:
        for count, entry in enumerate(entries):
            if count >= MAX_FILES:
                raise RefusedError(f"expected at most {MAX_FILES} entries in {folder}, got more")
            if entry.name.startswith(".") and not hidden:
                continue
            (folders if _is_folder(entry, root) else files).append(entry.name)
    return sorted(folders), sorted(files)


def _is_folder(entry: os.DirEntry[str], root: pathlib.Path) -> bool:
    if not entry.name.isprintable():
        raise RefusedError(f"expected printable file names, got {entry.name!r}")
    if entry.is_symlink():
        with refusing(entry.path, RuntimeError):  # a loop of links
            inside = pathlib.Path(entry.path).resolve().is_relative_to(root.resolve())
        if not inside or not entry.is_file():
            raise RefusedError(
                f"expected no links to folders or to files outside {root}, got {entry.path}"
            )
    if not (entry.is_file() or entry.is_dir()):
        raise RefusedError(f"expected files and folders, got a special file: {entry.path}")
    return entry.is_dir()


def read_bounded(path: pathlib.Path, most: int) -> bytes:
    """Read a whole file of at most `most` bytes.

    Raises:
        RefusedError: the file is larger.
    """
    with existing(path).open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise RefusedError(f"expected at most {most} bytes in {path}, got more")
    return content


def digest_path(path: pathlib.Path) -> str:
    """SHA-256 of a file's content, or of a folder's sorted relative names and contents.

    Returns:
        64 hexadecimal digits.
    """
    if existing(path).is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    whole = hashlib.sha256()
    for name in sorted(walk(path, path)):
        whole.update(f"{digest_path(path / name)} {name}\n".encode())
    return whole.hexdigest()


def walk(folder: pathlib.Path, root: pathlib.Path) -> Iterator[str]:
    """Yield the names of all files in a folder and its folders, relative to `root`.

    Raises:
        RefusedError: as for `listing`.
    """
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        folders, files = listing(here, root, hidden=True)
        yield from ((here / name).relative_to(root).as_posix() for name in files)
        waiting += [here / name for name in reversed(folders)]


@contextlib.contextmanager
def fresh(out: pathlib.Path) -> Iterator[pathlib.Path]:
    """Yield a path beside `out` to write a file or a folder to; it becomes `out` at the end.

    Raises:
        InputError: `out` exists already, or its folder does not.
    """
    if os.path.lexists(out):
        raise InputError(f"expected a path that does not exist yet, got {out}")
    if not out.parent.is_dir():
        raise InputError(f"expected an existing folder to write into, got {out.parent}")
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as work:
        partial = pathlib.Path(work) / out.name
        yield partial
        if os.path.lexists(out):
            raise InputError(f"expected a path that does not exist yet, got {out}")
        partial.rename(out)


def copy(source: pathlib.Path, target: pathlib.Path) -> None:
    """Copy the content of a file, and make the folders that it needs."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)
