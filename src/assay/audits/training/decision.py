"""Which providers agree in a sub-run, and how far do the others lie from them?"""

import dataclasses
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

from jaxtyping import Float64
from scipy.stats import t as student
from torch import Tensor

from assay.errors import InputError
from assay.records import record

from .comparing import CKA, LAYERS, OUTPUTS, UPDATE, ZEST
from .tolerance import RESOLUTION, Profile

_CALM = -math.log(2)
"""Less than half of the noise that is expected counts as half of it: equal weights say nothing of
how far another environment may lie."""


@record
class Yardstick:
    """What one distance is held to."""

    noise: float
    """Distance that honest numerical noise is taken to reach where no profile says it."""
    spread: float
    """Usual standard deviation of a provider's mean logarithm of distances to honest others."""
    weight: float = 1.0
    """Of the error budget; those of all distances that are looked at are scaled to add up to 1."""
    prior: float = 8.0
    """How many providers' worth the usual spread counts."""


FIXED: Mapping[str, Yardstick] = {
    UPDATE: Yardstick(noise=0.12, spread=0.06),
    LAYERS: Yardstick(noise=0.12, spread=0.06),
    OUTPUTS: Yardstick(noise=0.03, spread=0.25),
    CKA: Yardstick(noise=0.004, spread=0.5),
    ZEST: Yardstick(noise=0.12, spread=0.15),
}
"""Where the client fixes the order of the samples."""

FREE: Mapping[str, Yardstick] = {
    UPDATE: Yardstick(noise=1.0, spread=0.1, weight=0.2, prior=2.0),
    LAYERS: Yardstick(noise=1.0, spread=0.07, weight=0.8, prior=2.0),
    OUTPUTS: Yardstick(noise=1.0, spread=0.4, prior=2.0),
    CKA: Yardstick(noise=1.0, spread=0.75, prior=2.0),
    ZEST: Yardstick(noise=1.0, spread=0.2, prior=2.0),
}
"""Where the order is the provider's own: its noise is learned from the providers that agree, its
spread hardly: so the usual one is wide. It depends on network and data: means of `layers` spread by
0.03 in the benchmarks' networks and by up to 0.06 in smaller ones, where two fifths of this and a
prior of 8 accused an honest provider in 60 of 120 trainings (design note 0012)."""


