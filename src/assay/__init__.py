"""Audits outsourced machine learning for hidden backdoors."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import audit_dataset as audit_dataset
    from .api import audit_encoders as audit_encoders
    from .api import audit_models as audit_models
    from .api import audit_prompts as audit_prompts
    from .api import audit_training as audit_training

__all__ = ["audit_dataset", "audit_encoders", "audit_models", "audit_prompts", "audit_training"]


def __getattr__(name: str) -> Any:
    """Import the audits when the first of them is asked for: a provider's worker asks for none."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(".api", __name__), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
