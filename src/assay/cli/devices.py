"""Where to compute: the only place that turns a name into a device."""

import torch

from assay.errors import UsageError


def choose(name: str) -> torch.device:
    """Turn `auto`, `cpu`, `cuda` or `cuda:N` into a device that is there.

    Raises:
        UsageError: the name means nothing, or this machine has no such device.
    """
    found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    has_cuda = found is not None and found.type == "cuda"
    if name == "auto":
        name = "cuda" if has_cuda else "cpu"
    kind, _, number = name.partition(":")
    if name != "cpu" and (kind != "cuda" or (number != "" and not number.isdecimal())):
        raise UsageError(f"expected --device auto, cpu, cuda or cuda:N, got {name!r}")
    if kind == "cpu":
        return torch.device("cpu")
    count = torch.accelerator.device_count() if has_cuda else 0
    if int(number or 0) >= count:
        raise UsageError(f"expected a device of this machine, got {name!r}, it has {count} GPUs")
    return torch.device("cuda", int(number or 0))
