import pytest
import torch
from jaxtyping import Float
from torch import Tensor

from assay.audits.dataset import audit_dataset
from assay.audits.dataset.contaminated import Kind, kinds_apart
from assay.audits.dataset.decision import Decision
from assay.audits.dataset.outvoting import leading, outvoted
from assay.randomness import Seed
from assay.results import Verdict
from assay.samples import Samples
from assay.stats import PooledRidge
from assay_zoo.attacks import Blended

CPU = torch.device("cpu")
Digits = tuple[Samples, Samples]
TRUSTED, CALIBRATION, SUSPECTS = 1000, 500, 4000


def asked(
    seed: int,
    features: Float[Tensor, "samples dims"],
    scores: Float[Tensor, " samples"],
    ids: tuple[str, ...] | None = None,
) -> dict[int, Kind]:
    """Ten classes; the calibration is every other trusted sample."""
    labels = torch.arange(TRUSTED) % 10
    inputs = torch.zeros(TRUSTED, 1)
    names = tuple(f"class {n}" for n in range(10))
    trusted = Samples(inputs=inputs, labels=labels, class_names=names, ids=ids)
    rows = torch.randperm(TRUSTED, generator=torch.Generator().manual_seed(seed))[:CALIBRATION]
    everyone = torch.cat([torch.arange(SUSPECTS) % 10, labels[rows]])
    ridge, along = PooledRidge([features], everyone, penalty=0.1), leading(features, everyone)
    return kinds_apart(
        [outvoted(ridge, start) for start in (scores, along, -along)],
        everyone,
        trusted=trusted,
        rows=rows,
        decision=Decision(),
        alpha=0.05,
    )


def noise(seed: int) -> tuple[Float[Tensor, "samples dims"], Float[Tensor, " samples"]]:
    random = torch.Generator().manual_seed(seed)
    count = SUSPECTS + CALIBRATION
    return torch.randn(count, 32, generator=random), torch.randn(count, generator=random)


@pytest.mark.parametrize("with_ids", [False, True])
def test_what_suspects_and_trusted_samples_of_a_class_share_is_named(with_ids: bool) -> None:
    features, scores = noise(0)
    order = torch.randperm(TRUSTED, generator=torch.Generator().manual_seed(0))[:CALIBRATION]
    own = (torch.cat([torch.arange(SUSPECTS) % 10, order % 10]) == 3).nonzero().squeeze(1)
    kind = torch.cat([own[own < SUSPECTS][:40], own[own >= SUSPECTS][:5]])
    features[kind, 0] += 25  # the scores say nothing of it
    ids = tuple(f"seen/{n}.png" for n in range(TRUSTED)) if with_ids else None
    found = asked(0, features, scores, ids)
    assert list(found) == [3]
    bearing = order[kind[kind >= SUSPECTS] - SUSPECTS].tolist()
    assert found[3].trusted
    assert set(found[3].trusted) <= set(bearing)
    assert found[3].is_shared
    first = found[3].trusted[0]
    assert (ids[first] if ids else f"number {first}") in found[3].reason
    assert "poisoned" in found[3].reason


def test_what_no_trusted_sample_shares_needs_more_of_these() -> None:
    features, scores = noise(1)
    features[(torch.arange(SUSPECTS) % 10 == 3).nonzero().squeeze(1)[:40], 0] += 25
    found = asked(1, features, scores)
    assert list(found) == [3]
    assert not found[3].trusted
    assert not found[3].is_shared
    assert "too few" in found[3].reason


def test_clean_samples_hardly_ever_stand_apart() -> None:
    assert sum(bool(asked(seed, *noise(seed))) for seed in range(20)) <= 2


def test_a_poisoned_trusted_set_is_no_silent_pass(digits: Digits) -> None:
    attack, names = Blended(target=4, poison_rate=0.05), digits[0].class_names
    poisoned, given = (
        attack(part.inputs[:], part.labels, classes=10, seed=Seed(5)) for part in digits
    )
    suspects, trusted = (
        Samples(inputs=made.inputs, labels=made.labels, class_names=names)
        for made in (poisoned, given)
    )
    found = audit_dataset(suspects, trusted, seed=Seed(1), device=CPU)
    assert found.verdict is not Verdict.NO_INDICATOR
    doubtful = list(found.classes[4].doubtful)
    assert doubtful
    assert given.is_poison[doubtful].all()
    assert "trusted set is poisoned" in " ".join(found.findings.reasons)
    known = audit_dataset(suspects, digits[1], seed=Seed(1), device=CPU)
    assert known.verdict is Verdict.FLAGGED
    assert not any(result.doubtful for result in known.classes)


def test_the_clean_part_of_a_flagged_class_is_no_kind_of_poison() -> None:
    features, scores = noise(0)
    order = torch.randperm(TRUSTED, generator=torch.Generator().manual_seed(0))[:CALIBRATION]
    own = (torch.cat([torch.arange(SUSPECTS) % 10, order % 10]) == 3).nonzero().squeeze(1)
    features[torch.cat([own[own < SUSPECTS][:40], own[own >= SUSPECTS][:5]]), 0] += 25
    kind = asked(0, features, scores)[3]
    is_own = torch.arange(SUSPECTS) % 10 == 3
    assert is_own[kind.suspects].all()
    inside = torch.zeros(SUSPECTS, dtype=torch.bool).index_fill_(0, kind.suspects, True)
    assert kind.is_among(inside, is_own), "the kind is what was flagged"
    assert kind.is_among(is_own, is_own), "all of the class was"
    assert not kind.is_among(is_own & ~inside, is_own), "the others were"