@record
class Decision:
    """Groups the providers that agree, and tests each one against that group.

    Distances are taken as logarithms, over what honest noise is expected to be for the pair: the
    profile's where the pair of environments was calibrated, a usual noise with an allowance
    for other environments where not. The group starts from the closest pair and grows by the
    nearest provider as long as Student's t does not tell it from the group. The level of the group
    itself raises what is expected: sub-runs differ in how far noise grows.

    Source:
        Replicated training with a two-sample Kolmogorov-Smirnov test on pairwise distances; see
        docs/methods/replicated-training.md. Moderated variance: Smyth, "Linear models and empirical
        Bayes methods", 2004.
    Differs from the source:
        KS compares ranks: four providers and two sub-runs leave two distances within an honest
        pair, from which no test of ranks can reach 5 %. Student's t on logarithms uses how far a
        provider lies off, with a usual spread in place of the samples that are missing. Distances
        to one provider are not independent, so each provider counts once, by its mean.
    """

    free_order: bool = False
    """Whether providers choose the order of the samples."""
    fixed: Mapping[str, Yardstick] = dataclasses.field(default_factory=lambda: FIXED)
    free: Mapping[str, Yardstick] = dataclasses.field(default_factory=lambda: FREE)
    allowance: float = 1.5
    """Factor by which the noise of honest environments may exceed what is expected, where their
    pair was not calibrated."""
    drift: float = 1.25
    """The same where their pair was calibrated, on other sub-runs: noise grows along a training.
    The same environment twice, where twins were equal, has no allowance."""
    joining: float = 0.01
    """p-value down to which a provider joins the group."""
    believed: float = 2.0
    """A group whose own distances exceed what is expected by more than this factor (beyond the
    allowance) is not believed: nobody is known to be honest."""
    fewest_free: int = 3
    """With a free order: providers that must agree. Two that happen to draw alike say nothing of a
    third (a linear model of three steps a sub-run: two honest ones lay 0.16 apart, the third 0.54).
    """
    strangest: float = 1.3
    """With a free order: the largest mean distance within a group that is believed, for distances
    of updates; at 1.41 updates have nothing in common."""

    def yardstick(self, distance: str) -> Yardstick | None:
        """What a distance is held to; None for one that nothing is known of."""
        return (self.free if self.free_order else self.fixed).get(distance)

    def view(
        self,
        distances: Sequence[Float64[Tensor, "providers providers"]],
        environments: Sequence[Sequence[str]],
        name: str,
        profile: Profile | None,
    ) -> "View":
        """Take the distances of one sub-run, or of several together, beside what is expected.

        Args:
            distances: of the same providers, one matrix a sub-run.
            environments: of each provider, one list a sub-run.
            name: of the distance.
            profile: what was calibrated; of no account where the order is free.
        """
        yardstick = self.yardstick(name)
        if yardstick is None:
            raise InputError(f"expected one of the distances {sorted(self.fixed)}, got {name!r}")
        known = {} if self.free_order or profile is None else profile.expected(name)
        count = len(distances[0])
        pairs: list[list[Pair]] = []
        for i in range(count):
            row = [pairs[j][i] for j in range(i)]
            row += [
                self._pair(yardstick, known, distances, environments, i, j) for j in range(i, count)
            ]
            pairs.append(row)
        return View(
            decision=self,
            pairs=pairs,
            spread=yardstick.spread / math.sqrt(len(distances) if self.free_order else 1),
            prior=yardstick.prior,
        )

    def _pair(  # noqa: PLR0917
        self,
        yardstick: Yardstick,
        known: Mapping[tuple[str, str], float],
        distances: Sequence[Float64[Tensor, "providers providers"]],
        environments: Sequence[Sequence[str]],
        i: int,
        j: int,
    ) -> "Pair":
        found = [
            known.get((min(where[i], where[j]), max(where[i], where[j]))) for where in environments
        ]
        logs = [math.log(max(RESOLUTION, matrix[i, j].item())) for matrix in distances]
        usual = [math.log(yardstick.noise if each is None else each) for each in found]
        over = [log - centre for log, centre in zip(logs, usual, strict=True)]
        if not self.free_order:
            over = [max(_CALM, each) for each in over]
        is_calibrated = all(each is not None for each in found)
        is_exact = all(each == RESOLUTION for each in found)  # of `Profile.expected`
        allowance = 1.0 if self.free_order or is_exact else self.allowance
        return Pair(
            distance=math.fsum(logs) / len(logs),
            usual=math.fsum(usual) / len(usual),
            over=math.fsum(over) / len(over),
            allowance=math.log(min(allowance, self.drift) if is_calibrated else allowance),
            calibrated=is_calibrated,
            foreign=any(where[i] != where[j] for where in environments),
        )


@record
class Pair:
    """How far two providers lie apart, in logarithms, averaged over sub-runs."""

    distance: float
    usual: float
    """What honest noise is taken to be."""
    over: float
    """How far the distance exceeds it; with a fixed order never less than `_CALM`."""
    allowance: float
    """For environments that were not calibrated, or on other sub-runs."""
    calibrated: bool
    foreign: bool
    """Whether they state different environments."""


@record
class Standing:
    """How far one provider lies from a group that it is not counted to."""

    excess: float
    p_value: float
    p_without_allowance: float
    measured: float
    """Geometric mean of the distances to the group."""
    expected: float
    """What it may be, the allowance included."""
    calibrated: bool
    """Whether all pairs were."""
    blind: bool
    """Whether the group shows no noise, and no profile what that of another environment is."""


