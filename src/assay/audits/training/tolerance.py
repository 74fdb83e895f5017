"""Tolerance profiles: how far honest twins lie apart, by pair of environments."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from assay.errors import InputError
from assay.records import record

from .evidence import Comparison

SCHEMA = "assay/tolerance-profile/v1"
RESOLUTION = 1e-6
"""Distances are not told apart below this: equal twins are 1e-6 apart."""
_CALMEST = 1e-3
"""Honest twins that are not equal are not expected to stay nearer than this: what rounding does
grows with the steps (twins 7e-7 apart in the first sub-runs lay 2e-6 apart in later ones)."""
_MOST = 10_000  # tolerances in a document
_LONGEST = 1_000  # characters of an environment


@record
class Tolerance:
    """How far honest twins from one pair of environments lay apart."""

    environments: tuple[str, str]
    """As providers name them, in the order of the alphabet; twice the same for twins that differ in
    nothing."""
    distance: str
    largest: float
    """The largest distance among them, at least 0."""
    twins: int
    """How many distances it rests on, at least 1."""

    @property
    def is_exact(self) -> bool:
        """Whether twins of the same environment were equal."""
        return self.environments[0] == self.environments[1] and self.largest == 0


@record
class Profile:
    """Tolerances of all pairs of environments that were calibrated."""

    tolerances: tuple[Tolerance, ...]

    def find(self, first: str, second: str, distance: str) -> Tolerance | None:
        """Return the tolerance of a pair, in either order, or None where it was not calibrated."""
        wanted = (*sorted((first, second)), distance)
        for each in self.tolerances:
            if (*each.environments, each.distance) == wanted:
                return each
        return None

    def expected(self, distance: str) -> Mapping[tuple[str, str], float]:
        """Say how far honest providers from each calibrated pair of environments may lie apart.

        Rounding errors grow chaotically: a pair that was calm while it was calibrated may be as
        loud as another one in the next sub-run. So no pair is expected to be calmer than half as
        loud as the loudest one, and none nearer than 0.001; but the same environment twice, where
        twins were equal.

        Returns:
            Distances, at least `RESOLUTION`, by environments in the order of the alphabet.
        """
        own = [each for each in self.tolerances if each.distance == distance]
        least = max(_CALMEST, max((each.largest for each in own), default=0.0) / 2)
        return {
            each.environments: RESOLUTION if each.is_exact else max(each.largest, least)
            for each in own
        }


def make_profile(twins: Sequence[Comparison], environments: Mapping[str, str]) -> Profile:
    """Calibrate from sub-runs that the client executed several times, honestly.

    Args:
        twins: one comparison a sub-run; of its "providers" each is one execution.
        environments: of each execution, by its name.

    Raises:
        InputError: there are no pairs, or an execution has no environment.

    Example:
        >>> import torch
        >>> apart = torch.tensor([[0.0, 0.02], [0.02, 0.0]], dtype=torch.float64)
        >>> twins = Comparison(sub_run=0, providers=("a", "b"), distances={"update": apart})
        >>> profile = make_profile([twins], {"a": "fp32", "b": "bf16"})
        >>> profile.expected("update")
        {('bf16', 'fp32'): 0.02}
    """
    found: dict[tuple[str, str, str], list[float]] = {}
    for comparison in twins:
        unknown = [name for name in comparison.providers if name not in environments]
        if unknown:
            raise InputError(f"expected an environment for every execution, none for {unknown}")
        for i, j in itertools.combinations(range(len(comparison.providers)), 2):
            first, second = sorted(environments[comparison.providers[place]] for place in (i, j))
            for distance, apart in comparison.distances.items():
                found.setdefault((first, second, distance), []).append(apart[i, j].item())
    if not found:
        raise InputError("expected two executions of a sub-run or more, to compare them")
    return Profile(
        tolerances=tuple(
            Tolerance(
                environments=(first, second),
                distance=distance,
                largest=max(values),
                twins=len(values),
            )
            for (first, second, distance), values in sorted(found.items())
        )
    )


def profile_document(profile: Profile) -> dict[str, Any]:
    """Lay a profile out as JSON."""
    return {
        "schema": SCHEMA,
        "tolerances": [
            {
                "environments": list(each.environments),
                "distance": each.distance,
                "largest": each.largest,
                "twins": each.twins,
            }
            for each in profile.tolerances
        ],
    }


def parse_profile(document: object) -> Profile:
    """Undo `profile_document`.

    Raises:
        InputError: it is no profile, or a number in it makes no sense.
    """
    found = document.get("schema") if isinstance(document, Mapping) else None
    if not isinstance(document, Mapping) or found != SCHEMA:
        raise InputError(f"expected a profile of schema {SCHEMA!r}, got {found!r}")
    rows = document.get("tolerances")
    if not isinstance(rows, list) or len(rows) > _MOST:
        raise InputError(f"expected a list of at most {_MOST} tolerances in the profile")
    parsed = tuple(_parsed(row, place) for place, row in enumerate(rows))
    keys = [(*each.environments, each.distance) for each in parsed]
    if len(set(keys)) < len(keys):
        raise InputError("expected each pair of environments once for each distance")
    return Profile(tolerances=parsed)


def _parsed(row: object, place: int) -> Tolerance:
    try:
        made = _row(row)
    except (LookupError, TypeError, ValueError) as error:
        raise InputError(f"tolerance {place} of the profile is malformed: {error!r}") from error
    if not 0 <= made.largest < math.inf or made.twins < 1:
        raise InputError(f"tolerance {place} of the profile makes no sense: {made!r}")
    return made


def _row(row: Any) -> Tolerance:
    first, second = row["environments"]
    names = (first, second, row["distance"])
    if not all(isinstance(name, str) and len(name) <= _LONGEST for name in names):
        raise TypeError(f"expected strings of at most {_LONGEST} characters, got {names}")
    low, high = sorted((first, second))
    return Tolerance(
        environments=(low, high),
        distance=row["distance"],
        largest=float(row["largest"]),
        twins=int(row["twins"]),
    )
