"""What a report asks of a stored run: reports open no files, they are handed a run to read from."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from assay.results import Findings


@runtime_checkable
class InputInfo(Protocol):
    """One thing that a run read."""

    @property
    def path(self) -> str:
        """Where it lay."""
        ...

    @property
    def sha256(self) -> str:
        """Digest of what it held."""
        ...


@runtime_checkable
class Info(Protocol):
    """What a run was asked, and how it stands."""

    @property
    def command(self) -> Sequence[str]:
        """The command with its arguments."""
        ...

    @property
    def settings(self) -> Mapping[str, Any]:
        """Every setting."""
        ...

    @property
    def seed(self) -> int:
        """The seed."""
        ...

    @property
    def inputs(self) -> Mapping[str, InputInfo]:
        """What it read, by name."""
        ...

    @property
    def versions(self) -> Mapping[str, str]:
        """Of Assay, Python and libraries."""
        ...

    @property
    def state(self) -> str:
        """One of running, completed, interrupted, failed."""
        ...

    @property
    def started(self) -> str:
        """UTC, ISO 8601."""
        ...

    @property
    def ended(self) -> str | None:
        """UTC, ISO 8601, or None while it runs."""
        ...


@runtime_checkable
class Run(Protocol):
    """A stored run, as `assay.storage.runs.RunFolder` is; that module says what the tables hold."""

    @property
    def path(self) -> pathlib.Path:
        """The folder."""
        ...

    @property
    def info(self) -> Info:
        """What `run.json` holds."""
        ...

    def read_findings(self) -> Findings:
        """Read the verdict and why."""
        ...

    def document(self) -> dict[str, Any]:
        """Give findings and run as strict JSON values."""
        ...

    def read_table(
        self, name: str, columns: Sequence[str] | None = None
    ) -> dict[str, list[Any]] | None:
        """Read a table."""
        ...

    def read_tensors(self, name: str) -> dict[str, Tensor] | None:
        """Read tensors of an artifact."""
        ...

    def read_json(self, name: str) -> Any | None:
        """Read the JSON of an artifact."""
        ...
