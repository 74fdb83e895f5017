"""The client's side of an answer: everything is checked before anything is believed."""

import dataclasses
import datetime
import pathlib
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from assay.audits.training import Delivery, Fault
from assay.errors import AssayError, InputError, RefusedError
from assay.records import record
from assay.reports.text import plain
from assay.storage import documents
from assay.storage.files import read_bounded

from .bundle import DEEPEST, MANIFEST
from .environment import MAX_STATED
from .execute import LOG, WEIGHTS
from .keys import is_signed_by
from .mailbox import Fetched, Mailbox
from .weights import HEADER_ROOM, differences, digest_weights, read_weights_like, size_of

RESULT_SCHEMA = "assay/training-result/v1"
_TEXTS = ("schema", "bundle", "asked", "provider", "state", "environment", "error", "place")
_FIELDS = frozenset({*_TEXTS, "started", "ended", "parts", "signature"})
_MAX_MANIFEST = 2**15
"""Bytes of the manifest of an answer, which the ledger keeps: usually 1,000, and at most 25,000
where an error of 2,000 characters takes 12 bytes for each."""
_LOG_LINE = 256
"""Bytes that a line of the log may take, on average."""
_PICKLES = (b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
_PICKLED = (".pt", ".pth", ".bin", ".pkl")
_DETAIL = 500


@record
class Asked:
    """What one provider was asked."""

    provider: str
    key: str
    """The provider's public key."""
    others: Mapping[str, str]
    """Public keys of the other providers, by name."""
    bundle: str
    """The bundle's name."""
    manifest: str
    """Digest of the bundle's manifest."""
    sub_run: int
    replicated: bool
    first_step: int
    steps: int


@record
class Received:
    """What one provider answered."""

    delivery: Delivery
    weights: dict[str, Tensor] | None
    """None where there is a fault."""
    manifest: dict[str, Any] | None
    """As the provider signed it; None where nothing that could be read came."""
    log: bytes | None = None
    """Its log, a JSON object a line; None where there is a fault."""


class FaultError(AssayError):
    """An answer that is not what was asked for."""

    def __init__(self, fault: Fault, detail: str) -> None:
        super().__init__(detail)
        self.fault = fault


def missing(asked: Asked, detail: str) -> Received:
    """Say that nothing came."""
    return _received(asked, None, FaultError(Fault.MISSING, detail))


def late(received: Received, came: datetime.datetime, deadline: datetime.datetime) -> Received:
    """Say that an answer came after the deadline, unless something worse is wrong with it."""
    if received.delivery.fault not in {None, Fault.MISSING}:
        return received
    said = f"expected it by {deadline.isoformat()}, it came at {came.isoformat()}"
    delivery = dataclasses.replace(received.delivery, fault=Fault.LATE, detail=said)
    return Received(delivery=delivery, weights=None, manifest=received.manifest)


def receive(
    mailbox: Mailbox, asked: Asked, start: Mapping[str, Tensor], work: pathlib.Path
) -> Received | None:
    """Take a provider's answer, if there is one.

    Args:
        mailbox: the provider's.
        asked: what it was asked.
        start: the start weights.
        work: an empty folder to copy parts to.

    Returns:
        The answer with its weights, or with its fault; None where there is none yet.

    Raises:
        UnreachableError: the mailbox does not answer.
    """
    manifest: dict[str, Any] | None = None
    try:
        content = _bounded_manifest(mailbox, asked)
        if content is None:
            return None
        manifest = _parse(content)
        _check_source(manifest, asked)
        _fetch(mailbox, asked, manifest, start, work)
        weights = _weights(work / WEIGHTS, start)
        check_log(work / LOG, weights, first_step=asked.first_step, steps=asked.steps)
        return Received(
            delivery=_delivery(asked, manifest, digest_weights(weights), None),
            weights=weights,
            manifest=manifest,
            log=read_bounded(work / LOG, _most_log(asked.steps)),
        )
    except FaultError as error:
        return _received(asked, manifest, error)


def _received(asked: Asked, manifest: dict[str, Any] | None, error: FaultError) -> Received:
    return Received(
        delivery=_delivery(asked, manifest, None, error), weights=None, manifest=manifest
    )


def _delivery(
    asked: Asked, manifest: Mapping[str, Any] | None, digest: str | None, error: FaultError | None
) -> Delivery:
    stated = "" if manifest is None else manifest.get("environment", "")
    return Delivery(
        provider=asked.provider,
        sub_run=asked.sub_run,
        replicated=asked.replicated,
        environment=plain(stated if isinstance(stated, str) else "", MAX_STATED),
        digest=digest,
        fault=None if error is None else error.fault,
        detail="" if error is None else plain(str(error), _DETAIL),
    )


def _bounded_manifest(mailbox: Mailbox, asked: Asked) -> bytes | None:
    try:
        return mailbox.read(f"results/{asked.bundle}/{MANIFEST}", _MAX_MANIFEST)
    except RefusedError as error:
        raise FaultError(Fault.REFUSED, str(error)) from error


def _parse(content: bytes) -> dict[str, Any]:
    try:
        document = documents.load(content, deepest=DEEPEST)
    except InputError as error:
        raise FaultError(Fault.BROKEN, f"the manifest is broken: {error}") from error
    if not isinstance(document, dict) or not all(isinstance(document.get(t), str) for t in _TEXTS):
        raise FaultError(Fault.BROKEN, f"expected a manifest with the texts {', '.join(_TEXTS)}")
    more = sorted(document.keys() - _FIELDS)
    if more:
        raise FaultError(
            Fault.BROKEN,
            f"expected a manifest of {', '.join(sorted(_FIELDS))}, got {more[0]!r:.50} besides",
        )
    if document["schema"] != RESULT_SCHEMA or document["state"] not in {"done", "failed"}:
        raise FaultError(
            Fault.BROKEN,
            f"expected a manifest of {RESULT_SCHEMA}, done or failed, got {document['schema']!r}, "
            f"{document['state']!r}",
        )
    return document


def _check_source(manifest: Mapping[str, Any], asked: Asked) -> None:
    """Check who answered, and what was answered."""
    if not is_signed_by(manifest, asked.key):
        for name, key in asked.others.items():
            if is_signed_by(manifest, key):
                raise FaultError(
                    Fault.COPIED, f"expected {asked.provider}'s signature, got {name}'s"
                )
        raise FaultError(
            Fault.TAMPERED,
            f"the manifest does not carry {asked.provider}'s signature ({asked.key})",
        )
    got = (manifest["bundle"], manifest["asked"])
    blind = manifest["state"] == "failed" and manifest["asked"] == ""
    if got != (asked.bundle, "" if blind else asked.manifest):
        raise FaultError(
            Fault.COPIED, f"expected the answer to bundle {asked.bundle}, got one to {got[0]}"
        )
    if manifest["state"] == "failed":
        raise FaultError(Fault.CRASHED, f"the provider says: {manifest['error']}")


def _fetch(
    mailbox: Mailbox,
    asked: Asked,
    manifest: Mapping[str, Any],
    start: Mapping[str, Tensor],
    work: pathlib.Path,
) -> None:
    """Copy the parts, none larger than it has reason to be, each as its digest says."""
    place, parts = manifest["place"], manifest.get("parts")
    if not isinstance(parts, dict) or parts.keys() != {WEIGHTS, LOG}:
        raise _odd_parts(parts)
    if not (place.isdecimal() and place.isascii() and len(place) <= 8):
        raise FaultError(Fault.BROKEN, f"expected a number as place of the parts, got {place:.50}")
    bounds = {WEIGHTS: size_of(start) + HEADER_ROOM, LOG: _most_log(asked.steps)}
    for name, most in bounds.items():
        where = f"results/{asked.bundle}/{place}/{name}"
        try:
            got = mailbox.fetch(where, work / name, most)
        except RefusedError as error:
            raise FaultError(Fault.REFUSED, str(error)) from error
        _check_part(name, got, parts[name])


def _odd_parts(parts: object) -> FaultError:
    came = sorted(map(str, parts)) if isinstance(parts, dict) else [type(parts).__name__]
    if any(name.endswith(_PICKLED) for name in came):
        return FaultError(Fault.REFUSED, f"expected {WEIGHTS}, got a pickle: {', '.join(came)}")
    return FaultError(
        Fault.BROKEN, f"expected the parts {WEIGHTS} and {LOG}, got {', '.join(came) or 'none'}"
    )


def _check_part(name: str, got: Fetched | None, said: object) -> None:
    if got is None or not isinstance(said, dict):
        raise FaultError(Fault.BROKEN, f"{name} is not there, but the manifest names it")
    if got.size != said.get("size"):
        raise FaultError(
            Fault.BROKEN, f"{name} is truncated: expected {said.get('size')} bytes, got {got.size}"
        )
    if got.sha256 != said.get("sha256"):
        raise FaultError(Fault.TAMPERED, f"{name} is not what the manifest's digest says")


def _most_log(steps: int) -> int:
    return 2**16 + steps * _LOG_LINE


def _weights(path: pathlib.Path, start: Mapping[str, Tensor]) -> dict[str, Tensor]:
    with path.open("rb") as file:
        beginning = file.read(4)
    if beginning.startswith(_PICKLES):
        raise FaultError(
            Fault.REFUSED, f"{WEIGHTS} is a pickle or an archive of pickles; it was not opened"
        )
    try:
        odd = differences(path, start)
    except RefusedError as error:
        raise FaultError(Fault.BROKEN, str(error).replace(str(path), WEIGHTS)) from error
    if odd:
        raise FaultError(
            Fault.FOREIGN, f"{len(odd)} tensors differ from the start weights': {odd[0]}"
        )
    weights = read_weights_like(path, start)
    bad = [name for name, value in weights.items() if not value.isfinite().all()]
    if bad:
        raise FaultError(Fault.NOT_FINITE, f"NaN or infinity in {len(bad)} tensors: {bad[0]}")
    if digest_weights(weights) == digest_weights(start):
        raise FaultError(Fault.UNCHANGED, "the weights are the start weights")
    return weights


def check_log(
    path: pathlib.Path, weights: Mapping[str, Tensor], *, first_step: int, steps: int
) -> None:
    """Check a log: one line a step, in order, ending in the delivered weights.

    What a log holds depends on the recipe too, so only files that are broken and steps that are not
    told of are faults; the provider's worker checks the same before it signs.

    Args:
        path: the log.
        weights: those that are delivered with it.
        first_step: of the steps that were asked, in the whole training.
        steps: how many.

    Raises:
        FaultError: the log is not what was asked for.
    """
    try:
        lines = step_lines(read_bounded(path, _most_log(steps)))
    except InputError as error:
        raise FaultError(
            Fault.BROKEN, f"{LOG} is broken: {error}".replace(str(path), LOG)
        ) from error
    numbers, last = [line["step"] for line in lines], first_step + steps - 1
    if numbers != list(range(first_step, last + 1)):
        got = f"{numbers[0]!r:.20} to {numbers[-1]!r:.20}" if numbers else "none"
        raise FaultError(
            Fault.TOO_FEW_STEPS,
            f"expected the steps {first_step} to {last} in the log, each once and in order, got "
            f"{len(numbers)} steps: {got}; call on_step once after each step, with first_step as "
            "the number of the first",
        )
    if step_digest(lines[-1]) not in {None, digest_weights(weights)}:
        raise FaultError(
            Fault.TOO_FEW_STEPS,
            "expected a log that ends in the delivered weights, got the digest of others after "
            f"step {last}; call on_step with all tensors that are returned, as the step left them",
        )


def step_lines(log: bytes) -> list[dict[str, Any]]:
    """Read the lines of a log that tell of a step; others are the training code's own.

    Raises:
        InputError: a line is no JSON.
    """
    lines = [documents.load(line, deepest=DEEPEST) for line in log.splitlines() if line.strip()]
    return [line for line in lines if isinstance(line, dict) and "step" in line]


def step_digest(line: Mapping[str, Any]) -> str | None:
    """Give the digest of the weights after a step, where the log holds it."""
    digest = line.get("digest")
    return digest if isinstance(digest, str) and len(digest) == 64 else None
