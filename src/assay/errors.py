"""Everything that Assay raises on purpose, as one small tree."""


class AssayError(Exception):
    """Base class of every error raised on purpose; exit code 2 at the command line."""


class InputError(AssayError, ValueError):
    """Data or settings do not fit the method; exit code 3."""


class RefusedError(InputError):
    """A file of an audited party is malformed, oversized or tries to run code; exit code 3."""


class UsageError(AssayError, ValueError):
    """The command line or the call names something that does not exist; exit code 4."""


class MissingExtraError(AssayError, ImportError):
    """An optional dependency is not installed."""

    def __init__(self, extra: str) -> None:
        super().__init__(f"install the optional dependencies: pip install 'assay[{extra}]'")
