"""Seeds are arguments, derived by name; nobody else touches the global generator."""

import contextlib
import hashlib
from collections.abc import Iterator
from typing import NewType

import torch

Seed = NewType("Seed", int)


def child(seed: Seed, *names: str | int) -> Seed:
    """Derive the seed of a named part of the work; adding parts never changes the others.

    Returns:
        A seed in [0, 2**63).
    """
    text = "/".join([str(seed), *(f"{type(n).__name__}:{n}" for n in names)])
    return Seed(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1)


def generator(seed: Seed, device: torch.device) -> torch.Generator:
    """Make a generator on `device`, started at `seed`."""
    return torch.Generator(device=device).manual_seed(seed)


@contextlib.contextmanager
def isolated(seed: Seed, device: torch.device) -> Iterator[None]:
    """Seed torch's global generators inside the block and restore them after it.

    Those of the CPU and of `device`; other devices are left alone. For code that we do not own and
    that draws from them: weight initialisation and dropout.
    """
    devices = [device] if device.type != "cpu" else []
    with torch.random.fork_rng(devices=devices, device_type=device.type):
        torch.default_generator.manual_seed(seed)
        if devices:
            with torch.accelerator.device_index(device.index):
                torch.get_device_module(device).manual_seed(seed)
        yield
