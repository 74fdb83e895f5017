"""A benchmark is a grid of cells: each is stored when it is done, and never computed twice."""

import contextlib
import datetime
import fcntl
import functools
import hashlib
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from assay.records import record
from assay.storage.run_info import versions_here

HERE = pathlib.Path(__file__).parent
CACHE = HERE / ".cache"
"""What can be computed again: locks, models, poisoned data sets. Not under version control."""

SCHEMA = "assay/benchmark-cell/v1"

Result = Mapping[str, Any]
"""What a cell measured: numbers, strings, lists and maps only."""


@record
class Cell:
    """One measurement."""

    name: str
    """Readable, a part of the file's name."""
    kind: str
    """What is measured; cells of a kind take about as long as each other."""
    recipe: Mapping[str, Any]
    """All that decides the result; the file's name holds its digest."""
    measure: Callable[[], Result]

    @property
    def digest(self) -> str:
        """The first 12 hexadecimal digits of the SHA-256 of the recipe."""
        return digest(self.recipe)

    def path(self, folder: pathlib.Path) -> pathlib.Path:
        """Where the result is stored, if it is."""
        return folder / f"{self.name}-{self.digest}.json"


@record
class Group:
    """Cells that one process computes one after the other, because they share what they need."""

    name: str
    cells: tuple[Cell, ...]

    def missing(self, folder: pathlib.Path) -> list[Cell]:
        """List the cells without a stored result."""
        return [cell for cell in self.cells if not cell.path(folder).exists()]


def digest(recipe: Mapping[str, Any]) -> str:
    """Hash a recipe to 12 hexadecimal digits."""
    text = json.dumps(recipe, sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def run(
    groups: Sequence[Group], folder: pathlib.Path, *, device: torch.device, shard: tuple[int, int]
) -> int:
    """Compute the missing cells of all groups; returns how many failed.

    Processes may run side by side: a group is computed by the process that locks it. Process
    `shard[0]` of `shard[1]` starts with its own groups and goes on with what is left of the others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    own, count = shard
    mine = [group for i, group in enumerate(groups) if i % count == own]
    others = [group for i, group in enumerate(groups) if i % count != own]
    watch = _Watch(groups, folder, count)
    failed = 0
    for group in (*mine, *others):
        if not group.missing(folder):
            continue
        with claimed(group.name) as granted:
            for cell in group.missing(folder) if granted else ():
                failed += not _compute(cell, folder, device, count, watch)
    return failed


def _compute(
    cell: Cell, folder: pathlib.Path, device: torch.device, processes: int, watch: "_Watch"
) -> bool:
    wall, cpu = time.perf_counter(), time.process_time()
    try:
        result = cell.measure()
    except Exception:  # noqa: BLE001  one failed cell does not end the grid, and is not stored
        traceback.print_exc()
        print(f"{cell.name}: failed, not stored", file=sys.stderr, flush=True)
        return False
    provenance = {
        **machine(device),
        "processes": processes,
        "commit": commit(),
        "versions": dict(versions_here()) | _art(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "wall_s": round(time.perf_counter() - wall, 3),
        "cpu_s": round(time.process_time() - cpu, 3),
    }
    store(cell.path(folder), {"recipe": cell.recipe, "result": result, "provenance": provenance})
    print(f"{watch.done(cell, provenance['wall_s'])} {cell.name}: {brief(result)}", flush=True)
    return True


def store(path: pathlib.Path, document: Mapping[str, Any]) -> None:
    """Write a result at once or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    text = json.dumps({"schema": SCHEMA, **document}, indent=1, allow_nan=False)
    with partial.open("w") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def read(path: pathlib.Path) -> dict[str, Any]:
    """Read a stored cell: `recipe`, `result` and `provenance`."""
    return json.loads(path.read_text())


def read_all(folder: pathlib.Path) -> list[dict[str, Any]]:
    """Read all stored cells of a benchmark, in the order of their names."""
    return [read(path) for path in sorted(folder.glob("*.json"))]


@contextlib.contextmanager
def claimed(name: str) -> Iterator[bool]:
    """Lock a name; yields whether that worked. The lock ends with the process, however it ends."""
    place = CACHE / "locks" / f"{name}.lock"
    place.parent.mkdir(parents=True, exist_ok=True)
    with place.open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def brief(result: Result) -> str:
    """Say the numbers of a result in one line."""
    said = []
    for key, value in result.items():
        if isinstance(value, float):
            said.append(f"{key} {value:.4g}")
        elif isinstance(value, (int, str)) and len(str(value)) < 20:
            said.append(f"{key} {value}")
    return ", ".join(said)


def machine(device: torch.device) -> dict[str, Any]:
    """Say what computes."""
    accelerator = None
    if device.type != "cpu":
        accelerator = torch.get_device_module(device).get_device_name(device)
    return {
        "cpu": _cpu_name(),
        "accelerator": accelerator,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 1),
    }


@functools.cache
def _cpu_name() -> str:
    info = pathlib.Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


@functools.cache
def commit() -> str:
    """The git commit of this tree, with `-dirty` where files differ from it.

    A copy without its history is told by the environment variable `ASSAY_COMMIT`.
    """
    if told := os.environ.get("ASSAY_COMMIT"):
        return told
    command = ["git", "--no-optional-locks", "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(  # noqa: S603  fixed arguments
        command, cwd=HERE, capture_output=True, text=True, check=False
    )
    return done.stdout.strip() or "unknown"


@functools.cache
def _art() -> dict[str, str]:
    name = "adversarial-robustness-toolbox"
    try:
        return {name: importlib.metadata.version(name)}
    except importlib.metadata.PackageNotFoundError:
        return {}


class _Watch:
    """Counts cells and estimates the remaining time from the cells that are done."""

    def __init__(self, groups: Sequence[Group], folder: pathlib.Path, workers: int) -> None:
        self.groups, self.folder, self.workers = groups, folder, workers
        self.seconds: dict[str, list[float]] = {}
        for cell in (cell for group in groups for cell in group.cells):
            if cell.path(folder).exists():
                wall = read(cell.path(folder))["provenance"]["wall_s"]
                self.seconds.setdefault(cell.kind, []).append(wall)

    def done(self, cell: Cell, seconds: float) -> str:
        self.seconds.setdefault(cell.kind, []).append(seconds)
        total = sum(len(group.cells) for group in self.groups)
        missing = [cell for group in self.groups for cell in group.missing(self.folder)]
        left = sum(self._expected(cell.kind) for cell in missing) / self.workers
        return f"[{total - len(missing)}/{total}, {left / 60:.0f} min left]"

    def _expected(self, kind: str) -> float:
        known = self.seconds.get(kind) or [s for seen in self.seconds.values() for s in seen]
        return sum(known) / len(known)
