"""A mailbox is a folder at any URL that fsspec opens, written by two who distrust each other.

```text
bundles/ID/   start.safetensors  order.safetensors  bundle.json  manifest.json   by the client
bundles/ID/withdrawn                                                             by the client
claims/ID/    0001  0001.beat  0002 ...                                          by workers
results/ID/   0001/weights.safetensors  0001/log.jsonl  manifest.json            by a worker
```

A manifest is written last, names the digest and the size of every part, and is signed: what has no
manifest is not there yet. Nothing is renamed, so object stores serve. They must show an object
whole or not at all, as S3 does; for local folders this module sees to it.
"""

import contextlib
import datetime
import errno
import functools
import hashlib
import io
import os
import pathlib
import secrets
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import fsspec

from assay.errors import AssayError, MissingExtraError, RefusedError, UsageError
from assay.records import record

_BLOCK = 2**22
_LOCAL = {"file", "local"}
_MAX_NAMES = 100_000


class UnreachableError(AssayError):
    """The place where a mailbox lies does not answer now; later it may."""


class LinkedError(UnreachableError, RefusedError):
    """A link lies on the way, which could lead a party's reads and writes to its own files."""


@record
class Fetched:
    """What was copied from a mailbox."""

    size: int
    """Bytes."""
    sha256: str


class Mailbox:
    """Reads with a bound, writes whole. Places are paths below the mailbox, such as `bundles/a`.

    Every method raises UnreachableError where the storage fails, and where a link is in the way.
    """

    def __init__(self, url: str) -> None:
        """Open the mailbox at a URL; credentials come from fsspec's own configuration.

        Raises:
            UsageError: no storage is known by this kind of URL.
            MissingExtraError: the library for it is not installed.
        """
        self.url = url
        try:
            storage, root = fsspec.url_to_fs(url)
        except ValueError as error:
            raise UsageError(f"expected a folder or a URL like s3://..., got {url!r}") from error
        except ImportError as error:
            if url.startswith("s3:"):
                raise MissingExtraError("s3") from error
            raise UsageError(
                f"expected a URL whose library is installed, got {url!r}: {error}"
            ) from error
        kinds = {storage.protocol} if isinstance(storage.protocol, str) else {*storage.protocol}
        self._storage: _Folders | _Objects
        self._storage = _Folders(root) if kinds & _LOCAL else _Objects(storage, root)

    def names(self, place: str) -> list[str]:
        """List what lies directly at a place, in alphabetical order; nothing where it is not.

        Raises:
            RefusedError: there is too much.
        """
        with _reaching(self.url):
            try:
                found = self._storage.names(place)
            except (FileNotFoundError, NotADirectoryError):
                return []
        if len(found) > _MAX_NAMES:
            raise RefusedError(f"expected at most {_MAX_NAMES} entries in {place} of {self.url}")
        return sorted({*found} - {""})

    def exists(self, place: str) -> bool:
        """Tell whether there is a file at a place."""
        return self._size(place) is not None

    def read(self, place: str, most: int) -> bytes | None:
        """Read a whole file, or return None where there is none.

        Raises:
            RefusedError: it has more than `most` bytes, or is no regular file.
        """
        if self._size(place) is None:
            return None
        try:
            return b"".join(self._blocks(place, most))
        except FileNotFoundError:
            return None

    def fetch(self, place: str, target: pathlib.Path, most: int) -> Fetched | None:
        """Copy a file of at most `most` bytes; None where there is none.

        Raises:
            RefusedError: it has more bytes, or is no regular file.
        """
        if self._size(place) is None:
            return None
        whole, size = hashlib.sha256(), 0
        with target.open("wb") as file:
            try:
                for block in self._blocks(place, most):
                    whole.update(block)
                    size += len(block)
                    file.write(block)
            except FileNotFoundError:
                return None
        return Fetched(size=size, sha256=whole.hexdigest())

    def put(self, place: str, source: pathlib.Path) -> None:
        """Copy a file to a place; only a manifest makes it count."""
        with _reaching(self.url):
            self._storage.put(place, source)

    def create(self, place: str, content: bytes) -> bool:
        """Write a file whole, unless there is one: of several who try at once, one succeeds.

        Returns:
            Whether this call wrote it.
        """
        with _reaching(self.url):
            try:
                self._storage.create(place, content)
            except FileExistsError:
                return False
        return True

    def replace(self, place: str, content: bytes) -> None:
        """Write a small file whole, over the one that is there."""
        with _reaching(self.url):
            self._storage.replace(place, content)

    def modified(self, place: str) -> datetime.datetime | None:
        """Tell when the storage says that a file was written, where it says so."""
        with _reaching(self.url):
            try:
                return self._storage.modified(place)
            except (NotImplementedError, FileNotFoundError, NotADirectoryError):
                return None
            except LinkedError:  # a ValueError too
                raise
            except (ValueError, OverflowError):
                return None  # the file says that it is of another age

    def _size(self, place: str) -> int | None:
        with _reaching(self.url):
            try:
                return self._storage.size(place)
            except (FileNotFoundError, NotADirectoryError):
                return None

    def _blocks(self, place: str, most: int) -> Iterator[bytes]:
        size = self._size(place) or 0
        if size > most:
            raise RefusedError(f"expected at most {most} bytes in {place}, it has {size}")
        left = most
        with _reaching(self.url, FileNotFoundError), self._storage.open(place) as file:
            while block := file.read(min(_BLOCK, left + 1)):
                left -= len(block)
                if left < 0:
                    raise RefusedError(f"expected at most {most} bytes in {place}, got more")
                yield block


