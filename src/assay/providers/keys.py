"""Ed25519 keys: who wrote a bundle, an answer, the end of a ledger."""

import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from assay.errors import InputError
from assay.records import record
from assay.storage.files import read_bounded

from .canonical import canonical

_PUBLIC = re.compile(r"ed25519:[0-9a-f]{64}")
_SIGNATURE = "signature"
_MAX_KEY = 2**14


@record
class SigningKey:
    """A private key; its `repr` does not show it."""

    private: Ed25519PrivateKey

    @property
    def public(self) -> str:
        """The public part, as plans name it: `ed25519:` and 64 hexadecimal digits."""
        raw = self.private.public_key().public_bytes_raw()
        return f"ed25519:{raw.hex()}"

    def signed(self, document: Mapping[str, Any]) -> dict[str, Any]:
        """Add a signature over everything that the document holds."""
        if _SIGNATURE in document:
            raise InputError(f"expected a document without {_SIGNATURE!r}")
        return {**document, _SIGNATURE: self.private.sign(canonical(document)).hex()}


def fresh_key() -> SigningKey:
    """Make a key of the system's entropy."""
    return SigningKey(private=Ed25519PrivateKey.generate())


def open_key(path: pathlib.Path) -> SigningKey:
    """Read a private key, or make one where there is none, readable by its owner alone.

    Raises:
        InputError: the file holds no Ed25519 key, or others can read it.
    """
    if not path.exists():
        _write(path, fresh_key())
    if path.stat().st_mode & 0o077:
        raise InputError(f"expected a key that its owner alone can read: chmod 600 {path}")
    try:
        key = serialization.load_pem_private_key(read_bounded(path, _MAX_KEY), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InputError(f"expected an Ed25519 private key (PEM) in {path}: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InputError(f"expected an Ed25519 private key in {path}, got {type(key).__name__}")
    return SigningKey(private=key)


def _write(path: pathlib.Path, key: SigningKey) -> None:
    pem = key.private.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(pem)
    try:
        os.link(temporary, path)  # of two processes that make a key at once, one wins
    except FileExistsError:
        pass
    finally:
        temporary.unlink()


def check_public(text: object) -> str:
    """Check how a public key is written.

    Raises:
        InputError: it is none.
    """
    if not isinstance(text, str) or not _PUBLIC.fullmatch(text):
        raise InputError(f"expected a public key ed25519:<64 hexadecimal digits>, got {text!r}")
    return text


def is_signed_by(document: Mapping[str, Any], public: str) -> bool:
    """Tell whether the holder of a key signed a document as it is."""
    signature = document.get(_SIGNATURE)
    if not isinstance(signature, str):
        return False
    rest = {name: value for name, value in document.items() if name != _SIGNATURE}
    key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(public.removeprefix("ed25519:")))
    try:
        key.verify(bytes.fromhex(signature), canonical(rest))
    except (InvalidSignature, ValueError):
        return False
    return True