@record
class View:
    """Distances between providers beside what is expected, in logarithms."""

    decision: Decision
    pairs: Sequence[Sequence[Pair]]
    spread: float
    """Usual standard deviation of a provider's mean."""
    prior: float
    """How many providers' worth it counts."""

    def __len__(self) -> int:
        """Count the providers."""
        return len(self.pairs)

    def standing(self, provider: int, group: Sequence[int]) -> Standing:
        """Compare a provider with a group, itself left out of it."""
        others = [member for member in group if member != provider]
        pairs = [self.pairs[provider][other] for other in others]
        beyond, allowed = _mean(p.over for p in pairs), _mean(p.allowance for p in pairs)
        level, spread, freedom = self._group(others)
        error = spread * math.sqrt(1 + 1 / len(others))
        excess = (beyond - level - allowed) / error
        if self.decision.free_order and len(others) < 2:
            excess = 0.0  # a single other provider is no measure of noise
        return Standing(
            excess=excess,
            p_value=float(student.sf(excess, freedom)),
            p_without_allowance=float(student.sf(excess + allowed / error, freedom)),
            measured=math.exp(_mean(p.distance for p in pairs)),
            expected=math.exp(_mean(p.usual for p in pairs) + level + allowed),
            calibrated=all(p.calibrated for p in pairs),
            blind=not self.decision.free_order
            and all(p.foreign and not p.calibrated for p in pairs)
            and all(self.pairs[i][j].distance <= math.log(RESOLUTION) for i, j in _pairs(others)),
        )

    def agreeing(self, trusted: Sequence[int]) -> tuple[tuple[int, ...], str]:
        """Find the group that is believed.

        Args:
            trusted: the client's own replicas.

        Returns:
            The providers in it, in order, and why there are none.
        """
        everyone = range(len(self))
        if len(self) < (3 if self.decision.free_order else 2):
            return (), f"only {len(self)} providers delivered what can be compared"
        if trusted:
            return tuple(sorted(self._grown(list(trusted), everyone))), ""
        first = self._grown(self._closest(everyone), everyone)
        rest = [i for i in everyone if i not in first]
        second: list[int] = []
        if len(rest) > 1 and self._alike(pair := self._closest(rest), first):
            second = self._grown(pair, rest)
        if len(first) == len(second):
            return (), "two groups of the same size disagree, and only one of them can be honest"
        group = max(first, second, key=len)
        return self._believed(group)

    def _believed(self, group: list[int]) -> tuple[tuple[int, ...], str]:
        beyond = _mean(self._beyond(i, j) for i, j in _pairs(group))
        limit = math.log(
            self.decision.strangest if self.decision.free_order else self.decision.believed
        )
        if beyond > limit:
            return (
                (),
                "even the closest providers lie farther apart than honest noise is believed to",
            )
        if self.decision.free_order and len(group) < self.decision.fewest_free:
            return (), (
                f"only {len(group)} providers agree, and with orders of their own that does not "
                "show how far honest ones lie apart"
            )
        if 2 * len(group) < len(self):
            return (), (
                f"only {len(group)} of {len(self)} providers agree, which is fewer than half"
            )
        return tuple(sorted(group)), ""

    def _grown(self, group: list[int], among: Sequence[int]) -> list[int]:
        """Add the nearest provider until it stands out."""
        while left := [i for i in among if i not in group]:
            nearest = min(left, key=lambda i: (self._over(i, group), i))
            if self.standing(nearest, group).p_value < self.decision.joining:
                break
            group = [*group, nearest]
        return group

    def _alike(self, pair: Sequence[int], group: Sequence[int]) -> bool:
        """Whether two providers lie as near to each other as the members of a group."""
        level, spread, freedom = self._group(group)
        found = self.pairs[pair[0]][pair[1]]
        excess = (found.over - level - found.allowance) / (spread * math.sqrt(2))
        return float(student.sf(excess, freedom)) >= self.decision.joining

    def _group(self, group: Sequence[int]) -> tuple[float, float, float]:
        """Level, spread and degrees of freedom that a group gives."""
        inside = [self.pairs[i][j].over for i, j in _pairs(group)]
        level = _mean(inside) if inside else 0.0
        if not self.decision.free_order:
            level = max(0.0, level)
        prior = self.prior
        if len(group) < 3:
            return level, self.spread, prior
        means = [_mean(self.pairs[i][j].over for j in group if j != i) for i in group]
        middle = _mean(means)
        squares = math.fsum((mean - middle) ** 2 for mean in means)
        freedom = prior + len(group) - 1
        return level, math.sqrt((prior * self.spread**2 + squares) / freedom), freedom

    def _over(self, provider: int, group: Sequence[int]) -> float:
        """Mean excess beyond the allowance."""
        return _mean(self._beyond(provider, other) for other in group)

    def _beyond(self, i: int, j: int) -> float:
        return self.pairs[i][j].over - self.pairs[i][j].allowance

    def _closest(self, among: Sequence[int]) -> list[int]:
        return list(min(_pairs(among), key=lambda pair: (self._beyond(*pair), pair)))


def _mean(terms: Iterable[float]) -> float:
    values = list(terms)
    return math.fsum(values) / len(values)


def _pairs(group: Sequence[int]) -> list[tuple[int, int]]:
    return list(itertools.combinations(group, 2))
