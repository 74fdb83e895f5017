"""Class names: one a line of text, or a JSON list."""

import json
import pathlib

from assay.errors import InputError

from .files import existing, read_bounded, refusing
from .found import check_names

_MAX_BYTES = 2**22
_MAX_CLASSES = 100_000


def read_class_names(source: str) -> tuple[str, ...]:
    """Read the names of classes, in order.

    Args:
        source: a `.txt` with a name a line, or a `.json` with a list of names.

    Raises:
        UsageError: there is no such file.
        InputError: another form of file, or fewer than two names.
        RefusedError: a broken or oversized file, names that cannot be printed, or one twice.
    """
    path = existing(pathlib.Path(source))
    if not path.is_file() or path.suffix not in {".txt", ".json"}:
        raise InputError(
            f"expected class names as a .txt with one a line, or a .json with a list, got {source}"
        )
    with refusing(path):
        text = read_bounded(path, _MAX_BYTES).decode("utf-8-sig")
        found = json.loads(text) if path.suffix == ".json" else text.splitlines()
    if not isinstance(found, list) or not all(isinstance(name, str) for name in found):
        raise InputError(f"expected a list of names in {path}")
    names = tuple(name.strip() for name in found if name.strip())
    if not 2 <= len(names) <= _MAX_CLASSES:
        raise InputError(f"expected 2 to {_MAX_CLASSES} class names in {path}, got {len(names)}")
    check_names(names, path)
    return names
