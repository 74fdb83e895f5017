import torch
from hypothesis import given
from hypothesis import strategies as st

from assay.providers.order import sample_order
from assay.randomness import Seed


@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 12), st.integers(1, 5))
def test_stretches_are_parts_of_one_order(samples: int, batch: int, steps: int, cut: int) -> None:
    def order(first: int, count: int) -> torch.Tensor:
        return sample_order(samples, batch=batch, first_step=first, steps=count, seed=Seed(3))

    whole = order(0, steps + cut)
    assert torch.equal(whole, torch.cat([order(0, steps), order(steps, cut)]))
    rows = whole.flatten()
    for start in range(0, len(rows) - samples + 1, samples):
        assert sorted(rows[start : start + samples].tolist()) == list(range(samples))


def test_the_seed_decides() -> None:
    def rows(seed: int) -> list[list[int]]:
        drawn = sample_order(50, batch=5, first_step=2, steps=3, seed=Seed(seed))
        return drawn.tolist()

    assert rows(1) == rows(1) != rows(2)
