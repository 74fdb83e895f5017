"""The provider's side: take the next bundle, check it, train, sign what came out."""

import pathlib
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from assay.errors import AssayError, InputError, RefusedError, UsageError
from assay.records import record
from assay.storage import documents
from assay.storage.data import digest
from assay.storage.run_info import now
from assay.storage.weights import read_weights

from .bundle import (
    BUNDLE,
    DEEPEST,
    ID,
    MANIFEST,
    MAX_MANIFEST,
    ORDER,
    START,
    Bundle,
    parse_bundle,
    part_entry,
)
from .canonical import digest_document
from .claims import Claim, Claims
from .environment import MAX_STATED, stated_environment
from .execute import ENVIRONMENT, LOG, WEIGHTS
from .executors import Executor, Running, Work
from .keys import SigningKey, is_signed_by
from .mailbox import Mailbox, UnreachableError
from .receiving import RESULT_SCHEMA, FaultError, check_log
from .weights import digest_weights, read_weights_like

_MAX_DOCUMENT = 2**24
_WAIT_S = 0.1
_AGAIN_S = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)
"""How long to wait before an answer is sent again to a mailbox that cannot be reached."""


class RejectedError(AssayError):
    """A bundle is not executed: it is not what it says, or what it needs is not here."""


@record
class Place:
    """What a provider has, and how it works."""

    key: SigningKey
    code: pathlib.Path
    """The folder of the code files."""
    data: str | None
    """The data, as `assay dataset` takes them; handed to the code as it is."""
    work: pathlib.Path
    """A folder for bundles that are being executed."""
    executor: Executor
    client: str | None = None
    """The client's public key. Without it, anybody who can write to the mailbox can ask; then only
    callables of the code files are run, and no commands."""
    max_mb: int = 16_384
    """What start weights may take."""
    lease_s: float = 300.0
    """After how long without a sign of life another worker's bundle is taken over."""


def work(
    mailbox: Mailbox,
    place: Place,
    *,
    once: bool,
    poll_s: float,
    say: Callable[[str], None],
) -> int:
    """Do the bundles of a mailbox.

    Args:
        mailbox: this provider's.
        place: what the provider has.
        once: whether to end when nothing is left to do, rather than wait for more.
        poll_s: how often to look for more.
        say: is told what happens.

    Returns:
        How many bundles were answered.

    Raises:
        UsageError: there is something to do, and there are no such data, or none are named: each
            bundle would be answered as failed, and count against the provider.
        UnreachableError: the mailbox does not answer, and `once` is set.
    """
    worker = _Worker(mailbox, place, say)
    answered, told = 0, False
    while True:
        try:
            did = worker.next()
        except UnreachableError as error:
            if once:
                raise
            say(str(error))
            time.sleep(poll_s)
            continue
        answered += did
        if did:
            continue
        if not (answered or told):
            say(f"nothing to do in {mailbox.url}" + ("" if once else "; waiting for bundles"))
            told = True
        if once:
            return answered
        time.sleep(poll_s)


