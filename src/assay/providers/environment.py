"""What a provider states that it computed with."""

import pathlib
import platform
from collections.abc import Mapping

import torch
from torch import Tensor

from assay.storage.run_info import versions_here

MAX_STATED = 500
"""Characters."""


def stated_environment(weights: Mapping[str, Tensor]) -> str:
    """State hardware, libraries, threads and number formats; equal texts, equal environments.

    Args:
        weights: what was trained; their number formats are stated.
    """
    formats = sorted({str(value.dtype).removeprefix("torch.") for value in weights.values()})
    versions = versions_here()
    parts = (
        _hardware(),
        f"torch {versions['torch']}",
        f"numpy {versions['numpy']}",
        f"python {versions['python']}",
        f"{platform.system()} {platform.machine()}",
        f"{torch.get_num_threads()} threads",
        f"matmul {torch.get_float32_matmul_precision()}",
        f"deterministic {torch.are_deterministic_algorithms_enabled()}",
        "/".join(formats),
    )
    return "; ".join(parts)[:MAX_STATED]


def _hardware() -> str:
    processor = f"{_processor()}, {torch.backends.cpu.get_cpu_capability()}"
    if not torch.accelerator.is_available():
        return processor
    kind = torch.accelerator.current_accelerator()
    name = torch.get_device_module(kind).get_device_name() if kind is not None else "accelerator"
    return f"{name}, {processor}"


def _processor() -> str:
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown processor"
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or "unknown processor")
