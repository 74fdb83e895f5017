import sys

import pytest
import torch

from assay.errors import InputError
from assay.fitting import Feed, Preprocess, feed
from assay.randomness import Seed

CPU = torch.device("cpu")
PLAIN = Preprocess(mean=(0.0,), std=(1.0,))


def images(count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images whose first pixel tells which they are."""
    inputs = torch.zeros(count, 1, 32, 32, dtype=torch.uint8)
    inputs[:, 0, 0, 0] = torch.arange(count) % 256
    return inputs, torch.arange(count) % 7


def both(count: int) -> list[Feed]:
    """The same data resident and streamed, in pools of 128."""
    inputs, labels = images(count)
    return [
        feed(inputs, labels, preprocess=PLAIN, device=CPU, memory_mb=mb) for mb in (100.0, 0.76)
    ]


@pytest.mark.parametrize("index", [0, 1])
def test_an_epoch_serves_every_sample_once_with_its_label(index: int) -> None:
    data = both(1000)[index]
    assert (data.resident is None) == bool(index)
    batches = list(data.shuffled(48, seed=Seed(0)))
    rows = torch.cat([b.rows for b in batches])
    assert len(batches) == data.steps(48)
    assert torch.equal(rows.sort().values, torch.arange(1000))
    assert not torch.equal(rows, torch.arange(1000))
    for batch in batches:
        assert torch.equal(batch.targets, batch.rows % 7)
        assert torch.equal((batch.inputs[:, 0, 0, 0] * 255).round().long(), batch.rows % 256)


@pytest.mark.parametrize("index", [0, 1])
def test_an_epoch_among_some_serves_those_alone(index: int) -> None:
    data = both(1000)[index]
    some = torch.randperm(1000, generator=torch.Generator().manual_seed(0))[:333]
    batches = list(data.shuffled(48, seed=Seed(0), among=some))
    assert len(batches) == data.steps(48, samples=333)
    assert torch.equal(torch.cat([b.rows for b in batches]).sort().values, some.sort().values)
    for batch in batches:
        assert torch.equal((batch.inputs[:, 0, 0, 0] * 255).round().long(), batch.rows % 256)


def test_streamed_and_resident_data_are_served_alike_in_order() -> None:
    resident, streamed = both(300)
    for first, second in zip(resident.ordered(64), streamed.ordered(64), strict=False):
        assert torch.equal(first.inputs[:44], second.inputs[:44])
    for data in (resident, streamed):
        assert torch.equal(torch.cat([b.rows for b in data.ordered(64)]), torch.arange(300))


def test_a_streamed_pool_holds_neighbours_from_all_over() -> None:
    streamed = both(6400)[1]
    first = next(iter(streamed.shuffled(128, seed=Seed(3)))).rows
    assert len({int(r) // 64 for r in first}) == 2, "two blocks of 64 fill a pool of 128"


def test_the_seed_alone_decides_the_order() -> None:
    before = torch.get_rng_state()
    data = both(500)[0]
    first, again, other = (
        torch.cat([b.rows for b in data.shuffled(50, seed=Seed(s))]) for s in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def test_a_batch_of_one_is_left_out_because_it_has_no_variance() -> None:
    data = both(65)[0]
    assert [len(b.rows) for b in data.shuffled(64, seed=Seed(0))] == [64]
    assert data.steps(64) == 1


def test_endless_batches_are_all_whole() -> None:
    data = both(100)[0]
    sizes = [len(b.rows) for b, _ in zip(data.endless(64, seed=Seed(0)), range(5), strict=False)]
    assert sizes == [64] * 5


def test_relabelled_data_share_the_memory() -> None:
    data = both(100)[0]
    other = data.relabelled(torch.zeros(100, dtype=torch.int64))
    assert other.resident is data.resident
    assert int(next(iter(other.ordered(100))).targets.sum()) == 0


def test_large_images_are_measured_on_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (50, 3, 8, 8), generator=random, dtype=torch.uint8)
    whole = Preprocess.of(images)
    monkeypatch.setattr(sys.modules[Preprocess.__module__], "_MOST_VALUES", 2 * 3 * 8 * 8)
    found, expected = Preprocess.of(images), Preprocess.of(images[[0, 49]])
    assert found.mean == pytest.approx(expected.mean)
    assert found.std == pytest.approx(expected.std)
    assert found.mean != pytest.approx(whole.mean)


def test_preprocessing_standardises_each_channel() -> None:
    random = torch.Generator().manual_seed(0)
    inputs = torch.randint(0, 256, (200, 3, 8, 8), generator=random, dtype=torch.uint8)
    inputs[:, 1] //= 4
    ready = Preprocess.of(inputs)
    batch = next(
        iter(
            feed(inputs, torch.zeros(200, dtype=torch.int64), preprocess=ready, device=CPU).ordered(
                200
            )
        )
    )
    assert batch.inputs.mean((0, 2, 3)).abs().max() < 1e-4
    assert (batch.inputs.std((0, 2, 3)) - 1).abs().max() < 1e-3
    assert batch.inputs.is_contiguous(memory_format=torch.channels_last)


def test_images_are_resized_to_what_the_model_wants() -> None:
    inputs, labels = images(4)
    ready = Preprocess(mean=(0.0,), std=(1.0,), size=16)
    batch = next(iter(feed(inputs, labels, preprocess=ready, device=CPU).ordered()))
    assert batch.inputs.shape == (4, 1, 16, 16)


def test_a_constant_column_is_not_divided_by_zero() -> None:
    rows = torch.ones(10, 3)
    ready = Preprocess.of(rows)
    assert torch.equal(ready(rows), torch.zeros(10, 3))


def test_too_little_memory_and_no_samples_are_refused() -> None:
    inputs, labels = images(1000)
    with pytest.raises(InputError, match="expected memory for at least 384 samples"):
        feed(inputs, labels, preprocess=PLAIN, device=CPU, memory_mb=0.05)
    with pytest.raises(InputError, match="expected samples with labels"):
        feed(inputs[:0], labels[:0], preprocess=PLAIN, device=CPU)


def test_batches_of_one_are_refused_not_left_out() -> None:
    data = both(100)[0]
    for asked in (
        lambda: data.steps(1),
        lambda: next(data.shuffled(1, seed=Seed(0))),
        lambda: next(data.endless(1, seed=Seed(0))),
    ):
        with pytest.raises(InputError, match="batches of at least two samples, got 1"):
            asked()


def test_one_sample_is_refused_because_it_makes_no_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    one = both(1)[0]
    assert one.steps(64) == 0
    with pytest.raises(InputError, match="at least two samples, got 1; add some"):
        next(one.shuffled(64, seed=Seed(0)))
    with pytest.raises(InputError, match="at least two samples, got 1; add some"):
        next(both(100)[0].shuffled(64, seed=Seed(0), among=torch.tensor([3])))
    monkeypatch.setattr(Feed, "_pools", lambda *_: pytest.fail("an endless search for a batch"))
    with pytest.raises(InputError, match="at least two samples, got 1; add some"):
        next(one.endless(64, seed=Seed(0)))


def test_a_column_in_small_units_varies() -> None:
    random = torch.Generator().manual_seed(0)
    rows = torch.randn(100, 3, generator=random)
    ready = Preprocess.of(rows * torch.tensor([1.0, 1e-7, 1e-12]))
    assert ready(rows * torch.tensor([1.0, 1e-7, 1e-12])).std(0, correction=0) == pytest.approx(
        torch.ones(3), abs=1e-3
    )


@pytest.mark.parametrize("value", [0.0, 1e-9, 0.1, 0.7, 1.0])
def test_rounding_of_a_constant_column_does_not_count(value: float) -> None:
    rows = torch.full((1000, 1), value)
    rows[::2] = torch.nextafter(rows[::2], torch.tensor(torch.inf)) if value else 0
    assert Preprocess.of(rows).std == (1.0,)


class Counted:
    """So many rows, of which only those asked for are there; each holds its own number."""

    dtype = torch.float32

    def __init__(self, count: int) -> None:
        self.shape = torch.Size((count, 1))

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
        assert 0 <= int(rows.min()) <= int(rows.max()) < len(self), "a row that is not there"
        return rows[:, None].float()


@pytest.mark.parametrize("count", [16_777_220, 33_554_440])
def test_rows_of_very_long_tables_are_there(count: int) -> None:
    assert Preprocess.of(Counted(count)).mean[0] == pytest.approx(count / 2, rel=1e-3)


def test_the_rows_that_are_measured_are_pinned_because_stored_results_depend_on_them() -> None:
    asked: list[torch.Tensor] = []

    class Noted(Counted):
        def __getitem__(self, rows: torch.Tensor) -> torch.Tensor:
            asked.append(rows)
            return super().__getitem__(rows)

    Preprocess.of(Noted(5001))
    assert torch.equal(asked[0], torch.linspace(0, 5000, 5000).long())
