"""Documents as bytes that are always the same, so that they can be hashed and signed."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from assay.storage import documents


def canonical(document: Mapping[str, Any]) -> bytes:
    """Lay a document out in the one way that is hashed and signed.

    Args:
        document: numbers, strings, lists and maps only.

    Raises:
        InputError: it holds what JSON cannot.
    """
    encoded = documents.encode(document, "document")
    text = json.dumps(encoded, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return text.encode("ascii")


def digest_document(document: Mapping[str, Any]) -> str:
    """SHA-256 of a document; 64 hexadecimal digits."""
    return hashlib.sha256(canonical(document)).hexdigest()
