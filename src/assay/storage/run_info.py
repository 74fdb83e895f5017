"""What a run was asked, of which inputs, and how it stands: `run.json`."""

import datetime
import functools
import importlib.metadata
import platform
from collections.abc import Mapping
from typing import Any, Literal, get_args

from assay.errors import InputError
from assay.records import record

from . import documents

RUN_SCHEMA = "assay/run/v1"
REPORTED_VERSIONS = ("assay", "torch", "numpy", "scipy", "scikit-learn", "transformers", "pyarrow")

State = Literal["running", "completed", "interrupted", "failed"]
_STATES: Mapping[str, State] = {state: state for state in get_args(State)}


@record
class Input:
    """One thing that a run reads."""

    path: str
    """Where it lay."""
    sha256: str
    """Digest of what it held, as `files.digest_path` gives it; 64 hexadecimal digits."""


@record
class RunInfo:
    """What `run.json` holds."""

    audit: str
    command: tuple[str, ...]
    """The command with its arguments, or nothing where the API was called."""
    settings: Mapping[str, Any]
    """Every setting with its value, defaults included: numbers, strings, lists and maps only."""
    seed: int
    inputs: Mapping[str, Input]
    versions: Mapping[str, str]
    """Of Assay, Python, the libraries that results depend on, and the platform."""
    state: State
    started: str
    """UTC, ISO 8601."""
    ended: str | None


def now() -> str:
    """Tell the time in UTC, as ISO 8601 to the second."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@functools.cache
def versions_here() -> Mapping[str, str]:
    """List the versions of what this process computes with."""
    libraries = {name: importlib.metadata.version(name) for name in REPORTED_VERSIONS}
    system = f"{platform.system()} {platform.release()} {platform.machine()}"
    return {"python": platform.python_version(), **libraries, "platform": system}


def info_document(info: RunInfo) -> dict[str, Any]:
    """Lay out what `run.json` holds."""
    return {
        "schema": RUN_SCHEMA,
        "audit": info.audit,
        "command": list(info.command),
        "settings": dict(info.settings),
        "seed": info.seed,
        "inputs": {k: {"path": v.path, "sha256": v.sha256} for k, v in info.inputs.items()},
        "versions": dict(info.versions),
        "state": info.state,
        "started": info.started,
        "ended": info.ended,
    }


def parse_info(document: Mapping[str, Any]) -> RunInfo:
    """Undo `info_document`.

    Raises:
        InputError: a field is missing, or is not what it should be.
    """
    try:
        return RunInfo(
            audit=document["audit"],
            command=tuple(document["command"]),
            settings=dict(document["settings"]),
            seed=int(document["seed"]),
            inputs={
                name: Input(path=entry["path"], sha256=entry["sha256"])
                for name, entry in document["inputs"].items()
            },
            versions=dict(document["versions"]),
            state=_STATES[document["state"]],
            started=document["started"],
            ended=document["ended"],
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise InputError(f"expected a run of schema {RUN_SCHEMA}: {error!r}") from error


def differences(held: RunInfo, asked: RunInfo) -> list[str]:
    """Say where two runs were asked something else: audit, seed, settings, what inputs hold."""
    old, new = _question(held), _question(asked)
    return [
        f"{name} was {old.get(name, 'not set')}, is now {new.get(name, 'not set')}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _question(info: RunInfo) -> dict[str, str]:
    hashes = {name: entry.sha256 for name, entry in info.inputs.items()}
    question = {"audit": info.audit, "seed": info.seed, "inputs": hashes}
    return _flat("", {**question, "settings": info.settings})


def _flat(prefix: str, value: Any) -> dict[str, str]:
    if not isinstance(value, Mapping) or not value:
        return {prefix: documents.dump(value, indent=None)}
    parts = (_flat(f"{prefix}.{k}" if prefix else k, v) for k, v in value.items())
    return {name: text for part in parts for name, text in part.items()}
