"""Which faults accuse, and which only leave a provider unjudged."""

import collections
from collections.abc import Mapping, Sequence

from .evidence import Delivery, Fault
from .found import FaultyDelivery

ACCUSING = frozenset({Fault.TAMPERED, Fault.REFUSED, Fault.COPIED})
"""No honest provider does this, whatever the recipe."""

ACCUSING_BESIDE_OTHERS = frozenset(
    {Fault.FOREIGN, Fault.TOO_FEW_STEPS, Fault.UNCHANGED, Fault.NOT_FINITE}
)
"""The recipe may be to blame: these accuse where at least half of what came for the same sub-run is
without this fault. So a sub-run that nobody else was given never accuses by them."""

EXCUSED = frozenset({Fault.MISSING, Fault.LATE, Fault.CRASHED, Fault.BROKEN})
"""Networks and machines fail: these accuse nobody, and leave a provider unjudged."""


def faulty(deliveries: Sequence[Delivery]) -> Mapping[str, tuple[FaultyDelivery, ...]]:
    """List the faulty deliveries of each provider, in the order of the sub-runs."""
    seen: dict[int, list[Delivery]] = collections.defaultdict(list)
    for delivery in deliveries:
        seen[delivery.sub_run].append(delivery)
    found: dict[str, list[FaultyDelivery]] = {d.provider: [] for d in deliveries}
    for delivery in sorted(deliveries, key=lambda d: (d.sub_run, d.provider)):
        if delivery.fault is not None:
            found[delivery.provider].append(
                FaultyDelivery(
                    sub_run=delivery.sub_run,
                    fault=delivery.fault.value,
                    detail=delivery.detail,
                    accuses=_accuses(delivery, seen[delivery.sub_run]),
                )
            )
    return {name: tuple(rows) for name, rows in found.items()}


def _accuses(delivery: Delivery, same: Sequence[Delivery]) -> bool:
    if delivery.fault in ACCUSING:
        return True
    if delivery.fault not in ACCUSING_BESIDE_OTHERS:
        return False
    came = [other for other in same if other.fault not in EXCUSED]
    alike = sum(other.fault is delivery.fault for other in came)
    return 2 * alike <= len(came)
