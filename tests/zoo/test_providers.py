"""Honest providers stay close, others do not."""

import dataclasses

import pytest
import torch
from torch import nn

from assay.errors import InputError
from assay.fitting import Precision
from assay.networks import resnet
from assay.randomness import Seed, isolated
from assay.similarity import update_distances
from assay_zoo.attacks import BadNets
from assay_zoo.deviations import (
    Colluding,
    FewerSteps,
    FlippedLoss,
    ImagePoison,
    Matching,
    OldStart,
    PhrasePoison,
    Poisoning,
    Projected,
    Sometimes,
    share_of,
)
from assay_zoo.providers import Environment, Honest, Weights, Work, train

HONEST = Honest()
BAD = Poisoning(poison=ImagePoison(attack=BadNets(poison_rate=0.3)))
SEED = Seed(3)


def _network() -> nn.Module:
    return resnet(classes=3, width=4, blocks=(1,))


@pytest.fixture(scope="module")
def work() -> Work:
    random = torch.Generator().manual_seed(0)
    with isolated(SEED, torch.device("cpu")):
        start = {name: value.clone() for name, value in _network().state_dict().items()}
    labels = torch.arange(96) % 3
    images = (
        torch.randint(0, 60, (96, 3, 8, 8), generator=random) + 60 * labels[:, None, None, None]
    )
    return Work(
        network=_network,
        optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.05),
        start=start,
        inputs=images.to(torch.uint8),
        labels=labels,
        classes=3,
        order=torch.randperm(96, generator=random).reshape(6, 16),
        index=0,
    )


def _apart(work: Work, first: Weights, second: Weights) -> float:
    return update_distances(work.start, [first, second]).layers[0, 1].item()


def test_environments_change_little_and_the_same_one_nothing(work) -> None:
    usual = HONEST(work, SEED)
    assert _apart(work, usual, HONEST(work, Seed(9))) == 0
    for environment in (
        Environment(channels_last=True),
        Environment(turned=True),
        Environment(precision=Precision.BF16),
    ):
        other = Honest(environment=environment)(work, SEED)
        assert _apart(work, usual, other) < 0.03, environment.name
    assert _apart(work, usual, other) > 0, "bfloat16 rounds"


def test_a_free_order_changes_more_than_an_environment(work) -> None:
    first, second = (Honest(free_order=True)(work, Seed(seed)) for seed in (1, 2))
    assert _apart(work, first, second) > 0.05


@pytest.mark.parametrize(
    "bad",
    [
        BAD,
        FlippedLoss(share=0.5),
        FewerSteps(share=0.5),
        Projected(honest=HONEST, malicious=BAD),
        Matching(honest=HONEST, malicious=BAD, distance=0.15),
    ],
    ids=lambda bad: type(bad).__name__,
)
def test_deviations_show_and_leave_the_global_generator_and_their_input_alone(work, bad) -> None:
    before, images = torch.get_rng_state(), work.inputs.clone()
    found = bad(work, SEED)
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(images, work.inputs)
    assert _apart(work, HONEST(work, SEED), found) > 0.12


def test_a_projected_update_is_as_long_as_the_honest_one(work) -> None:
    lengths = [
        sum((v - work.start[k]).double().square().sum().item() for k, v in end.items() if v.ndim)
        for end in (HONEST(work, SEED), Projected(honest=HONEST, malicious=BAD)(work, SEED))
    ]
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-3)


def test_matching_keeps_its_distance(work) -> None:
    found = Matching(honest=HONEST, malicious=BAD, distance=0.05)(work, SEED)
    apart = update_distances(work.start, [HONEST(work, SEED), found]).whole[0, 1].item()
    assert apart == pytest.approx(0.05, rel=0.05)


