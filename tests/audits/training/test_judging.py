"""The verdicts on providers."""

import dataclasses

import pytest

from assay.audits.training import (
    Decision,
    Fault,
    Tier,
    TrainingAudit,
    TrainingSettings,
    judge_training,
    make_profile,
)
from assay.errors import InputError
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


def test_a_free_order_is_judged_by_its_own_noise_over_all_sub_runs(replicas) -> None:
    settings = TrainingSettings(decision=Decision(free_order=True))
    made = replicas([0.6, 0.6, 0.6, 0.6, 0.6, 0.72], sub_runs=3)
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
