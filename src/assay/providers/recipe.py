"""What providers are asked to execute: code by its digest, and how it is called."""

import pathlib
import re
from collections.abc import Mapping
from typing import Any

from assay.errors import InputError
from assay.records import record
from assay.storage.files import digest_path

_CALLABLE = re.compile(r"[A-Za-z_][\w.]*:[A-Za-z_]\w*")
_FILE = re.compile(r"[\w-][\w.-]*(/[\w-][\w.-]*)*")


@record
class Recipe:
    """The training code: a callable, or a command."""

    code: str | None
    """`package.module:train_steps`, or None where there is a command."""
    command: tuple[str, ...]
    """Program and arguments, or nothing where there is a callable."""
    files: Mapping[str, str]
    """SHA-256 of each code file, by its path relative to the folder of the code."""

    def document(self) -> dict[str, Any]:
        """Lay it out."""
        return {"code": self.code, "command": list(self.command), "files": dict(self.files)}

    def changed(self, folder: pathlib.Path) -> list[str]:
        """List the code files that are missing in a folder, or hold something else."""
        return [
            name
            for name, digest in sorted(self.files.items())
            if not (folder / name).is_file() or digest_path(folder / name) != digest
        ]


def parse_recipe(document: Mapping[str, Any]) -> Recipe:
    """Undo `document`, and check what was sent.

    Raises:
        InputError: it is not exactly one of a callable in a listed file and a command.
    """
    code, command, files = document.get("code"), document.get("command"), document.get("files")
    if not isinstance(files, Mapping) or not all(
        isinstance(name, str) and _FILE.fullmatch(name) and isinstance(digest, str)
        for name, digest in files.items()
    ):
        raise InputError(f"expected code files as relative paths with their digests, got {files!r}")
    if code is not None and not (isinstance(code, str) and _CALLABLE.fullmatch(code)):
        raise InputError(f"expected code as package.module:train_steps, got {code!r}")
    if not isinstance(command or [], list) or not all(isinstance(w, str) for w in command or []):
        raise InputError(f"expected command as a list of words, got {command!r}")
    if (code is None) == (not command):
        raise InputError("expected either code: package.module:train_steps or command: [...]")
    if code is not None and not {*places_of(code)} & files.keys():
        raise InputError(
            f"expected the file of {code} among the code files, as {' or '.join(places_of(code))}, "
            f"got {sorted(files)}"
        )
    return Recipe(code=code, command=tuple(command or ()), files=dict(files))


def places_of(code: str) -> tuple[str, str]:
    """Name the two files that a callable's module may lie in."""
    module = code.partition(":")[0].replace(".", "/")
    return f"{module}.py", f"{module}/__init__.py"
