"""Choosing victims, and composing a poisoned set from them."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from assay.errors import InputError
from assay.randomness import Seed
from assay_zoo import victims
from assay_zoo.poison import all_to_one
from assay_zoo.victims import (
    CHUNK,
    ByPlace,
    Victims,
    all_of,
    choose,
    choose_with_cover,
    compose,
    one_each,
    stamping_bytes,
    to_bytes,
    to_unit,
)


@given(st.lists(st.booleans(), min_size=1, max_size=60), st.floats(0, 1), st.integers(0, 2**40))
def test_victims_are_eligible_distinct_ordered_and_as_many_as_asked(flags, rate, seed) -> None:
    eligible = torch.tensor(flags)
    wanted = round(rate * len(flags))
    if wanted > eligible.sum():
        with pytest.raises(InputError, match="lower the rate"):
            choose(eligible, rate, Seed(seed))
        return
    rows = choose(eligible, rate, Seed(seed))
    assert len(rows) == wanted
    assert eligible[rows].all()
    assert torch.equal(rows, rows.unique())


def test_every_eligible_sample_is_as_likely() -> None:
    eligible = torch.arange(10) % 2 == 0
    drawn = torch.cat([choose(eligible, 0.2, Seed(seed)) for seed in range(2000)])
    counts = drawn.bincount(minlength=10)[eligible]
    assert ((counts - 800).abs() < 5 * (2000 * 0.4 * 0.6) ** 0.5).all()


def test_poison_and_cover_are_apart_and_not_of_the_target() -> None:
    labels = torch.arange(100) % 4
    poison, cover = choose_with_cover(
        labels, target=2, poison_rate=0.3, cover_rate=0.45, seed=Seed(1)
    )
    assert (len(poison), len(cover)) == (30, 45)
    assert len(torch.cat([poison, cover]).unique()) == 75
    assert (labels[poison] != 2).all()
    assert (labels[cover] != 2).all()


def test_bytes_survive_the_way_to_floats_and_back() -> None:
    every = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    assert torch.equal(to_bytes(to_unit(every)), every)
    assert to_bytes(torch.tensor([[[[-0.2, 1.3, 0.5]]]])).flatten().tolist() == [0, 255, 128]


def test_stamps_are_given_in_turn_or_all_together() -> None:
    plus = [lambda x, n=n: x + n for n in (1, 10, 100)]
    stamp = one_each(plus).stamp
    assert stamp(torch.zeros(5), slice(0, 5)).tolist() == [1, 10, 100, 1, 10]
    assert stamp(torch.zeros(3), slice(5, 8)).tolist() == [100, 1, 10]
    assert all_of(plus)(torch.zeros(2)).tolist() == [111, 111]


def test_a_trigger_of_bytes_works_in_chunks() -> None:
    seen = []

    def stamp(images):
        seen.append(len(images))
        return 1 - images

    side = 1024
    images = torch.zeros(CHUNK // side**2 + 3, 1, side, side, dtype=torch.uint8)
    assert (stamping_bytes(stamp)(images) == 255).all()
    assert seen == [CHUNK // side**2, 3]


def test_a_composed_set_tells_the_truth_about_itself() -> None:
    inputs, labels = torch.zeros(6, 2), torch.tensor([0, 1, 2, 0, 1, 2])
    made = compose(
        inputs,
        labels,
        poison=Victims(rows=torch.tensor([1, 5]), stamp=lambda x: x + 1),
        cover=Victims(rows=torch.tensor([2]), stamp=lambda x: x + 2),
        trigger=lambda x: x + 3,
        goal=all_to_one(0, classes=3),
    )
    assert made.inputs[:, 0].tolist() == [0, 1, 2, 0, 0, 1]
    assert made.labels.tolist() == [0, 0, 2, 0, 1, 0]
    assert made.is_poison.nonzero().flatten().tolist() == [1, 5]
    assert made.is_cover.nonzero().flatten().tolist() == [2]
    assert made.trigger(inputs)[0, 0] == 3
    assert inputs.sum() == 0


def test_victims_are_stamped_in_chunks_and_each_by_its_place(monkeypatch) -> None:
    monkeypatch.setattr(victims, "CHUNK", 7 * 16)
    monkeypatch.setattr(victims, "PLANE", 2 * 16)  # two images of 4 x 4
    seen = []

    def stamp(images, places):
        seen.append(len(images))
        steps = torch.arange(places.start, places.start + len(images))
        return images + steps.view(-1, 1, 1, 1) / 255

    rows = torch.arange(3, 20)
    made = compose(
        torch.zeros(20, 1, 4, 4, dtype=torch.uint8),
        torch.ones(20).long(),
        poison=Victims(rows=rows, stamp=ByPlace(stamp=stamp)),
        trigger=lambda x: x,
        goal=all_to_one(0, classes=2),
    )
    assert seen == [6, 6, 5], "chunks of images that are stamped at once"
    assert made.inputs[rows, 0, 0, 0].tolist() == list(range(17))


def plain(inputs, labels, stamp=lambda x: x + 1 / 255):
    return compose(
        inputs,
        labels,
        poison=Victims(rows=torch.tensor([0, 1]), stamp=stamp),
        trigger=stamp,
        goal=all_to_one(0, classes=2),
    )


def test_every_sample_has_a_label() -> None:
    images = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    for count in (3, 5):
        with pytest.raises(InputError, match=f"4 samples and {count} labels"):
            plain(images, torch.ones(count).long())


def test_a_trigger_that_no_image_shows_is_refused_and_one_that_some_show_is_not() -> None:
    images = torch.zeros(4, 1, 2, 2, dtype=torch.uint8)
    with pytest.raises(InputError, match="changes none of 2"):
        plain(images, torch.ones(4).long(), stamp=lambda x: x + 0.001)
    images[0] = 255
    assert plain(images, torch.ones(4).long()).inputs[:2, 0, 0, 0].tolist() == [255, 1]


@pytest.mark.parametrize("target", [-1, 2, 9])
def test_the_target_is_a_class(target) -> None:
    with pytest.raises(InputError, match=rf"target in \[0, 2\), got {target}"):
        all_to_one(target, classes=2)
