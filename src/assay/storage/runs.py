"""A run is a folder: what was asked, what happened, what was found, and how to go on.

```text
run.json            what was asked, of which inputs, with which versions; the state of the run
events.jsonl        what happened, one JSON object a line
findings.json       the verdict and why
samples.parquet     index, id, label, poison_score, p_value, is_poison_issue
classes.parquet     class, name, samples, calibration, flagged, statistic, p_value,
                    adjusted_p_value, verdict, reason
calibration.parquet label, poison_score: one row a trusted sample
models.parquet      name, accuracy, verdict, p_value, alone_p_value, reason, family, source,
                    target, asr_tuned: one row a delivered model, with its recovered trigger
pairs.parquet       model, family, source, target, margin, asr, reference_margin, excess, p_value,
                    alone, alone_p_value: one row a candidate trigger of a model
subruns.parquet     one row a delivery of a training; providers.parquet: one row a provider
ledger.jsonl        of a training: what was sent, received, measured and judged
artifacts/          gallery.safetensors, gallery.json, proof.json, pictures; of models:
                    triggers.safetensors, triggers.json, questions.json, repair.json; of a
                    training: checkpoint.safetensors, training.json, log-00000.NAME.jsonl
state/              what an interrupted run needs to go on
report.html         rendered from all this
```

`artifacts/gallery.safetensors` holds one tensor `inputs`: uint8 (samples, channels, height, width),
or float (samples, dims). `artifacts/gallery.json` says in the same order what they are:
`{"items": [{"label": 3, "kind": "suspicious" | "typical", "index": 17, "id": "...", "score": 9.1,
"p_value": 0.0001 | null}], "columns": ["..."]}`, with `columns` for the names of dims, where they
have names. `artifacts/proof.json` is `{"rows": [{"model": "before", "accuracy": 0.93, "asr": 0.99 |
null, "samples": 50000}]}`.

`artifacts/triggers.json` describes the recovered triggers: `{"items": [{"model": "a", "family":
"patch", "source": "cat" | null, "target": "dog", "asr": [{"model": "a", "asr": 0.98}], "asr_tuned":
0.9, "cka": [{"depth": "0.5", "clean": 0.9, "triggered": 0.4}], "labels": ["cat"], "answers_clean":
[{"model": "a", "classes": ["cat"]}], "answers_stamped": [...], "amplified": 7.5}]}`; of item i,
`artifacts/triggers.safetensors` holds the pictures `i.clean`, `i.stamped` and `i.difference`, uint8
(samples, channels, height, width); 127 or 128 is no difference. `artifacts/questions.json` is
`{"classes": ["cat", "dog"], "kinds": [{"family": "patch", "one_source": false, "threshold":
6.3}]}`: the names of sources and targets in the tables, and the excess from which on one candidate
of a kind is evidence enough to flag a model.

`artifacts/repair.json` says what repairing the flagged models changed; it is written before the
folder appears: `{"folder": "/x/repaired", "method": "Unlearning(...)", "items": [{"model": "a",
"written": "a.safetensors" | null, "sha256": "..." | null, "note": "what is wrong",
"measured_on": 500,
"triggered": 450, "rows": [{"model": "before" | "after", "accuracy": 0.93, "accuracy_low": 0.9,
"accuracy_high": 0.95, "asr": 0.99 | null, "asr_low": 0.97 | null, "asr_high": 1.0 | null}]}]}`.
Of a prompt, an item's `described` is the digest of the description beside it, or null.
"""

import dataclasses
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from assay.errors import InputError, UsageError
from assay.randomness import Seed
from assay.results import Findings

from . import documents, run_tables
from .run_info import (
    RUN_SCHEMA,
    Input,
    RunInfo,
    State,
    differences,
    info_document,
    now,
    parse_info,
    versions_here,
)
from .run_lock import LOCK, is_locked, take_lock

