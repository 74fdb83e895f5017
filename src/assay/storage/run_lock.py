"""One process at a time works in a run folder."""

import errno
import fcntl
import os
import pathlib
import time

from assay.errors import UsageError

LOCK = "lock"
"""The file that is locked; it holds the number of the last process that did."""

_WAIT_S = 0.5
"""Longer than a look at the lock takes (`is_locked`), shorter than a person notices."""


def take_lock(path: pathlib.Path) -> int:
    """Lock a run; the system frees the lock when the process ends, however it ends.

    Returns:
        A file handle; closing it frees the lock.

    Raises:
        UsageError: another process holds the lock, or a symbolic link lies in its place.
    """
    try:
        handle = os.open(path / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise UsageError(
            f"expected a file at {path / LOCK}, got a symbolic link, which no run makes: find out "
            "who put it there, and remove it"
        ) from error
    deadline = time.monotonic() + _WAIT_S
    while not _try_lock(handle, fcntl.LOCK_EX):
        if time.monotonic() > deadline:
            holder = os.pread(handle, 20, 0).decode(errors="replace").strip()
            os.close(handle)
            raise UsageError(
                f"process {holder or 'unknown'} works in {path}: "
                "wait for it, or choose another folder"
            )
        time.sleep(_WAIT_S / 20)
    os.ftruncate(handle, 0)
    os.pwrite(handle, f"{os.getpid()}\n".encode(), 0)
    return handle


def _try_lock(handle: int, kind: int) -> bool:
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_locked(path: pathlib.Path) -> bool:
    """Say whether a process works in a run; behind a symbolic link none does."""
    try:
        handle = os.open(path / LOCK, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ELOOP}:
            raise
        return False
    try:
        return not _try_lock(handle, fcntl.LOCK_SH)
    finally:
        os.close(handle)
