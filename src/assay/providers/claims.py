"""Who does a bundle: of all workers at a mailbox one, and another where that one is gone."""

import os
import pathlib
import platform
import secrets
import time
from typing import Any

from assay.errors import InputError
from assay.records import record
from assay.storage import documents

from .mailbox import Mailbox

_MAX_CLAIM = 2**12
_BEAT = ".beat"


@record
class Claim:
    """The right to do a bundle."""

    bundle: str
    number: int
    """From 1; another worker that takes over has one more."""

    @property
    def name(self) -> str:
        """Its number, as places have it."""
        return f"{self.number:04d}"


class Claims:
    """Takes bundles for one worker.

    A claim is a file that only one worker can create. Its worker changes a second file, the beat,
    all the time. Who sees the beat stand still for `lease_s` seconds, by its own clock, takes over;
    at once where the worker was a process of this machine that is gone.
    """

    def __init__(self, mailbox: Mailbox, *, lease_s: float) -> None:
        self._mailbox = mailbox
        self._lease_s = lease_s
        self._seen: dict[tuple[str, int], tuple[bytes | None, float]] = {}
        self._beats = 0
        self._me = {"worker": secrets.token_hex(8), **_this_process(os.getpid())}

    def take(self, bundle: str) -> Claim | None:
        """Claim a bundle, or return None where another worker has it."""
        numbers = [
            int(name)
            for name in self._mailbox.names(f"claims/{bundle}")
            if name.isdecimal() and name.isascii()
        ]
        held = max(numbers, default=0)
        if held and not self._is_left(bundle, held):
            return None
        claim = Claim(bundle=bundle, number=held + 1)
        content = documents.dump(self._me).encode()
        return claim if self._mailbox.create(_place(claim), content) else None

    def beat(self, claim: Claim) -> None:
        """Show that this worker is at work."""
        self._beats += 1
        content = f"{self._me['worker']} {self._beats}".encode()
        self._mailbox.replace(_place(claim) + _BEAT, content)

    def _is_left(self, bundle: str, number: int) -> bool:
        place = _place(Claim(bundle=bundle, number=number))
        if _is_gone(_read(self._mailbox, place)):
            return True
        beat, now = self._mailbox.read(place + _BEAT, _MAX_CLAIM), time.monotonic()
        last, since = self._seen.get((bundle, number), (None, now))
        if beat != last:
            since = now
        self._seen[bundle, number] = (beat, since)
        return now - since > self._lease_s


def _place(claim: Claim) -> str:
    return f"claims/{claim.bundle}/{claim.name}"


def _read(mailbox: Mailbox, place: str) -> dict[str, Any]:
    content = mailbox.read(place, _MAX_CLAIM)
    try:
        document = documents.load(content or b"")
    except InputError:
        return {}
    return document if isinstance(document, dict) else {}


def _this_process(number: int) -> dict[str, Any]:
    """Identify a process of this machine, so that no later one is taken for it."""
    return {"machine": _machine(), "process": number, "started": _started(number)}


def _is_gone(claim: dict[str, Any]) -> bool:
    """Tell whether a claim's worker was a process of this machine that is not there any more."""
    number = claim.get("process")
    if claim.get("machine") != _machine() or not isinstance(number, int):
        return False
    return _started(number) != claim.get("started")


def _machine() -> str:
    """Name this boot of this machine, and what it counts processes in."""
    try:
        boot = pathlib.Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {pathlib.Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return f"{platform.node()} {secrets.token_hex(8)}"


def _started(number: int) -> str | None:
    """Tell when a process was started, in the kernel's ticks; None where there is none."""
    try:
        stat = pathlib.Path(f"/proc/{number}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] == "Z" else fields[19]
