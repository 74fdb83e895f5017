"""What every family of triggers that can be searched must hold to."""

import pytest
import torch

from assay.randomness import Seed, generator
from assay.triggers import (
    FAMILIES,
    Additive,
    Bounded,
    Canvases,
    Family,
    Patch,
    Patches,
    Signals,
    Warp,
    Warps,
)

CPU = torch.device("cpu")
SHAPE = torch.Size((3, 12, 16))
MADE = (
    Signals(strength=0.05),
    Patches(area=0.04),
    Warps(strength=0.1),
    Signals(strength=0.05, knots=4),
    Canvases(count=1),
    Bounded(bound=8 / 255),
)
every_family = pytest.mark.parametrize("family", MADE, ids=repr)


def images(candidates: int = 4, batch: int = 3) -> torch.Tensor:
    random = generator(Seed(1), CPU)
    return torch.rand(candidates, batch, *SHAPE, generator=random)


def shaken(family: Family, candidates: int = 4):
    """Parameters far out of the budget."""
    random = generator(Seed(2), CPU)
    start = family.start(candidates, SHAPE, seed=Seed(0), device=CPU)
    return {
        name: value if name == "grid" else value + torch.randn(value.shape, generator=random)
        for name, value in start.items()
    }


def test_every_family_is_listed():
    assert {type(family) for family in MADE} == set(FAMILIES.values())
    assert all(isinstance(family, Family) for family in MADE)


@every_family
def test_stamped_images_are_images(family):
    stamped = family.stamp(family.project(shaken(family)), images())
    assert stamped.shape == images().shape
    assert 0 <= stamped.min() <= stamped.max() <= 1
    assert not torch.equal(stamped, images())


@every_family
def test_each_candidate_acts_on_its_own_images(family):
    parameters = family.project(shaken(family))
    together = family.stamp(parameters, images())
    for row in range(4):
        own = {name: value[row : row + 1] for name, value in parameters.items()}
        assert torch.allclose(
            family.stamp(own, images()[row : row + 1])[0], together[row], atol=1e-6
        )


@every_family
def test_the_trigger_that_is_read_off_does_the_same(family):
    parameters = family.project(shaken(family))
    stamped = family.stamp(parameters, images())
    for row in range(4):
        alone = family.trigger(parameters, row, SHAPE[1:])(images()[row])
        assert torch.allclose(alone, stamped[row], atol=1e-5)


@every_family
def test_projecting_twice_is_projecting_once(family):
    once = family.project(shaken(family))
    twice = family.project(once)
    assert all(torch.allclose(once[name], twice[name], atol=1e-5) for name in once)


@every_family
def test_the_start_is_in_the_budget(family):
    start = family.start(4, SHAPE, seed=Seed(0), device=CPU)
    projected = family.project(start)
    assert all(torch.allclose(start[name], projected[name], atol=1e-5) for name in start)


@every_family
def test_gradients_reach_what_moves(family):
    start = family.start(2, SHAPE, seed=Seed(0), device=CPU)
    moving = {name: value.clone().requires_grad_() for name, value in start.items()}
    family.stamp(moving, images(2)).square().sum().backward()
    for name, value in moving.items():
        if family.stride(name, value[0].numel()) > 0:
            assert value.grad is not None
            assert (value.grad.flatten(1).norm(dim=1) > 0).all(), name


def test_budgets_hold():
    signal = MADE[0].project(shaken(MADE[0]))["signal"]
    assert signal.flatten(1).square().mean(1).sqrt() == pytest.approx(torch.full((4,), 0.05))
    mask = MADE[1].project(shaken(MADE[1]))["mask"]
    assert (mask.flatten(1).mean(1) <= 0.04 + 1e-5).all()
    assert (mask >= 0).all()
    assert (mask <= 1).all()
    knots = MADE[2].project(shaken(MADE[2]))["knots"]
    assert knots.flatten(1).square().mean(1).sqrt() == pytest.approx(torch.full((4,), 0.1))
    assert MADE[5].project(shaken(MADE[5]))["noise"].abs().max() == pytest.approx(8 / 255)


def test_what_is_within_the_budget_stays():
    mask = torch.zeros(1, 12, 16)
    mask[0, :2, :3] = 1
    kept = MADE[1].project({"mask": mask, "pattern": torch.rand(1, *SHAPE)})
    assert torch.equal(kept["mask"], mask)


def test_triggers_are_those_of_the_attacks():
    kinds = [
        type(f.trigger(f.start(1, SHAPE, seed=Seed(0), device=CPU), 0, SHAPE[1:])) for f in MADE
    ]
    assert kinds == [Additive, Patch, Warp, Additive, Patch, Additive]
