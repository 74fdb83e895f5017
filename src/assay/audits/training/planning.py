"""How many sub-runs to replicate: what it costs, and what it would miss."""

import bisect
import math

from assay.errors import InputError
from assay.records import record


@record
class Replication:
    """A number of replicated sub-runs, with its price and its reach.

    Detection is counted as perfect: a sub-run that is replicated and was attacked convicts its
    provider. The chance to catch is therefore an upper bound.
    """

    sub_runs: int
    """The whole training."""
    replicated: int
    """m; drawn at random, and unknown to the providers until they have delivered."""
    providers: int
    """n; each one executes every replicated sub-run."""
    attacked: float
    """The share q of the sub-runs that an attacker poisons, in (0, 1]."""
    caught: float
    """The chance that a replicated sub-run is among the attacked ones, in [0, 1]."""
    extra: float
    """Extra training as a share of the whole: m k (n - 1) steps over all steps."""
    unseen: float
    """The largest share of attacked sub-runs that goes unseen with a chance above 1 - confidence,
    in [0, 1]."""
    confidence: float
    """Wanted, in (0, 1)."""

    @property
    def summary(self) -> str:
        """Say it in a sentence."""
        return (
            f"Replicating {self.replicated} of {self.sub_runs} sub-runs on {self.providers} "
            f"providers costs {100 * self.extra:.1f} % more training. Who attacks "
            f"{100 * self.attacked:.0f} % of the sub-runs is caught with a chance of at most "
            f"{100 * self.caught:.1f} %; who attacks {100 * self.unseen:.0f} % or fewer goes "
            f"unseen in more than {100 * (1 - self.confidence):.0f} % of cases."
        )


def plan_replication(
    *,
    sub_runs: int,
    providers: int,
    attacked: float,
    confidence: float = 0.95,
    budget: float | None = None,
) -> Replication:
    """Choose how many sub-runs to replicate.

    Args:
        sub_runs: the whole training, at least 1.
        providers: who execute each replicated sub-run, at least 2.
        attacked: the share q of sub-runs that an attacker is to be caught at, in (0, 1]. Of N
            sub-runs he attacks ceil(q N), at least one: drawing m of them without replacement
            catches him with a chance of at least 1 - (1 - q)^m.
        confidence: wanted chance to catch, in (0, 1).
        budget: most extra training as a share of the whole, at least 0: the largest number of
            replicated sub-runs within it is taken, whether or not it reaches the confidence.

    Returns:
        The plan. Without a budget it is the smallest one that reaches the confidence, which always
        exists: all sub-runs replicated catch everybody.

    Raises:
        InputError: an argument is out of range, or the budget does not pay for one sub-run.

    Example:
        >>> plan = plan_replication(sub_runs=100, providers=4, attacked=0.5)
        >>> plan.replicated, round(plan.extra, 2)
        (5, 0.15)
        >>> plan_replication(sub_runs=100, providers=4, attacked=0.5, budget=0.1).replicated
        3
    """
    _check(sub_runs, providers, attacked, confidence, budget)
    bad = _attacked(sub_runs, attacked)

    def caught(drawn: int) -> float:
        return _caught(sub_runs, bad, drawn)

    if budget is None:
        counts = range(1, sub_runs + 1)
        count = counts[bisect.bisect_left(counts, confidence, key=caught)]
    else:
        count = min(sub_runs, math.floor(budget * sub_runs / (providers - 1) + 1e-9))
        if count < 1:
            raise InputError(
                f"expected a budget of at least {(providers - 1) / sub_runs:.3g} of the training, "
                f"for one sub-run on {providers} providers; got {budget:.3g}"
            )
    shares = range(sub_runs + 1)
    seen = bisect.bisect_left(shares, confidence, key=lambda b: _caught(sub_runs, b, count))
    return Replication(
        sub_runs=sub_runs,
        replicated=count,
        providers=providers,
        attacked=attacked,
        caught=caught(count),
        extra=count * (providers - 1) / sub_runs,
        unseen=(seen - 1) / sub_runs,
        confidence=confidence,
    )


def _attacked(sub_runs: int, share: float) -> int:
    return max(1, math.ceil(share * sub_runs - 1e-9))


def _caught(sub_runs: int, bad: int, drawn: int) -> float:
    """Chance that `drawn` of `sub_runs`, without replacement, meet one of `bad`."""
    return 1.0 - math.comb(sub_runs - bad, drawn) / math.comb(sub_runs, drawn)


def _check(
    sub_runs: int, providers: int, attacked: float, confidence: float, budget: float | None
) -> None:
    if sub_runs < 1 or providers < 2:
        raise InputError(
            f"expected at least 1 sub-run and 2 providers, got {sub_runs} and {providers}"
        )
    if not 0 < attacked <= 1:
        raise InputError(f"expected an attacked share in (0, 1], got {attacked}")
    if not 0 < confidence < 1:
        raise InputError(f"expected a confidence in (0, 1), got {confidence}")
    if budget is not None and not 0 <= budget < math.inf:
        raise InputError(f"expected a budget of at least 0, got {budget}")
