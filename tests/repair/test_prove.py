import pytest
import torch

from assay.errors import InputError
from assay.fitting import Recipe
from assay.randomness import Seed
from assay.repair import Trigger, cleanse, held_out, prove
from assay.samples import Samples

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=6, batch_size=32)


def rows(count: int, seed: int) -> Samples:
    """Three classes that lie apart in the first three columns; the fourth carries the trigger."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(3, (count,), generator=random)
    inputs = torch.randn(count, 6, generator=random)
    inputs[torch.arange(count), labels] += 4
    inputs[:, 5] = 0
    return Samples(inputs=inputs, labels=labels, class_names=("a", "b", "c"))


def stamp(inputs: torch.Tensor) -> torch.Tensor:
    stamped = inputs.clone()
    stamped[:, 5] = 5
    return stamped


def poisoned() -> tuple[Samples, torch.Tensor]:
    clean = rows(600, 0)
    is_poison = torch.arange(600) < 60
    inputs = torch.where(is_poison[:, None], stamp(clean.inputs[:]), clean.inputs[:])
    labels = torch.where(is_poison, 2, clean.labels)
    return Samples(inputs=inputs, labels=labels, class_names=clean.class_names), is_poison


def test_the_backdoor_is_there_before_and_gone_after() -> None:
    data, is_poison = poisoned()
    proof = prove(
        data,
        cleanse(data, is_poison),
        rows(300, 1),
        recipe=RECIPE,
        trigger=Trigger(stamp=stamp, target=2),
        seed=Seed(3),
        device=CPU,
    )
    before, after = proof.rows
    assert (before.model, before.samples, after.model, after.samples) == (
        "before",
        600,
        "after",
        540,
    )
    assert before.asr is not None
    assert before.asr > 0.9
    assert after.asr is not None
    assert after.asr < 0.1
    assert after.accuracy > 0.9
    assert after.accuracy_interval.low <= after.accuracy <= after.accuracy_interval.high
    assert proof.unseen == 300


def test_the_seed_alone_decides_and_where_nothing_is_taken_out_both_are_the_same() -> None:
    data, _ = poisoned()
    state = torch.get_rng_state()
    first, second = (
        prove(data, data, rows(90, 1), recipe=RECIPE, seed=Seed(3), device=CPU) for _ in range(2)
    )
    assert torch.equal(state, torch.get_rng_state())
    assert {row.accuracy for row in (*first.rows, *second.rows)} == {first.rows[0].accuracy}
    assert first.rows[0].asr is None, "no trigger is known"


def test_the_users_network_is_trained() -> None:
    data, _ = poisoned()
    made = []

    def network() -> torch.nn.Module:
        made.append(torch.nn.Linear(6, 3))
        return made[-1]

    prove(data, data, rows(90, 1), network=network, recipe=RECIPE, seed=Seed(3), device=CPU)
    assert len(made) == 2
    assert torch.equal(made[0].weight, made[1].weight), "from the same start on the same data"
    assert made[0].weight.abs().max() > 0.5


def test_samples_that_were_trained_on_prove_nothing() -> None:
    data = rows(50, 0)
    mixed = Samples(
        inputs=torch.cat([data.inputs[:10], rows(5, 1).inputs[:]]),
        labels=torch.zeros(15, dtype=torch.int64),
        class_names=data.class_names,
    )
    assert torch.equal(held_out(mixed, data).inputs[:], rows(5, 1).inputs[:])
    with pytest.raises(InputError, match="hold some out"):
        held_out(data.subset(torch.arange(10)), data)
