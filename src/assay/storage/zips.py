"""Zip archives of a party that is not trusted: nothing is unpacked before its sizes are checked."""

import pathlib
import struct
import zipfile

from assay.errors import RefusedError

from .files import existing, refusing
from .rows import OpenFile

MAX_MEMBERS = 100_000
MAX_RATIO = 200
"""How often larger than its packed form a member may be, once it is large."""

_LARGE = 64 * 2**20
_KNOWN = {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}


def members(path: pathlib.Path, max_mb: int) -> dict[str, zipfile.ZipInfo]:
    """List the members of an archive whose declared sizes are sane.

    `zipfile` never unpacks more than a member declares, so checking the declaration bounds what
    reading may cost.

    Raises:
        RefusedError: not a zip archive; too many, repeated, encrypted, oversized or unusually
            compressible members; or names that lead out of the archive.
    """
    with refusing(path), zipfile.ZipFile(existing(path)) as archive:
        infos = archive.infolist()
    names = [info.filename for info in infos]
    if len(infos) > MAX_MEMBERS or len(set(names)) != len(names):
        raise RefusedError(f"expected at most {MAX_MEMBERS} different members in {path}")
    total = sum(info.file_size for info in infos)
    if total > max_mb * 2**20:
        raise RefusedError(f"expected at most {max_mb} MB unpacked in {path}, got {total >> 20} MB")
    for info in infos:
        _check(info, path)
    return {info.filename: info for info in infos}


def _check(info: zipfile.ZipInfo, path: pathlib.Path) -> None:
    name = pathlib.PurePosixPath(info.filename)
    if name.is_absolute() or ".." in name.parts or not info.filename.isprintable():
        raise RefusedError(f"expected plain member names in {path}, got {info.filename!r}")
    if info.flag_bits & 1 or info.compress_type not in _KNOWN:
        raise RefusedError(f"expected stored or deflated members in {path}: {info.filename}")
    if info.file_size > _LARGE and info.file_size > MAX_RATIO * info.compress_size:
        raise RefusedError(
            f"expected members at most {MAX_RATIO} times their packed size in {path}, "
            f"got {info.filename} with {info.file_size} bytes from {info.compress_size}"
        )
    if info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
        raise RefusedError(f"{path} declares two sizes for the stored member {info.filename}")


def stored_at(file: OpenFile, info: zipfile.ZipInfo) -> int:
    """Where the content of a stored member starts in the archive, in bytes.

    Raises:
        RefusedError: the archive is broken there, or the member does not fit into it.
    """
    header = file.read(info.header_offset, 30)
    if header[:4] != b"PK\3\4":
        raise RefusedError(f"{file.name} is broken at member {info.filename}")
    name, extra = struct.unpack("<HH", header[26:30])
    start = info.header_offset + 30 + name + extra
    if start + info.file_size > file.size:
        raise RefusedError(f"{file.name} is truncated in member {info.filename}")
    return int(start)
