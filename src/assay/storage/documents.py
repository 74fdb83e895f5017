"""JSON that loses nothing, and files that are on disk whole or not at all."""

import json
import math
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from assay.errors import InputError
from assay.results import Cost, Findings, Subject, Verdict

FINDINGS_SCHEMA = "assay/findings/v1"
TEMPORARY = ".tmp"
"""How the names of files end that are still being written."""

_FLOAT = "$float"
"""JSON has no NaN and no infinity: they are written as {"$float": "nan"}."""
_DEEPEST = 128
"""Lists and maps in each other: what others wrote is not to exhaust the stack."""


def encode(value: object, where: str = "value") -> Any:
    """Turn a value into what strict JSON can hold, so that `decode` gives it back.

    Args:
        value: None, numbers, strings, and lists and maps of these; tuples become lists.
        where: what the value is called in an error.

    Returns:
        The same value, where numbers that JSON does not know are maps `{"$float": "nan"}`, and
        keys that start with `$` start with one more.

    Raises:
        InputError: a key is not a string, or a value is of another type.
    """
    try:
        return _encode(value)
    except _UnencodableError as error:
        place = where + "".join(reversed(error.path))
        raise InputError(f"expected {error.wanted} in {place}, got {error.got}") from None


class _UnencodableError(Exception):
    """Collects on its way out where the value is: saying so for each value takes longer than it."""

    def __init__(self, wanted: str, got: str) -> None:
        super().__init__(got)
        self.wanted, self.got, self.path = wanted, got, list[str]()


def _encode(value: object) -> Any:
    if value is None or isinstance(value, str | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else {_FLOAT: repr(float(value))}
    at: object = None
    try:
        if isinstance(value, Mapping):
            found = {}
            for at, held in value.items():
                found[_encode_key(at)] = _encode(held)
            return found
        if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
            listed = []
            for at, held in enumerate(value):  # noqa: B007
                listed.append(_encode(held))
            return listed
    except _UnencodableError as error:
        error.path.append(f"[{at}]" if isinstance(at, int) else f".{at}")
        raise
    raise _UnencodableError("numbers, strings, lists and maps", type(value).__name__)


def _encode_key(key: object) -> str:
    if not isinstance(key, str):
        raise _UnencodableError("strings as keys", repr(key))
    return f"${key}" if key.startswith("$") else key


def decode(value: Any, *, deepest: int = _DEEPEST) -> Any:
    """Undo `encode`.

    Raises:
        InputError: a `$float` is not a number, or lists and maps are nested deeper than `deepest`.
    """
    if not isinstance(value, list | dict):
        return value
    if deepest < 1:
        raise InputError("expected lists and maps that are not nested so deeply")
    if isinstance(value, list):
        return [decode(v, deepest=deepest - 1) for v in value]
    if value.keys() == {_FLOAT}:
        return _decode_float(value[_FLOAT])
    return {k.removeprefix("$"): decode(v, deepest=deepest - 1) for k, v in value.items()}


def _decode_float(text: object) -> float:
    if not isinstance(text, str) or text not in {"nan", "inf", "-inf"}:
        raise InputError(f'expected "nan", "inf" or "-inf" as $float, got {text!r}')
    return float(text)


def dump(value: object, *, indent: int | None = 2) -> str:
    """Write a value as strict JSON in ASCII: no bare NaN, any string survives."""
    return json.dumps(encode(value), indent=indent, allow_nan=False)


def load(text: str | bytes, *, deepest: int = _DEEPEST) -> Any:
    """Read what `dump` wrote.

    Raises:
        InputError: the text is not strict JSON, or nests deeper than `deepest`.
    """
    try:
        return decode(json.loads(text, parse_constant=_refuse_constant), deepest=deepest)
    except (ValueError, RecursionError) as error:
        raise InputError(f"expected strict JSON: {error}") from error


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def read_document(path: pathlib.Path, schema: str) -> dict[str, Any]:
    """Read a JSON file that says which schema it follows.

    Raises:
        InputError: there is no such file, it is not JSON, or it follows another schema.
    """
    try:
        document = load(path.read_bytes())
    except (OSError, InputError) as error:
        raise InputError(f"cannot read {path}: {error}") from error
    found = document.get("schema") if isinstance(document, dict) else None
    if found != schema:
        raise InputError(f"expected schema {schema!r} in {path}, got {found!r}")
    return document


def write_whole(path: pathlib.Path, write: Callable[[pathlib.Path], None]) -> None:
    """Let `write` fill a temporary file, and put it in the place of `path` once it is on disk.

    Killed at any moment, `path` is what it was before, or all new.
    """
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}{TEMPORARY}")
    try:
        write(temporary)
        _to_disk(temporary)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _to_disk(path.parent)


def write_text(path: pathlib.Path, text: str) -> None:
    """Write a text file in UTF-8, whole or not at all."""
    write_whole(path, lambda temporary: _write_text(temporary, text))


def _write_text(path: pathlib.Path, text: str) -> None:
    path.write_text(text, encoding="utf-8", newline="\n")


def _to_disk(path: pathlib.Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def findings_document(findings: Findings) -> dict[str, Any]:
    """Lay findings out as `findings.json` has them."""
    return {
        "schema": FINDINGS_SCHEMA,
        "audit": findings.audit,
        "verdict": findings.verdict.value,
        "alpha": findings.alpha,
        "reasons": list(findings.reasons),
        "subjects": [_subject_document(s) for s in findings.subjects],
        "cost": {
            "wall_s": findings.cost.wall_s,
            "device": findings.cost.device,
            "peak_memory_mb": findings.cost.peak_memory_mb,
        },
        "not_examined": list(findings.not_examined),
    }


def _subject_document(subject: Subject) -> dict[str, Any]:
    return {
        "name": subject.name,
        "digest": dict(subject.digest),
        "verdict": subject.verdict.value,
        "p_value": subject.p_value,
        "target": subject.target,
        "evidence": dict(subject.evidence),
        "assumptions": list(subject.assumptions),
    }


def parse_findings(document: Mapping[str, Any]) -> Findings:
    """Undo `findings_document`.

    Raises:
        InputError: a field is missing, or is not what it should be.
    """
    try:
        return Findings(
            audit=document["audit"],
            verdict=Verdict(document["verdict"]),
            alpha=float(document["alpha"]),
            reasons=tuple(document["reasons"]),
            subjects=tuple(_parse_subject(s) for s in document["subjects"]),
            cost=Cost(
                wall_s=float(document["cost"]["wall_s"]),
                device=document["cost"]["device"],
                peak_memory_mb=float(document["cost"]["peak_memory_mb"]),
            ),
            not_examined=tuple(document["not_examined"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"expected findings of schema {FINDINGS_SCHEMA}: {error!r}") from error


def _parse_subject(document: Mapping[str, Any]) -> Subject:
    p_value = document["p_value"]
    return Subject(
        name=document["name"],
        digest=dict(document["digest"]),
        verdict=Verdict(document["verdict"]),
        p_value=None if p_value is None else float(p_value),
        target=document["target"],
        evidence=dict(document["evidence"]),
        assumptions=tuple(document["assumptions"]),
    )