__all__ = ["Input", "RunFolder", "RunInfo", "State", "StateStore", "list_runs"]

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class RunFolder:
    """One run on disk. `create` and `resume` lock it for writing, `open` only reads.

    As a context manager it ends the run: completed at the end of the block, interrupted on
    Ctrl-C, failed on any other exception; the lock is freed in each case.
    """

    def __init__(self, path: pathlib.Path, *, lock: int | None = None) -> None:
        """Use `create`, `resume`, `begin` or `open`."""
        self.path = path
        self._lock = lock

    @classmethod
    def create(
        cls,
        path: pathlib.Path,
        *,
        audit: str,
        settings: Mapping[str, Any],
        seed: Seed,
        inputs: Mapping[str, Input],
        command: Sequence[str] = (),
    ) -> "RunFolder":
        """Start a run in a new or empty folder, and lock it.

        Raises:
            UsageError: the folder holds something already, or another process works in it.
            InputError: the settings hold what JSON cannot.
        """
        info = _new_info(audit, settings, seed, inputs, command)
        _refuse_occupied(path)
        path.mkdir(parents=True, exist_ok=True)
        run = cls(path, lock=take_lock(path))
        try:
            _refuse_occupied(path)
            _start(run, info, "created")
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def resume(
        cls,
        path: pathlib.Path,
        *,
        audit: str,
        settings: Mapping[str, Any],
        seed: Seed,
        inputs: Mapping[str, Input],
    ) -> "RunFolder":
        """Lock a run that was interrupted or failed, and go on with it.

        Inputs may have moved, but must hold what they held.

        Raises:
            UsageError: there is no run, it is completed, it was asked something else (the
                message says what differs), or another process works in it.
            InputError: `run.json` is damaged or from another version.
        """
        cls.open(path)
        run = cls(path, lock=take_lock(path))
        try:
            held = run.info
            _refuse_other(path, held, _new_info(audit, settings, seed, inputs, held.command))
            _start(run, held, "resumed")
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def begin(
        cls,
        path: pathlib.Path,
        *,
        audit: str,
        settings: Mapping[str, Any],
        seed: Seed,
        inputs: Mapping[str, Input],
        command: Sequence[str] = (),
    ) -> "RunFolder":
        """Resume the run in a folder, or create one where there is none.

        Raises:
            UsageError: as `create` and `resume`.
        """
        if (path / "run.json").exists():
            return cls.resume(path, audit=audit, settings=settings, seed=seed, inputs=inputs)
        return cls.create(
            path, audit=audit, settings=settings, seed=seed, inputs=inputs, command=command
        )

    @classmethod
    def open(cls, path: pathlib.Path) -> "RunFolder":
        """Read a run, whoever works in it.

        Raises:
            UsageError: there is no run.
        """
        if not (path / "run.json").is_file():
            raise UsageError(f"expected a run folder at {path}, there is no run.json")
        return cls(path)

    def __enter__(self) -> "RunFolder":
        """Begin the block that the run is made in."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """End the run as the block ended, unless `finish` was called, and free the lock."""
        if self._lock is not None and self.info.state == "running":
            if error is None:
                self.finish("completed")
            elif isinstance(error, KeyboardInterrupt | SystemExit):
                self.finish("interrupted")
            else:
                self.finish("failed", error=f"{type(error).__name__}: {error}")
        self.close()

    def close(self) -> None:
        """Free the lock; the run can then only be read."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    @property
    def info(self) -> RunInfo:
        """What `run.json` says now; a run whose process was killed is interrupted.

        Raises:
            InputError: `run.json` is damaged or from another version.
        """
        info = parse_info(documents.read_document(self.path / "run.json", RUN_SCHEMA))
        if info.state == "running" and self._lock is None and not is_locked(self.path):
            return dataclasses.replace(info, state="interrupted")
        return info

    def finish(self, state: State, *, error: str | None = None) -> None:
        """Say how the run ended."""
        self._need_lock()
        self.event("finished", state=state, error=error)
        _write_info(self.path, dataclasses.replace(self.info, state=state, ended=now()))

    def event(self, kind: str, /, **fields: Any) -> None:
        """Append a line to `events.jsonl`: on disk when this returns."""
        self._need_lock()
        line = documents.dump({"time": now(), "kind": kind, **fields}, indent=None)
        with (self.path / "events.jsonl").open("ab") as file:
            file.write(line.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def events(self) -> list[dict[str, Any]]:
        """Read what happened, without lines that a crash tore."""
        try:
            lines = (self.path / "events.jsonl").read_bytes().splitlines()
        except FileNotFoundError:
            return []
        return [event for line in lines if (event := _read_event(line)) is not None]

    def store(self) -> "StateStore":
        """Return the store in `state/`, where an audit leaves what it needs to go on."""
        self._need_lock()
        return StateStore(self)

    def write_findings(self, findings: Findings) -> None:
        """Write `findings.json`."""
        self._need_lock()
        text = documents.dump(documents.findings_document(findings))
        documents.write_text(self.path / "findings.json", text)

    def read_findings(self) -> Findings:
        """Read `findings.json`.

        Raises:
            InputError: the run has no findings yet, or they are damaged.
        """
        path = self.path / "findings.json"
        if not path.is_file():
            raise InputError(
                f"the run in {self.path} has no findings, it is {self.info.state}: resume it"
            )
        return documents.parse_findings(documents.read_document(path, documents.FINDINGS_SCHEMA))

    def document(self) -> dict[str, Any]:
        """Give `findings.json` as strict JSON values, with `run.json` under the key `run`.

        Raises:
            InputError: as `read_findings`.
        """
        findings = documents.findings_document(self.read_findings())
        return documents.encode({**findings, "run": info_document(self.info)})

    def write_table(self, name: str, columns: Mapping[str, Sequence[Any] | Tensor]) -> None:
        """Write `name.parquet`.

        Args:
            name: one of `run_tables.TABLES`, whose columns must then be these, or another name.
            columns: the values of each column, one a row; None where there is none.

        Raises:
            InputError: the columns are not those of the table, or differ in length, or hold
                values of another type.
        """
        self._need_lock()
        run_tables.write_table(self.path / f"{_checked(name)}.parquet", name, columns)

    def read_table(
        self, name: str, columns: Sequence[str] | None = None
    ) -> dict[str, list[Any]] | None:
        """Read some or all columns of `name.parquet`, or return None where there is no such table.

        Raises:
            InputError: the table is damaged, or has no such column.
        """
        return run_tables.read_table(self.path / f"{_checked(name)}.parquet", columns)

    def write_artifact(self, name: str, content: bytes) -> None:
        """Write a file, such as a picture, to `artifacts/`."""
        self._need_lock()
        documents.write_whole(
            self._artifact(name), lambda temporary: _write_bytes(temporary, content)
        )

    def write_tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Write `artifacts/name.safetensors`."""
        self._need_lock()
        _write_tensors(self._artifact(f"{name}.safetensors"), tensors)

    def read_tensors(self, name: str) -> dict[str, Tensor] | None:
        """Read `artifacts/name.safetensors`, or return None where there is none.

        Raises:
            InputError: the file is damaged.
        """
        path = self._artifact(f"{name}.safetensors")
        try:
            return _read_tensors(path)
        except safetensors.SafetensorError as error:
            raise InputError(f"cannot read {path}: {error}") from error

    def write_json(self, name: str, value: Any) -> None:
        """Write `artifacts/name.json`."""
        self._need_lock()
        documents.write_text(self._artifact(f"{name}.json"), documents.dump(value))

    def read_json(self, name: str) -> Any | None:
        """Read `artifacts/name.json`, or return None where there is none.

        Raises:
            InputError: the file is damaged.
        """
        path = self._artifact(f"{name}.json")
        return documents.load(path.read_bytes()) if path.is_file() else None

    def write_report(self, text: str, name: str = "report.html") -> pathlib.Path:
        """Write a rendered report; it can be made again at any time, so it needs no lock."""
        path = self.path / _checked(name)
        documents.write_text(path, text)
        return path

    def _artifact(self, name: str) -> pathlib.Path:
        return self.path / "artifacts" / _checked(name)

    def _need_lock(self) -> None:
        if self._lock is None:
            raise UsageError(f"the run in {self.path} was opened for reading: create or resume it")


class StateStore:
    """Tensors by name in a run's `state/`: an `assay.results.Store` that survives `kill -9`."""

    def __init__(self, run: RunFolder) -> None:
        self._run = run

    def save(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        """Keep tensors under a name: killed at any moment, the old or the new are there."""
        _write_tensors(self._path(name), tensors)

    def load(self, name: str) -> dict[str, Tensor] | None:
        """Return what was kept under a name, on the CPU, or None.

        A damaged file is as good as none: an event says so, and the work is done again.
        """
        try:
            return _read_tensors(self._path(name))
        except safetensors.SafetensorError as error:
            self._run.event("state-damaged", name=name, error=str(error))
            return None

    def _path(self, name: str) -> pathlib.Path:
        return self._run.path / "state" / f"{_checked(name)}.safetensors"


def list_runs(root: pathlib.Path) -> tuple[RunFolder, ...]:
    """Find the runs directly below a folder, in the order of their names.

    Reading the `info` of a run that is damaged raises InputError.

    Raises:
        UsageError: there is no such folder.
    """
    if not root.is_dir():
        raise UsageError(f"expected a folder of runs at {root}, there is none")
    return tuple(RunFolder.open(p.parent) for p in sorted(root.glob("*/run.json")))


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise InputError(f"expected a name of letters, digits, '.', '_' and '-', got {name!r}")
    return name


def _refuse_occupied(path: pathlib.Path) -> None:
    """Refuse a path where anything lies but what a run killed in its first moment left."""
    if path.exists() and not path.is_dir():
        raise UsageError(f"expected a new or empty folder, {path} is a file")
    if (path / "run.json").exists():
        raise UsageError(f"{path} holds a run already: resume it, or choose another folder")
    held = [p.name for p in path.iterdir()] if path.exists() else []
    foreign = sorted(n for n in held if n != LOCK and not n.endswith(documents.TEMPORARY))
    if foreign:
        raise UsageError(
            f"expected a new or empty folder, {path} holds {foreign[0]!r} and is no run: "
            "choose another folder"
        )


def _new_info(
    audit: str,
    settings: Mapping[str, Any],
    seed: Seed,
    inputs: Mapping[str, Input],
    command: Sequence[str],
) -> RunInfo:
    documents.encode(settings, "settings")
    return RunInfo(
        audit=audit,
        command=tuple(command),
        settings=settings,
        seed=seed,
        inputs=inputs,
        versions=versions_here(),
        state="running",
        started=now(),
        ended=None,
    )


def _refuse_other(path: pathlib.Path, held: RunInfo, asked: RunInfo) -> None:
    if held.state == "completed":
        raise UsageError(f"the run in {path} is completed: read it, or choose another folder")
    different = differences(held, asked)
    if different:
        raise UsageError(
            f"the run in {path} was asked something else: {'; '.join(different)}. "
            "Ask the same, or choose another folder"
        )


def _start(run: RunFolder, info: RunInfo, event: str) -> None:
    """Clear up what a kill left half-written, and say that the run is running."""
    for temporary in run.path.rglob(f".*{documents.TEMPORARY}"):
        temporary.unlink()
    _end_torn_event(run.path / "events.jsonl")
    _write_info(run.path, dataclasses.replace(info, state="running", ended=None))
    run.event(event, versions=versions_here())


def _end_torn_event(path: pathlib.Path) -> None:
    if path.exists() and not path.read_bytes().endswith(b"\n"):
        with path.open("ab") as file:
            file.write(b"\n")


def _write_info(path: pathlib.Path, info: RunInfo) -> None:
    documents.write_text(path / "run.json", documents.dump(info_document(info)))


def _read_event(line: bytes) -> dict[str, Any] | None:
    try:
        event = documents.load(line)
    except InputError:
        return None
    return event if isinstance(event, dict) else None


def _write_bytes(path: pathlib.Path, content: bytes) -> None:
    path.write_bytes(content)


def _write_tensors(path: pathlib.Path, tensors: Mapping[str, Tensor]) -> None:
    """Write copies: safetensors takes neither strided nor shared memory."""
    copies = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in tensors.items()
    }
    documents.write_whole(path, lambda temporary: save_file(copies, temporary))


def _read_tensors(path: pathlib.Path) -> dict[str, Tensor] | None:
    return load_file(path) if path.is_file() else None
