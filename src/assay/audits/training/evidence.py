"""What replicated sub-runs leave to be judged: deliveries, faults, and distances."""

import enum
from collections.abc import Mapping

from jaxtyping import Float64
from torch import Tensor

from assay.records import record


class Fault(enum.Enum):
    """What is wrong with a delivery before anything is compared."""

    MISSING = "missing"
    """Nothing came before the deadline."""
    LATE = "late"
    """It came after the deadline."""
    CRASHED = "crashed"
    """The provider said that its training failed."""
    BROKEN = "broken"
    """A file is truncated or malformed."""
    REFUSED = "refused"
    """A file could run code when it is opened, or is larger than the bundle allows."""
    NOT_FINITE = "not_finite"
    """Weights are NaN or infinite."""
    UNCHANGED = "unchanged"
    """The weights are the start weights."""
    TOO_FEW_STEPS = "too_few_steps"
    """The log does not tell of the steps that were asked, up to the delivered weights."""
    COPIED = "copied"
    """It is another provider's answer, or the answer to another bundle."""
    FOREIGN = "foreign"
    """The tensors are not those of the start weights, by name, shape or number format."""
    TAMPERED = "tampered"
    """Digests or the signature do not match."""


@record
class Delivery:
    """What one provider answered to one bundle."""

    provider: str
    sub_run: int
    """From 0, in the order of training."""
    replicated: bool
    """Whether other providers were given the same sub-run."""
    environment: str
    """What the provider says that it computed with: hardware, libraries, threads, number format;
    equal strings stand for equal environments. Empty where nothing came."""
    digest: str | None
    """SHA-256 of the weights, 64 hexadecimal digits; None where there are none."""
    fault: Fault | None
    detail: str = ""
    """What was expected and what came, for a reader; empty without a fault."""


@record
class Comparison:
    """How far the deliveries of one replicated sub-run lie apart; only those without a fault."""

    sub_run: int
    providers: tuple[str, ...]
    distances: Mapping[str, Float64[Tensor, "providers providers"]]
    """By name of the distance: symmetric, zero on the diagonal, at least 0; higher is further."""
