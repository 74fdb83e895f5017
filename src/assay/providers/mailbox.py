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

import datetime
import hashlib
import io
import os
import pathlib
import secrets
import shutil
import stat
import sys
from collections.abc import Iterator
from typing import Any

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
            self._storage, self._root = fsspec.url_to_fs(url)
        except ValueError as error:
            raise UsageError(f"expected a folder or a URL like s3://..., got {url!r}") from error
        except ImportError as error:
            if url.startswith("s3:"):
                raise MissingExtraError("s3") from error
            raise UsageError(
                f"expected a URL whose library is installed, got {url!r}: {error}"
            ) from error
        protocol = self._storage.protocol
        kinds = {protocol} if isinstance(protocol, str) else {*protocol}
        self._is_local = bool(kinds & _LOCAL)

    def names(self, place: str) -> list[str]:
        """List what lies directly at a place, in alphabetical order; nothing where it is not.

        Raises:
            RefusedError: there is too much.
        """
        path = self._path(f"{place}/").rstrip("/")
        with _reaching(self.url):
            self._storage.invalidate_cache()
            try:
                found = self._storage.ls(path, detail=False)
            except (FileNotFoundError, NotADirectoryError):
                return []
        if len(found) > _MAX_NAMES:
            raise RefusedError(f"expected at most {_MAX_NAMES} entries in {place} of {self.url}")
        return sorted({path.rstrip("/").rpartition("/")[2] for path in found} - {""})

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
        path = self._path(place)
        with _reaching(self.url):
            self._storage.makedirs(path.rpartition("/")[0], exist_ok=True)
            if self._is_local:
                with source.open("rb") as file:
                    _temporary(pathlib.Path(path), file).replace(path)
            else:
                self._storage.put_file(str(source), path)

    def create(self, place: str, content: bytes) -> bool:
        """Write a file whole, unless there is one: of several who try at once, one succeeds.

        Returns:
            Whether this call wrote it.
        """
        path = self._path(place)
        with _reaching(self.url):
            self._storage.makedirs(path.rpartition("/")[0], exist_ok=True)
            try:
                if self._is_local:
                    _link_whole(pathlib.Path(path), content)
                else:
                    self._storage.pipe_file(path, content, mode="create")
            except FileExistsError:
                return False
        return True

    def replace(self, place: str, content: bytes) -> None:
        """Write a small file whole, over the one that is there."""
        path = self._path(place)
        with _reaching(self.url):
            self._storage.makedirs(path.rpartition("/")[0], exist_ok=True)
            if self._is_local:
                _temporary(pathlib.Path(path), io.BytesIO(content)).replace(path)
            else:
                self._storage.pipe_file(path, content)

    def modified(self, place: str) -> datetime.datetime | None:
        """Tell when the storage says that a file was written, where it says so."""
        with _reaching(self.url):
            try:
                return self._storage.modified(self._path(place))
            except (NotImplementedError, FileNotFoundError, ValueError, OverflowError):
                return None  # the last two where a file says that it is of another age

    def _path(self, place: str) -> str:
        """Say where a place lies in the storage.

        Raises:
            LinkedError: a folder below the mailbox is a link.
        """
        root = self._root.rstrip("/")
        if self._is_local:
            folder = pathlib.Path(root)
            for name in place.split("/")[:-1]:
                folder /= name
                if folder.is_symlink():
                    raise LinkedError(f"expected a folder in the mailbox, got a link: {folder}")
        return f"{root}/{place}"

    def _size(self, place: str) -> int | None:
        with _reaching(self.url):
            self._storage.invalidate_cache()
            try:
                found = self._storage.info(self._path(place))
            except FileNotFoundError:
                return None
        if found["type"] == "directory":
            return None
        return int(found["size"] or 0)

    def _blocks(self, place: str, most: int) -> Iterator[bytes]:
        size = self._size(place) or 0
        if size > most:
            raise RefusedError(f"expected at most {most} bytes in {place}, it has {size}")
        left = most
        with _reaching(self.url), self._opened(place) as file:
            while block := file.read(min(_BLOCK, left + 1)):
                left -= len(block)
                if left < 0:
                    raise RefusedError(f"expected at most {most} bytes in {place}, got more")
                yield block

    def _opened(self, place: str) -> Any:
        path = self._path(place)
        return _open_regular(path) if self._is_local else self._storage.open(path, "rb")


class _reaching:  # noqa: N801  used as a statement, as contextlib's are
    """Turn what a storage raises when it does not answer into one error of ours."""

    def __init__(self, url: str) -> None:
        self._url = url

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: object, trace: object) -> None:
        if kind is None or issubclass(kind, FileNotFoundError | FileExistsError):
            return
        boto = sys.modules.get("botocore.exceptions")
        known = (OSError, *((boto.BotoCoreError,) if boto else ()))
        if issubclass(kind, known):
            raise UnreachableError(f"{self._url} cannot be reached: {error!r}")


def _open_regular(path: str) -> Any:
    """Open a file of a shared folder, where the other party may have put anything.

    Raises:
        RefusedError: it is a link, a pipe or a device.
    """
    if not stat.S_ISREG(os.lstat(path).st_mode):
        raise RefusedError(f"expected a regular file, got a link or a special file: {path}")
    handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    return os.fdopen(handle, "rb")


def _temporary(path: pathlib.Path, content: io.BufferedIOBase) -> pathlib.Path:
    made = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    with made.open("xb") as file:  # never through a link
        shutil.copyfileobj(content, file, _BLOCK)
        file.flush()
        os.fsync(file.fileno())
    return made


def _link_whole(path: pathlib.Path, content: bytes) -> None:
    temporary = _temporary(path, io.BytesIO(content))
    try:
        os.link(temporary, path)
    finally:
        temporary.unlink()
