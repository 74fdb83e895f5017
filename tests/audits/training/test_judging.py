"""The verdicts on providers."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence

import pytest
import torch

from assay.audits.training import (
    Comparison,
    Decision,
    Delivery,
    Fault,
    Profile,
    Tier,
    TrainingAudit,
    TrainingSettings,
    compare,
    judge_training,
    make_profile,
)
from assay.errors import InputError
from assay.randomness import Seed, child, generator
from assay.results import Verdict

FLAGGED, QUIET, OPEN = Verdict.FLAGGED, Verdict.NO_INDICATOR, Verdict.INCONCLUSIVE
HONEST, BAD = 0.04, 0.6


def _verdicts(audit: TrainingAudit) -> list[Verdict]:
    return [provider.verdict for provider in audit.providers]


def test_half_of_the_providers_are_named_each_with_a_deviation_of_its_own(replicas) -> None:
    made = replicas([HONEST, HONEST, BAD, BAD])
    audit = judge_training(*made, profile=None)
    assert _verdicts(audit) == [QUIET, QUIET, FLAGGED, FLAGGED]
    assert audit.verdict is FLAGGED
    assert [p.tier for p in audit.providers] == [Tier.STATISTICS] * 4
    assert audit.providers[2].convicted == (0, 1)
    assert "c left the recipe" in audit.findings.reasons[0]


def test_honest_providers_are_not_accused_whatever_their_noise(replicas) -> None:
    for seed in range(20):
        made = replicas([0.01, 0.02, 0.03, 0.04, 0.03, 0.02], sub_runs=3, seed=seed)
        assert _verdicts(judge_training(*made, profile=None)) == [QUIET] * 6


def test_the_same_numbers_give_the_same_audit_to_the_last_bit(replicas) -> None:
    made = replicas([HONEST, HONEST, 0.2, BAD])
    first, second = (judge_training(*made, profile=None) for _ in range(2))
    assert [q.p_value for p in first.providers for q in p.questions] == [
        q.p_value for p in second.providers for q in p.questions
    ]


def test_equal_digests_decide_first(replicas) -> None:
    made = replicas([0.0, 0.0, 0.0], digests={"a": "same", "b": "same", "c": "same"})
    audit = judge_training(*made, profile=None)
    assert [p.tier for p in audit.providers] == [Tier.DIGEST] * 3
    assert audit.verdict is QUIET


def test_a_profile_sees_what_the_allowance_hides(replicas) -> None:
    made = replicas([HONEST, HONEST, HONEST, 0.17])
    without = judge_training(*made, profile=None).providers[3]
    _, twins = replicas([HONEST, HONEST, HONEST], seed=7, sub_runs=3)
    profile = make_profile(twins, dict.fromkeys("abc", "usual"))
    audit = judge_training(*made, profile=profile)
    assert without.verdict is OPEN
    assert "calibrate" in without.reason
    assert _verdicts(audit) == [QUIET, QUIET, QUIET, FLAGGED]
    assert audit.providers[3].tier is Tier.PROFILE


def test_noise_that_a_profile_knows_of_accuses_nobody(replicas) -> None:
    environments = {"d": "loud"}
    made = replicas([HONEST, HONEST, HONEST, 0.3], environments=environments)
    _, twins = replicas([HONEST, HONEST, 0.3], seed=7, sub_runs=3)
    profile = make_profile(twins, {"a": "usual", "b": "usual", "c": "loud"})
    assert judge_training(*made, profile=None).providers[3].verdict is not QUIET
    assert _verdicts(judge_training(*made, profile=profile)) == [QUIET] * 4


def test_one_attacked_sub_run_convicts(replicas) -> None:
    made = replicas([HONEST, HONEST, HONEST, BAD], sub_runs=4, only_in={"d": [2]})
    last = judge_training(*made, profile=None).providers[3]
    assert (last.verdict, last.convicted) == (FLAGGED, (2,))


def test_without_agreement_nobody_is_judged(replicas) -> None:
    audit = judge_training(*replicas([HONEST, BAD, BAD]), profile=None)
    assert _verdicts(audit) == [OPEN] * 3
    assert audit.last_trusted is None


def test_a_colluding_majority_is_told_from_honesty_by_a_replica_of_the_client(replicas) -> None:
    made = replicas([HONEST, HONEST, BAD, BAD, BAD], plans={"c": "x", "d": "x", "e": "x"})
    assert _verdicts(judge_training(*made, profile=None)) == [FLAGGED, FLAGGED, QUIET, QUIET, QUIET]
    audit = judge_training(*made, profile=None, trusted=frozenset({"a"}))
    assert _verdicts(audit) == [QUIET, QUIET, FLAGGED, FLAGGED, FLAGGED]
    assert audit.providers[0].trusted


def test_two_groups_of_the_same_size_accuse_nobody(replicas) -> None:
    made = replicas([HONEST, HONEST, BAD, BAD], plans={"c": "x", "d": "x"})
    audit = judge_training(*made, profile=None)
    assert _verdicts(audit) == [OPEN] * 4
    assert "same size" in audit.providers[0].reason


def test_a_colluding_pair_that_lies_closest_does_not_become_the_yardstick(replicas) -> None:
    made = replicas([HONEST, HONEST, HONEST, BAD, BAD], plans={"d": "x", "e": "x"})
    verdicts = _verdicts(judge_training(*made, profile=None))
    assert verdicts == [QUIET, QUIET, QUIET, FLAGGED, FLAGGED]


@pytest.mark.parametrize(
    ("fault", "verdict"),
    [
        (Fault.MISSING, OPEN),
        (Fault.LATE, OPEN),
        (Fault.CRASHED, OPEN),
        (Fault.BROKEN, OPEN),
        (Fault.REFUSED, FLAGGED),
        (Fault.NOT_FINITE, FLAGGED),
        (Fault.UNCHANGED, FLAGGED),
        (Fault.TOO_FEW_STEPS, FLAGGED),
        (Fault.COPIED, FLAGGED),
        (Fault.FOREIGN, FLAGGED),
        (Fault.TAMPERED, FLAGGED),
    ],
    ids=lambda value: value.value,
)
def test_each_fault_has_its_verdict(replicas, fault, verdict) -> None:
    made = replicas([HONEST] * 4, faults={("d", 1): fault})
    audit = judge_training(*made, profile=None)
    assert _verdicts(audit) == [QUIET, QUIET, QUIET, verdict]
    assert audit.providers[3].tier is Tier.DELIVERY
    assert audit.providers[3].convicted == ((1,) if verdict is FLAGGED else ())
    assert fault.value.replace("_", " ") in audit.providers[3].reason


def test_what_befalls_most_is_the_recipe(replicas) -> None:
    faults = {(name, 1): Fault.NOT_FINITE for name in "abc"}
    deliveries, comparisons = replicas([HONEST] * 4, faults=faults)
    assert _verdicts(judge_training(deliveries, comparisons, profile=None)) == [OPEN] * 4


def compared(apart: Mapping[tuple[int, int], float], environments: Sequence[str]) -> Comparison:
    """Make providers a, b, c, ... that lie so far apart, or else not at all."""
    matrix = torch.zeros(len(environments), len(environments), dtype=torch.float64)
    for (first, second), distance in apart.items():
        matrix[first, second] = matrix[second, first] = distance
    names = tuple(chr(ord("a") + place) for place in range(len(environments)))
    distances = {"update": matrix, "layers": matrix}
    return Comparison(sub_run=0, providers=names, distances=distances)


def judged_apart(
    apart: Mapping[tuple[int, int], float],
    environments: Sequence[str],
    profile: Profile | None = None,
) -> list[Verdict]:
    comparison = compared(apart, environments)
    digests = [
        next((j for j in range(i) if comparison.distances["update"][i, j] == 0), i)
        for i in range(len(environments))
    ]
    deliveries = [
        Delivery(
            provider=name, sub_run=0, replicated=True, environment=where, digest=str(digest),
            fault=None,
        )
        for name, where, digest in zip(comparison.providers, environments, digests, strict=True)
    ]  # fmt: skip
    return _verdicts(judge_training(deliveries, [comparison], profile=profile))


@pytest.mark.parametrize("distance", [0.26, 0.3, 0.36])
def test_of_two_answers_that_lie_apart_nobody_is_convicted(distance: float) -> None:
    """One of them moved, and nobody knows which: the other one is honest."""
    assert judged_apart({(0, 1): distance}, ["here"] * 2) == [OPEN] * 2
    far = {pair: 0.9 for pair in itertools.combinations(range(4), 2) if pair != (0, 1)}
    both = {**far, (0, 1): distance}
    assert judged_apart(both, ["here"] * 4) == [OPEN, OPEN, FLAGGED, FLAGGED]


def test_where_nobody_shows_noise_another_environment_is_not_convicted_without_a_profile() -> None:
    """Rounding grows chaotically over many steps: how far is not known before it is measured."""
    apart = {(0, 2): 0.8, (1, 2): 0.8}
    assert judged_apart(apart, ["here", "here", "there"]) == [QUIET, QUIET, OPEN]
    assert judged_apart(apart, ["here"] * 3) == [QUIET, QUIET, FLAGGED]
    names = {"a": "here", "b": "here", "c": "there"}
    calm = make_profile([compared({(0, 2): 0.02, (1, 2): 0.02}, list(names.values()))], names)
    assert judged_apart(apart, list(names.values()), calm) == [QUIET, QUIET, FLAGGED]


def test_twins_of_two_environments_that_were_nearly_equal_may_come_apart() -> None:
    names = {"a": "here", "b": "here", "c": "there"}
    twins = compared({(0, 2): 7e-7, (1, 2): 7e-7}, list(names.values()))
    profile = make_profile([twins], names)
    later = {(0, 2): 2e-6, (1, 2): 2e-6}
    assert judged_apart(later, list(names.values()), profile) == [QUIET] * 3
    assert judged_apart(later, ["here"] * 3, profile) == [QUIET, QUIET, FLAGGED]


def test_an_environment_that_was_not_calibrated_excuses_nothing() -> None:
    """Else a provider would choose the looser measure by what it states."""
    names = {"a": "here", "b": "here", "c": "there"}
    twins = compared({(0, 2): 0.01, (1, 2): 0.01}, list(names.values()))
    profile = make_profile([twins], names)
    moved = {(0, 2): 0.1, (1, 2): 0.1}
    assert judged_apart(moved, ["here", "here", "there"], profile) == [QUIET, QUIET, FLAGGED]
    assert judged_apart(moved, ["here", "here", "there "], profile) == [QUIET, QUIET, OPEN]
    assert judged_apart({}, ["here", "here", "there "], profile) == [QUIET] * 3


def trained(start: Mapping[str, torch.Tensor], seed: Seed) -> dict[str, torch.Tensor]:
    """Train a small network on 600 points, in an order of its own."""
    random = generator(child(Seed(0), "data"), torch.device("cpu"))
    labels = torch.arange(600) % 3
    inputs = torch.randn(600, 8, generator=random) + 1.5 * torch.eye(3, 8)[labels]
    weights = {name: value.clone().requires_grad_() for name, value in start.items()}
    optimizer = torch.optim.SGD(weights.values(), lr=0.05, momentum=0.9)
    order = torch.randperm(600, generator=generator(seed, torch.device("cpu")))
    for rows in order[:160].view(10, 16):
        said = (inputs[rows] @ weights["first"]).relu() @ weights["second"]
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(said, labels[rows]).backward()
        optimizer.step()
    return {name: value.detach() for name, value in weights.items()}


def test_honest_providers_with_orders_of_their_own_are_rarely_accused() -> None:
    """Small networks, whose updates spread more than those of the benchmarks."""
    accused = 0
    for run in range(12):
        random = generator(child(Seed(run), "start"), torch.device("cpu"))
        start = {
            "first": torch.randn(8, 64, generator=random) / 8**0.5,
            "second": torch.randn(64, 3, generator=random) / 8,
        }
        deliveries, comparisons = [], []
        for sub_run in range(3):
            ends = {f"p{n}": trained(start, child(Seed(run), sub_run, n)) for n in range(6)}
            comparisons.append(compare(start, ends, sub_run=sub_run, network=None, probes=None))
            deliveries += [
                Delivery(
                    provider=name, sub_run=sub_run, replicated=True, environment="usual",
                    digest=f"{name}{sub_run}", fault=None,
                )
                for name in ends
            ]  # fmt: skip
            start = ends["p0"]
        settings = TrainingSettings(decision=Decision(free_order=True))
        audit = judge_training(deliveries, comparisons, profile=None, settings=settings)
        accused += FLAGGED in _verdicts(audit)
    assert accused <= 2


def test_a_free_order_is_judged_by_its_own_noise_over_all_sub_runs(replicas) -> None:
    settings = TrainingSettings(decision=Decision(free_order=True))
    made = replicas([0.6, 0.6, 0.6, 0.6, 0.6, 0.9], sub_runs=3)
    audit = judge_training(*made, profile=None, settings=settings)
    assert _verdicts(audit) == [QUIET] * 5 + [FLAGGED]
    assert audit.agreements[-1].sub_run is None


def test_nothing_compared_is_no_innocence(replicas) -> None:
    deliveries, _ = replicas([HONEST] * 3)
    audit = judge_training(deliveries, [], profile=None)
    assert audit.verdict is OPEN
    assert _verdicts(audit) == [OPEN] * 3


def test_what_cannot_be_judged_is_refused(replicas) -> None:
    deliveries, comparisons = replicas([HONEST] * 3)
    bent = comparisons[0].distances["update"].clone()
    bent[0, 1] += 1
    broken = dataclasses.replace(comparisons[0], distances={"update": bent})
    with pytest.raises(InputError, match="symmetric"):
        judge_training(deliveries, [broken], profile=None)
    with pytest.raises(InputError, match="alpha"):
        judge_training(deliveries, comparisons, profile=None, alpha=1.0)
    with pytest.raises(InputError, match="one comparison"):
        judge_training(deliveries, [comparisons[0]] * 2, profile=None)
    with pytest.raises(InputError, match="one delivery"):
        judge_training(deliveries * 2, comparisons, profile=None)
    with pytest.raises(InputError, match="none of"):
        judge_training(deliveries[1:], comparisons, profile=None)
    with pytest.raises(InputError, match="trusted"):
        judge_training(deliveries, comparisons, profile=None, trusted=frozenset({"z"}))
