"""Reading a document that a person or another party wrote, with errors that say what is wrong."""

import math
from collections.abc import Mapping
from typing import Any

from assay.errors import InputError


class Fields:
    """The fields of a document, taken one by one; `end` refuses what nobody took.

    Every method raises InputError where a field is missing or is not what it should be.
    """

    def __init__(self, document: object, where: str) -> None:
        if not isinstance(document, Mapping):
            raise InputError(f"expected named fields in {where}, got {type(document).__name__}")
        self._left = dict(document)
        self._where = where

    def take(self, name: str, wanted: str, kind: type | tuple[type, ...]) -> Any:
        """Take a field that must be there."""
        value = self._left.pop(name, None)
        if not isinstance(value, kind) or isinstance(value, bool) != (kind is bool):
            came = "nothing" if value is None else repr(value)[:200]
            raise InputError(f"expected {name}: {wanted} in {self._where}, got {came}")
        return value

    def has(self, name: str) -> bool:
        """Tell whether a field is there."""
        return self._left.get(name) is not None

    def text(self, name: str) -> str:
        """Take printable text."""
        value: str = self.take(name, "text", str)
        if not value or not value.isprintable():
            raise InputError(f"expected {name}: printable text in {self._where}, got {value!r}")
        return value

    def optional(self, name: str) -> str | None:
        """Take text that may be missing."""
        if self.has(name):
            return self.text(name)
        self._left.pop(name, None)
        return None

    def whole(self, name: str, least: int, most: int = 2**63 - 1) -> int:
        """Take a whole number."""
        value: int = self.take(name, "a whole number", int)
        if not least <= value <= most:
            raise InputError(f"expected {name}: {least} to {most} in {self._where}, got {value}")
        return value

    def number(self, name: str, low: float, high: float) -> float:
        """Take a number above `low` and below `high`."""
        value = float(self.take(name, "a number", (int, float)))
        if not (low < value < high and math.isfinite(value)):
            raise InputError(
                f"expected {name}: above {low:g} and below {high:g} in {self._where}, got {value}"
            )
        return value

    def flag(self, name: str, *, default: bool) -> bool:
        """Take yes or no."""
        return self.take(name, "true or false", bool) if self.has(name) else default

    def end(self) -> None:
        """Refuse fields that mean nothing."""
        odd = sorted(str(name) for name, value in self._left.items() if value is not None)
        if odd:
            raise InputError(f"expected no field {odd[0]!r} in {self._where}: it means nothing")
