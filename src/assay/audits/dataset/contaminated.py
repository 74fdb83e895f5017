"""Is what sets some samples of a class apart among its trusted samples too?"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from assay.records import record
from assay.samples import Samples
from assay.stats import fit_tail, tail_scan

from .decision import FEWEST_OTHERS, Decision

_NAMED = 5  # trusted samples in a reason
_ALIKE = 0.5  # as frequent among trusted samples as in the data, at least: more than chance


@record
class Kind:
    """Samples of a class that stand apart as those of no other class do."""

    suspects: Int64[Tensor, " kind"]
    """Which samples of the data set are of it, by index."""
    of: int
    """Samples of the class in the data set."""
    trusted: tuple[int, ...]
    """Which trusted samples of the calibration are of the kind, by index."""
    named: str
    """Some of these."""
    calibration: int
    """Samples of the class in the calibration."""

    @property
    def is_shared(self) -> bool:
        """Whether trusted samples are of it about as often as those of the data set."""
        return len(self.trusted) * self.of > _ALIKE * len(self.suspects) * self.calibration

    def is_among(self, flagged: Bool[Tensor, " samples"], own: Bool[Tensor, " samples"]) -> bool:
        """Whether as much of it is flagged as of its class, `own`: else it is the clean part."""
        return bool(flagged[self.suspects].double().mean() >= flagged[own].double().mean())

    @property
    def reason(self) -> str:
        """Why the class cannot be judged."""
        said = (
            f"{len(self.suspects)} of its {self.of} samples have in common what sets apart none of "
            f"the other classes, and so have {len(self.trusted)} of the {self.calibration} trusted "
            "ones that served as calibration"
        )
        if not self.trusted:
            return f"{said}: these are too few to tell; add trusted samples of the class"
        return (
            f"{said}: either the class is of two kinds, or the trusted set is poisoned; look at "
            f"its trusted samples, such as {self.named}"
        )


def kinds_apart(
    votes: Sequence[Float[Tensor, " samples"]],
    labels: Int64[Tensor, " samples"],
    *,
    trusted: Samples,
    rows: Int64[Tensor, " calibration"],
    decision: Decision,
    alpha: float,
) -> dict[int, Kind]:
    """Ask of every class whether some samples stand apart as in no other class, trusted or not.

    The class test takes trusted samples as clean: what they show too is no evidence. So a trusted
    set that is poisoned hides the poison of the data set. Its trigger is among the confusing
    samples then. Where these hold little of it, the poison still fits best; where they hold much,
    the model learns that the trigger, of all things, does not mean the label, and the poison fits
    worst, or as well as others. So each class outvotes (`outvoted`) its scores, and, in both
    directions, what its features vary by most before the confusion, which takes no trusted sample.
    Each is compared with the tail of what the other classes say of theirs. Of few classes nothing
    is asked: how much they differ by nature could not be told.

    Args:
        votes: of the suspects, then of the calibration (`outvoted`): from scores, and from places
            along what their class varies by most (`leading`), either way round.
        labels: of these.
        trusted: the trusted set.
        rows: which of its samples are the calibration.
        decision: whose odds and fewest samples count.
        alpha: family-wise rate of false alarms, over classes and directions.

    Returns:
        By class, the kind that stands apart most clearly.
    """
    index = torch.cat([labels.new_full((len(labels) - len(rows),), -1), rows])
    classes = trusted.classes
    counts = labels.bincount(minlength=classes)
    asked = (counts >= decision.fewest_samples).nonzero().squeeze(1).tolist()
    if len(asked) <= FEWEST_OTHERS:
        return {}
    judged = (counts >= decision.fewest_samples)[labels]
    found: dict[int, tuple[float, Kind]] = {}
    for voted in votes:
        for label in asked:
            own = labels == label
            scan = tail_scan(
                voted[own],
                fit_tail(voted[judged & ~own]),
                odds=decision.tail_odds,
                fewest=decision.fewest_poison,
            )
            least, _ = found.get(label, (alpha / (len(votes) * classes), None))
            if scan.p_value < least:
                kind = own & (voted >= scan.threshold)
                found[label] = (scan.p_value, _kind(kind, own, index, trusted))
    return {label: kind for label, (_, kind) in found.items()}


def _kind(
    kind: Bool[Tensor, " samples"],
    own: Bool[Tensor, " samples"],
    index: Int64[Tensor, " samples"],
    trusted: Samples,
) -> Kind:
    """Count suspects, whose index is -1, and trusted samples."""
    rows = index[kind & (index >= 0)].tolist()
    some = [trusted.ids[row] if trusted.ids else f"number {row}" for row in rows[:_NAMED]]
    counted = "" if trusted.ids else " (counted from 0)"
    return Kind(
        suspects=(kind & (index < 0)).nonzero().squeeze(1),
        of=int((own & (index < 0)).sum()),
        trusted=tuple(rows),
        named=", ".join(some) + (", ..." if len(rows) > _NAMED else "") + counted,
        calibration=int((own & (index >= 0)).sum()),
    )
