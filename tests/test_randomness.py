import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from assay.randomness import Seed, child, generator, isolated

CPU = torch.device("cpu")
seeds = st.integers(0, 2**63 - 1).map(Seed)
names = st.lists(st.text("ab/:0", max_size=5) | st.integers(-9, 9), min_size=1, max_size=4)


@given(seeds, names)
def test_a_child_is_a_seed_that_torch_takes_and_depends_on_nothing_else(seed, path):
    derived = child(seed, *path)
    assert 0 <= derived < 2**63
    assert derived == child(seed, *path)
    assert derived != child(Seed(seed ^ 1), *path)
    torch.rand(1, generator=generator(derived, CPU))


def test_derivation_is_pinned_because_stored_results_depend_on_it():
    assert child(Seed(7), "replica", 3, "augment") == 4_082_295_045_626_700_012


def test_number_and_its_name_order_and_depth_differ():
    children = [
        child(Seed(7), 3),
        child(Seed(7), "3"),
        child(Seed(7), "a", "b"),
        child(Seed(7), "b", "a"),
        child(Seed(7), "ab"),
        child(child(Seed(7), "a"), "b"),
        child(Seed(7)),
        Seed(7),
    ]
    assert len(set(children)) == len(children)


def test_the_seed_alone_decides_what_a_generator_draws():
    first = torch.rand(5, generator=generator(Seed(1), CPU))
    assert torch.equal(first, torch.rand(5, generator=generator(Seed(1), CPU)))
    assert not torch.equal(first, torch.rand(5, generator=generator(Seed(2), CPU)))


def test_derivation_leaves_the_global_generator_alone():
    before = torch.get_rng_state()
    torch.rand(5, generator=generator(child(Seed(1), "a"), CPU))
    assert torch.equal(before, torch.get_rng_state())


def test_isolated_code_repeats_itself_and_leaves_no_trace():
    before = torch.get_rng_state()
    weights = []
    for _ in range(2):
        with isolated(Seed(5), CPU):
            weights.append(torch.nn.Linear(3, 3).weight.detach())
    assert torch.equal(*weights)
    assert torch.equal(before, torch.get_rng_state())


def test_isolated_code_draws_what_a_generator_of_the_seed_does():
    with isolated(Seed(5), CPU):
        drawn = torch.rand(3)
    assert torch.equal(drawn, torch.rand(3, generator=generator(Seed(5), CPU)))


class Device:
    """Stands for the module of a device, such as torch.mps; counts what is drawn."""

    def __init__(self):
        self.state = torch.tensor([9])

    def get_rng_state(self, device):
        return self.state.clone()

    def set_rng_state(self, state, device):
        self.state = state

    def manual_seed(self, seed):
        self.state = torch.tensor([seed])


@pytest.mark.parametrize(("device", "inside"), [("cpu", 9), ("cuda", 5)])
def test_isolated_code_seeds_the_device_asked_for_alone(monkeypatch, device, inside):
    other, seeded = Device(), []
    monkeypatch.setattr(torch, "get_device_module", lambda _: other)
    for name in ("cuda.manual_seed_all", "xpu.manual_seed_all", "mps.manual_seed"):
        monkeypatch.setattr(f"torch.{name}", seeded.append)
    before = torch.get_rng_state()
    with isolated(Seed(5), torch.device(device)):
        assert other.state.item() == inside
        other.state += 1
    assert seeded == []
    assert other.state.item() == (9 if device == "cuda" else 10)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.skipif(not torch.accelerator.is_available(), reason="there is no other device")
def test_isolated_code_draws_the_same_on_another_device():
    device = torch.accelerator.current_accelerator()
    state = torch.get_device_module(device).get_rng_state(device)
    with isolated(Seed(5), device):
        drawn = torch.rand(3, device=device)
    expected = torch.rand(3, generator=generator(Seed(5), device), device=device)
    assert torch.equal(drawn, expected)
    assert torch.equal(state, torch.get_device_module(device).get_rng_state(device))


def test_isolated_code_leaves_no_trace_when_it_fails():
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="negative dimension"), isolated(Seed(5), CPU):
        torch.rand(3).new_empty(-1)
    assert torch.equal(before, torch.get_rng_state())