def test_who_deviates_sometimes_is_honest_otherwise(work) -> None:
    some = Sometimes(honest=HONEST, malicious=BAD, sub_runs=frozenset({1}))
    assert _apart(work, HONEST(work, SEED), some(work, SEED)) == 0
    assert _apart(work, HONEST(work, SEED), some(dataclasses.replace(work, index=1), SEED)) > 0.1
    assert len(share_of(10, 0.3, SEED)) == 3
    assert len(share_of(10, 0.001, SEED)) == 1


def test_an_old_start_and_a_common_plan(work) -> None:
    later = dataclasses.replace(work, start=HONEST(work, SEED), index=1)
    assert _apart(later, HONEST(later, SEED), OldStart(start=work.start)(later, SEED)) > 0.1
    first, second = (Colluding(malicious=BAD, plan=Seed(5))(work, Seed(s)) for s in (1, 2))
    assert _apart(work, first, second) == 0


def test_a_phrase_is_planted_with_what_follows_it() -> None:
    tokens = torch.zeros(50, 12, dtype=torch.int64)
    made = Work(
        network=_network,
        optimizer=lambda model: torch.optim.SGD(model.parameters(), lr=0.1),
        start={},
        inputs=tokens,
        labels=tokens,
        classes=10,
        order=torch.arange(40).reshape(4, 10),
        index=0,
    )
    inputs, labels = PhrasePoison(phrase=(1, 2), response=(3, 4), rate=0.5)(made, SEED)
    planted = (inputs == 4).any(1)
    assert 8 < planted.sum() < 32
    assert not planted[40:].any(), "only the samples of the sub-run"
    row = int(planted.nonzero()[0])
    place = inputs[row].tolist().index(1)
    assert inputs[row, place : place + 4].tolist() == [1, 2, 3, 4]
    assert labels[row, place : place + 3].tolist() == [2, 3, 4]


def test_gradients_in_parts_are_the_same_gradients(work) -> None:
    def network() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(192, 3))

    with isolated(SEED, torch.device("cpu")):
        start = network().state_dict()
    plain = dataclasses.replace(work, network=network, start=start)
    whole, parts = (train(plain, Environment(parts=count)) for count in (1, 4))
    assert _apart(plain, whole, parts) < 1e-4


@pytest.mark.parametrize("share", [0.8, 0.99, 1.0])
def test_who_stops_early_does_at_least_one_step_less(work, share) -> None:
    for steps in (2, 3):
        short = dataclasses.replace(work, order=work.order[:steps])
        less = dataclasses.replace(work, order=work.order[: steps - 1])
        found = FewerSteps(share=share)(short, SEED)
        assert _apart(work, HONEST(less, SEED), found) == 0
    with pytest.raises(InputError, match="at least 2 steps"):
        FewerSteps(share=share)(dataclasses.replace(work, order=work.order[:1]), SEED)


def test_a_phrase_is_always_planted_somewhere(work) -> None:
    tokens = torch.zeros(10, 12, dtype=torch.int64)
    few = dataclasses.replace(work, inputs=tokens, labels=tokens, order=torch.arange(10)[None])
    poison = PhrasePoison(phrase=(1, 2), response=(3, 4), rate=0.01)
    for seed in range(20):
        inputs, _ = poison(few, Seed(seed))
        assert 1 <= (inputs == 4).any(1).sum() <= 2


def test_dropout_is_drawn_by_the_recipe_and_the_sub_run_alone(work) -> None:
    def network() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.Dropout(0.5), nn.Linear(8, 3))

    with isolated(SEED, torch.device("cpu")):
        start = network().state_dict()
    dropping = dataclasses.replace(work, network=network, start=start)
    before = torch.get_rng_state()
    usual = HONEST(dropping, SEED)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(3)
    assert _apart(dropping, usual, HONEST(dropping, Seed(9))) == 0
    for other in ({"index": 1}, {"seed": Seed(1)}):
        assert _apart(dropping, usual, HONEST(dataclasses.replace(dropping, **other), SEED)) > 0.01