class _reaching:  # noqa: N801  used as a statement, as contextlib's are
    """Turn what a storage raises when it does not answer into one error of ours."""

    def __init__(self, url: str, *through: type[OSError]) -> None:
        """Name the storage, and errors that mean something to the caller."""
        self._url = url
        self._through = through

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is None or issubclass(kind, self._through):
            return
        boto = sys.modules.get("botocore.exceptions")
        known = (OSError, *((boto.BotoCoreError,) if boto else ()))
        if issubclass(kind, known):
            raise UnreachableError(f"{self._url} cannot be reached: {error!r}")


class _Objects:
    """A mailbox in a storage of fsspec's."""

    def __init__(self, storage: Any, root: str) -> None:
        self._storage = storage
        self._root = root.rstrip("/")

    def names(self, place: str) -> list[str]:
        self._storage.invalidate_cache()
        found = self._storage.ls(f"{self._root}/{place}", detail=False)
        return [path.rstrip("/").rpartition("/")[2] for path in found]

    def size(self, place: str) -> int | None:
        """Tell how large a file is; None for a folder."""
        self._storage.invalidate_cache()
        found = self._storage.info(f"{self._root}/{place}")
        return None if found["type"] == "directory" else int(found["size"] or 0)

    def open(self, place: str) -> Any:
        return self._storage.open(f"{self._root}/{place}", "rb")

    def put(self, place: str, source: pathlib.Path) -> None:
        self._storage.put_file(str(source), self._made(place))

    def create(self, place: str, content: bytes) -> None:
        self._storage.pipe_file(self._made(place), content, mode="create")

    def replace(self, place: str, content: bytes) -> None:
        self._storage.pipe_file(self._made(place), content)

    def modified(self, place: str) -> datetime.datetime:
        return self._storage.modified(f"{self._root}/{place}")

    def _made(self, place: str) -> str:
        """Say where a place lies, and make its folder where the storage has such."""
        path = f"{self._root}/{place}"
        self._storage.makedirs(path.rpartition("/")[0], exist_ok=True)
        return path


class _Folders:
    """A mailbox in a local folder, where the other party may put and swap anything at any time.

    So folders are opened one in the other, never through a link, and everything is done by the
    descriptor of the last one: what is swapped after that leads nowhere else.
    """

    def __init__(self, root: str) -> None:
        self._root = pathlib.Path(root)

    def names(self, place: str) -> list[str]:
        with self._folder(f"{place}/") as (folder, _), os.scandir(folder) as entries:
            return [entry.name for entry in entries]

    def size(self, place: str) -> int | None:
        """Tell how large a file is; None for a folder."""
        found = self._stat(place)
        return None if stat.S_ISDIR(found.st_mode) else found.st_size

    def open(self, place: str) -> BinaryIO:
        """Open a file to read.

        Raises:
            RefusedError: it is a link, a pipe or a device.
        """
        with self._folder(place) as (folder, name):
            if not stat.S_ISREG(os.lstat(name, dir_fd=folder).st_mode):
                path = self._root / place
                raise RefusedError(f"expected a regular file, got a link or a special file: {path}")
            handle = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=folder)
        return os.fdopen(handle, "rb")

    def put(self, place: str, source: pathlib.Path) -> None:
        with source.open("rb") as file:
            self._write(place, file, os.replace)

    def create(self, place: str, content: bytes) -> None:
        link = functools.partial(os.link, follow_symlinks=False)
        self._write(place, io.BytesIO(content), link)

    def replace(self, place: str, content: bytes) -> None:
        self._write(place, io.BytesIO(content), os.replace)

    def modified(self, place: str) -> datetime.datetime:
        return datetime.datetime.fromtimestamp(self._stat(place).st_mtime, datetime.UTC)

    def _stat(self, place: str) -> os.stat_result:
        with self._folder(place) as (folder, name):
            return os.stat(name, dir_fd=folder, follow_symlinks=False)

    def _write(self, place: str, content: io.BufferedIOBase, settle: Callable[..., None]) -> None:
        """Write a file whole under a name of its own, and settle it where it is to be."""
        self._root.mkdir(parents=True, exist_ok=True)
        with self._folder(place, make=True) as (folder, name):
            made = f".{name}.{secrets.token_hex(8)}.tmp"
            opener = functools.partial(os.open, mode=0o666, dir_fd=folder)
            with open(made, "xb", opener=opener) as file:  # never through a link
                shutil.copyfileobj(content, file, _BLOCK)
                file.flush()
                os.fsync(file.fileno())
            try:
                settle(made, name, src_dir_fd=folder, dst_dir_fd=folder)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(made, dir_fd=folder)

    @contextlib.contextmanager
    def _folder(self, place: str, *, make: bool = False) -> Iterator[tuple[int, str]]:
        """Open the folder of a place; gives its descriptor, and the name of the place in it.

        Raises:
            LinkedError: a folder below the mailbox is a link.
        """
        *names, last = place.split("/")
        folder, path = os.open(self._root, os.O_RDONLY | os.O_DIRECTORY), self._root
        try:
            for name in names:
                path /= name
                if make:
                    with contextlib.suppress(FileExistsError):
                        os.mkdir(name, dir_fd=folder)
                above, folder = folder, _entered(name, folder, path)
                os.close(above)
            yield folder, last
        finally:
            os.close(folder)


def _entered(name: str, folder: int, path: pathlib.Path) -> int:
    """Open a folder in a folder."""
    try:
        return os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW, dir_fd=folder)
    except OSError as error:  # which error stands for a link differs between systems
        is_odd = error.errno in {errno.ENOTDIR, errno.ELOOP}
        if is_odd and stat.S_ISLNK(os.lstat(name, dir_fd=folder).st_mode):
            raise LinkedError(f"expected a folder in the mailbox, got a link: {path}") from error
        raise
