"""How settings and results are declared: frozen, keyword-only, printable."""

import dataclasses
from typing import TypeVar, dataclass_transform

import wadler_lindig

_T = TypeVar("_T")


@dataclass_transform(kw_only_default=True, eq_default=False, frozen_default=True)
def record(cls: type[_T]) -> type[_T]:
    """Make `cls` a frozen, keyword-only, slotted dataclass, compared by identity.

    Its `repr` shows every setting, with tensors as dtype and shape; it is test id, provenance and
    report heading.
    """
    made = dataclasses.dataclass(frozen=True, kw_only=True, slots=True, eq=False, repr=False)(cls)
    made.__repr__ = _show  # type: ignore[method-assign]
    return made


def _show(self: object) -> str:
    return wadler_lindig.pformat(self, width=10**6, hide_defaults=False)
