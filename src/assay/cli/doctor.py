"""`assay doctor`: is everything there?"""

import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import shutil
import tempfile
from typing import Annotated

import rich.box
import rich.table
import torch
import typer
from rich.console import Console

from assay.errors import UsageError
from assay.fitting import Precision
from assay.fitting.loop import autocast
from assay.records import record
from assay.storage import documents

from . import devices
from .exits import Exit
from .output import write

_LIBRARIES = (
    *("torch", "numpy", "scipy", "scikit-learn", "transformers", "safetensors", "datasets"),
    *("pyarrow", "pillow", "matplotlib", "jinja2", "typer", "rich"),
)
_EXTRAS = {"baselines": "art", "s3": "s3fs", "ray": "ray"}
"""What an extra brings, by a module of it."""
_LEAST_GB = 1.0
"""Memory and disk below which even small data sets do not fit."""


@record
class Check:
    """One thing that was looked at."""

    name: str
    found: str
    good: bool = True
    """Whether audits can run with what was found."""


def doctor(
    device: Annotated[
        str, typer.Option(help="The device to look at: auto, cpu, cuda or cuda:N.")
    ] = "auto",
    out: Annotated[
        pathlib.Path, typer.Option(help="The folder that runs would be written to.")
    ] = pathlib.Path("runs"),
    json: Annotated[bool, typer.Option("--json", help="Write JSON to stdout.")] = False,
) -> int:
    """See whether everything that audits need is there.

    Looks at versions, the device and its number format, memory, disk, threads, the folder for
    runs, and optional extras. Exit code 2 where something needed is missing.
    """
    checks = [
        Check(name="python", found=f"{platform.python_version()} on {platform.platform()}"),
        *(_library(name) for name in _LIBRARIES),
        *_device(device),
        Check(name="threads", found=f"{torch.get_num_threads()} of {os.cpu_count()} cores"),
        _memory(),
        _disk(out),
        _writable(out),
        *(_extra(name, module) for name, module in _EXTRAS.items()),
    ]
    if json:
        rows = [{"name": c.name, "found": c.found, "good": c.good} for c in checks]
        write(documents.dump({"schema": "assay/doctor/v1", "checks": rows}))
    else:
        Console().print(_table(checks))
    return Exit.NOTHING_FLAGGED if all(c.good for c in checks) else Exit.ERROR


def _table(checks: list[Check]) -> rich.table.Table:
    table = rich.table.Table(box=rich.box.SIMPLE)
    for column in ("", "what", "found"):
        table.add_column(column)
    for check in checks:
        table.add_row("ok" if check.good else "MISSING", check.name, check.found)
    return table


def _library(name: str) -> Check:
    try:
        return Check(name=name, found=importlib.metadata.version(name))
    except importlib.metadata.PackageNotFoundError:
        return Check(name=name, found="not installed: install assay again", good=False)


def _device(name: str) -> list[Check]:
    try:
        device = devices.choose(name)
    except UsageError as error:
        return [Check(name="device", found=str(error), good=False)]
    with autocast(device, Precision.AUTO):
        lower = torch.is_autocast_enabled(device.type)
    precision = "bfloat16 where it is safe" if lower else "float32, it has no fast bfloat16"
    checks = [Check(name="device", found=str(device)), Check(name="precision", found=precision)]
    if device.type != "cpu":
        free, total = torch.accelerator.get_memory_info(device)
        found = f"{free / 2**30:.1f} of {total / 2**30:.1f} GB free"
        checks.append(Check(name="device memory", found=found))
    return checks


def _memory() -> Check:
    page = os.sysconf("SC_PAGE_SIZE")
    free = os.sysconf("SC_AVPHYS_PAGES") * page / 2**30
    total = os.sysconf("SC_PHYS_PAGES") * page / 2**30
    return Check(name="memory", found=f"{total:.1f} GB, {free:.1f} unused", good=total > _LEAST_GB)


def _disk(out: pathlib.Path) -> Check:
    free = shutil.disk_usage(_existing_part(out)).free / 2**30
    return Check(name="disk", found=f"{free:.1f} GB free for {out}", good=free > _LEAST_GB)


def _writable(out: pathlib.Path) -> Check:
    try:
        with tempfile.TemporaryFile(dir=_existing_part(out)):
            return Check(name="run folder", found=f"{out} can be written")
    except OSError as error:
        return Check(name="run folder", found=f"{out}: {error.strerror}", good=False)


def _existing_part(path: pathlib.Path) -> pathlib.Path:
    whole = path.absolute()
    return next(part for part in (whole, *whole.parents) if part.exists())


def _extra(name: str, module: str) -> Check:
    there = importlib.util.find_spec(module) is not None
    found = "installed" if there else f"not installed: pip install 'assay[{name}]'"
    return Check(name=f"extra {name} (optional)", found=found)
