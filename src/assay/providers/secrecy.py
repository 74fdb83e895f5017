"""Which sub-runs are replicated, and whose answer goes on: drawn from a secret, committed before.

A provider must not be able to tell whether anybody else executes what it was sent. So every bundle
looks the same, and the main provider of each sub-run is drawn too: if it were always the same one,
everything that the others are sent would be a replica.
"""

import os
import pathlib
import re
import secrets
from collections.abc import Sequence
from typing import Any

import torch

from assay.errors import InputError
from assay.randomness import Seed, child, generator
from assay.records import record
from assay.storage.files import read_bounded

from .canonical import digest_document

_CPU = torch.device("cpu")
_SECRET = re.compile(r"[0-9a-f]{64}")


@record
class Secret:
    """What nobody but the client knows until the end."""

    text: str
    """64 hexadecimal digits: 256 bits of the system's entropy."""

    def replicated(self, *, attempt: int, places: Sequence[int], count: int) -> tuple[int, ...]:
        """Draw which sub-runs all providers execute, in ascending order.

        Args:
            attempt: 0, and one more whenever the training was rolled back: what is left is drawn
                anew, so that what providers saw before tells them nothing.
            places: the places in the training that are left.
            count: how many, at most all.
        """
        random = generator(self._seed("replicated", attempt), _CPU)
        order = torch.randperm(len(places), generator=random).tolist()
        return tuple(sorted(places[i] for i in order[:count]))

    def main(self, *, sub_run: int, providers: Sequence[str]) -> str:
        """Draw whose answer the training goes on with."""
        random = generator(self._seed("main", sub_run), _CPU)
        return providers[int(torch.randint(len(providers), (1,), generator=random))]

    def bundle(self, *, sub_run: int, provider: str) -> str:
        """Name a bundle so that the name tells nothing: 32 hexadecimal digits."""
        return digest_document({"secret": self.text, "sub_run": sub_run, "to": provider})[:32]

    def _seed(self, *names: str | int) -> Seed:
        return child(Seed(int(self.text, 16)), *names)


def choice(secret: Secret, *, places: int, count: int) -> dict[str, Any]:
    """Lay out what is committed to: the secret, and the sub-runs that it chooses at first."""
    replicated = secret.replicated(attempt=0, places=range(places), count=count)
    return {"secret": secret.text, "replicated": list(replicated)}


def commitment(chosen: dict[str, Any]) -> str:
    """SHA-256 of a choice; the secret in it is the nonce.

    Whoever holds it cannot tell the choice, and whoever made it cannot change it.
    """
    return digest_document({"schema": "assay/commitment/v1", **chosen})


def open_secret(path: pathlib.Path) -> Secret:
    """Read a run's secret, or draw one where there is none; its owner alone can read it.

    Raises:
        InputError: the file holds something else.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w", encoding="ascii") as file:
            file.write(f"{secrets.token_hex(32)}\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    text = read_bounded(path, 100).decode("ascii", errors="replace").strip()
    if not _SECRET.fullmatch(text):
        raise InputError(f"expected 64 hexadecimal digits in {path}, the run's secret")
    return Secret(text=text)