class _Worker:
    def __init__(self, mailbox: Mailbox, place: Place, say: Callable[[str], None]) -> None:
        self._mailbox = mailbox
        self._place = place
        self._say = say
        self._claims = Claims(mailbox, lease_s=place.lease_s)
        self._finished: set[str] = set()
        self._data: str | None = None

    def next(self) -> bool:
        """Do one bundle, if there is one to do."""
        for name in self._mailbox.names("bundles"):
            if ID.fullmatch(name):
                try:
                    if self._did(name):
                        return True
                except RefusedError as error:
                    self._say(f"bundle {name} is left alone: {error}")
                    self._finished.add(name)
        return False

    def _did(self, name: str) -> bool:
        if not self._is_open(name):
            return False
        self._look_at_data()
        claim = self._claims.take(name)
        if claim is None or not self._is_open(name):
            return False
        self._do(claim)
        return True

    def _look_at_data(self) -> None:
        """Take the digest of the data, before a bundle is taken that needs them."""
        if self._data is None:
            if self._place.data is None:
                raise UsageError("expected the training data that the plan names (--data DATA)")
            self._data = digest(self._place.data)

    def _is_open(self, name: str) -> bool:
        if name in self._finished or not self._mailbox.exists(f"bundles/{name}/{MANIFEST}"):
            return False
        ends = (f"results/{name}/{MANIFEST}", f"bundles/{name}/withdrawn")
        if any(self._mailbox.exists(end) for end in ends):
            self._finished.add(name)
            return False
        return True

    def _do(self, claim: Claim) -> None:
        self._beat(claim)
        self._place.work.mkdir(parents=True, exist_ok=True)
        folder = pathlib.Path(tempfile.mkdtemp(dir=self._place.work, prefix=f"{claim.bundle}."))
        try:
            self._answer(claim, folder)
        finally:
            shutil.rmtree(folder)

    def _answer(self, claim: Claim, folder: pathlib.Path) -> None:
        answer: dict[str, Any] = {"started": now()}
        parts: dict[str, pathlib.Path] = {}
        try:
            manifest = self._manifest(claim.bundle)
            answer |= {"asked": digest_document(manifest)}
            bundle = self._fetch(claim.bundle, manifest, folder)
            answer |= {"provider": bundle.provider}
            self._say(f"bundle {claim.bundle}: steps {bundle.first_step} to {_last(bundle)}")
            parts = self._train(claim, bundle, folder)
            answer |= {"state": "done", "environment": _environment(folder)}
        except (RejectedError, FaultError, InputError, UsageError) as error:
            self._say(f"bundle {claim.bundle} failed: {error}")
            answer |= {"state": "failed", "error": str(error)[: MAX_STATED * 4]}
        self._deliver(claim, answer, parts)

    def _manifest(self, name: str) -> dict[str, Any]:
        content = self._mailbox.read(f"bundles/{name}/{MANIFEST}", MAX_MANIFEST)
        manifest = documents.load(content or b"", deepest=DEEPEST)
        if not isinstance(manifest, dict) or manifest.get("id") != name:
            raise RejectedError(f"expected a manifest of bundle {name}")
        client = self._place.client
        if client is not None and not is_signed_by(manifest, client):
            raise RejectedError("the bundle is not signed by the client's key")
        return manifest

    def _fetch(self, name: str, manifest: Mapping[str, Any], folder: pathlib.Path) -> Bundle:
        """Copy the parts of a bundle to this machine, and check everything that can be checked."""
        parts = manifest.get("parts")
        wanted = {BUNDLE, START, ORDER}
        if not isinstance(parts, dict) or not {BUNDLE, START} <= parts.keys() <= wanted:
            raise RejectedError(f"expected the parts {sorted(wanted)}, got {parts!r:.200}")
        for part, entry in parts.items():
            most = self._place.max_mb * 2**20 if part != BUNDLE else _MAX_DOCUMENT
            got = self._mailbox.fetch(f"bundles/{name}/{part}", folder / part, most)
            if got is None or not isinstance(entry, dict) or got.sha256 != entry.get("sha256"):
                raise RejectedError(f"{part} of the bundle is missing or was changed")
        bundle = parse_bundle(documents.load((folder / BUNDLE).read_bytes()), BUNDLE)
        self._check(bundle, folder)
        return bundle

    def _check(self, bundle: Bundle, folder: pathlib.Path) -> None:
        if bundle.recipe.command and self._place.client is None:
            raise RejectedError("a command is only run for a client whose key was given (--client)")
        changed = bundle.recipe.changed(self._place.code)
        if changed:
            raise RejectedError(
                f"the code differs from the plan's: {changed[0]} in {self._place.code} is "
                "missing or holds something else"
            )
        if self._data != bundle.data_sha256:
            raise RejectedError(
                f"the data differ from the plan's: expected {bundle.data_sha256}, got {self._data}"
            )
        start = read_weights(folder / START, max_mb=self._place.max_mb)
        if digest_weights(start) != bundle.start:
            raise RejectedError("the start weights are not those that the bundle names")

    def _train(self, claim: Claim, bundle: Bundle, folder: pathlib.Path) -> dict[str, pathlib.Path]:
        output = folder / "output"
        output.mkdir()
        asked = Work(
            command=bundle.recipe.command,
            code=self._place.code.absolute(),
            bundle=folder.absolute(),
            output=output.absolute(),
            data=absolute(str(self._place.data)),
        )
        self._wait(claim, self._place.executor.start(asked))
        parts = {name: output / name for name in (WEIGHTS, LOG)}
        missing = [name for name, path in parts.items() if not path.is_file()]
        if missing:
            raise RejectedError(f"the training code left no {missing[0]}")
        start = read_weights(folder / START, max_mb=self._place.max_mb)
        _check_parts(bundle, start, parts)
        if not (output / ENVIRONMENT).is_file():
            (output / ENVIRONMENT).write_text(stated_environment(start), encoding="utf-8")
        return parts

    def _wait(self, claim: Claim, running: Running) -> None:
        beaten = time.monotonic()
        try:
            while (ended := running.poll()) is None:
                time.sleep(_WAIT_S)
                if time.monotonic() - beaten > self._place.lease_s / 10:
                    beaten = time.monotonic()
                    self._beat(claim)
        finally:
            running.stop()
        if ended.error is not None:
            raise RejectedError(f"the training failed: {ended.error}")

    def _beat(self, claim: Claim) -> None:
        """Show that this worker is at work; where that fails, the next time may do."""
        try:
            self._claims.beat(claim)
        except UnreachableError as error:
            self._say(str(error))

    def _deliver(
        self, claim: Claim, answer: Mapping[str, Any], parts: Mapping[str, pathlib.Path]
    ) -> None:
        document = self._place.key.signed(
            {
                "schema": RESULT_SCHEMA,
                "bundle": claim.bundle,
                "asked": "",
                "provider": "",
                "environment": "",
                "error": "",
                **answer,
                "ended": now(),
                "place": claim.name,
                "parts": {name: part_entry(file) for name, file in parts.items()},
            }
        )
        first = self._insist(claim, document, parts)
        self._finished.add(claim.bundle)
        if not first:
            self._say(f"bundle {claim.bundle} was answered by another worker meanwhile")

    def _insist(
        self, claim: Claim, document: Mapping[str, Any], parts: Mapping[str, pathlib.Path]
    ) -> bool:
        """Send an answer, again where the mailbox cannot be reached: it took its time to make."""
        for wait_s in _AGAIN_S:
            try:
                return self._send(claim, document, parts)
            except RefusedError:  # a link is in the way
                raise
            except UnreachableError as error:
                self._say(f"{error}; trying again in {wait_s:.0f} s")
            time.sleep(wait_s)
            self._beat(claim)
        return self._send(claim, document, parts)

    def _send(
        self, claim: Claim, document: Mapping[str, Any], parts: Mapping[str, pathlib.Path]
    ) -> bool:
        place = f"results/{claim.bundle}"
        for name, file in parts.items():
            self._mailbox.put(f"{place}/{claim.name}/{name}", file)
        return self._mailbox.create(f"{place}/{MANIFEST}", documents.dump(document).encode())


def _check_parts(
    bundle: Bundle, start: Mapping[str, Tensor], parts: Mapping[str, pathlib.Path]
) -> None:
    """Check what the training left as the client will: a slip in its code is no fraud.

    Raises:
        InputError: the weights are malformed, or have other tensors than the start weights.
        FaultError: the log is not what was asked for.
    """
    weights = read_weights_like(parts[WEIGHTS], start)
    check_log(parts[LOG], weights, first_step=bundle.first_step, steps=bundle.steps)


def absolute(source: str) -> str:
    """Make a path independent of the working directory; what is no path stays as it is."""
    path = pathlib.Path(source.partition("#")[0])
    return str(pathlib.Path(source).absolute()) if path.exists() else source


def _last(bundle: Bundle) -> int:
    return bundle.first_step + bundle.steps - 1


def _environment(folder: pathlib.Path) -> str:
    text = (folder / "output" / ENVIRONMENT).read_text(encoding="utf-8", errors="replace")
    return " ".join(text.split())[:MAX_STATED]
