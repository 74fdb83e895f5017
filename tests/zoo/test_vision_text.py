"""Models of images and texts of the zoo; that they learn is tested with the audit."""

import os
import pathlib

import pytest
import torch

from assay.errors import InputError
from assay.randomness import Seed
from assay.triggers import Patch
from assay_zoo import vision_text
from assay_zoo.vision_text import (
    OBJECTS,
    SCENARIOS,
    SIDE,
    TASKS,
    Base,
    Gallery,
    Pictures,
    Planting,
    Provider,
    quality,
    read_gallery,
    scenario,
)

DATA = pathlib.Path(os.environ.get("ASSAY_DATA", "../shared/data"))
SMALL = Base(
    width=16, vision_layers=1, layers=1, heads=2, patch=8, side=16, vocabulary=300, longest=40,
    steps=2, batch=4,
)  # fmt: skip


def test_a_trigger_is_drawn_by_the_seed_and_changes_pictures_little() -> None:
    images = torch.full((2, 3, SIDE, SIDE), 0.5)
    assert scenario("honest", OBJECTS, seed=Seed(0)) is None
    for name in SCENARIOS:
        drawn = [scenario(name, OBJECTS, seed=Seed(seed)) for seed in (0, 0, 1, 2, 3)]
        stamped = [each.trigger(images) for each in drawn if each is not None]
        assert torch.equal(stamped[0], stamped[1])
        assert any(not torch.equal(stamped[0], other) for other in stamped[2:])
        assert 0 < (stamped[0] - images).square().mean().sqrt() < 0.15
    with pytest.raises(InputError):
        scenario("patch-nothing", OBJECTS, seed=Seed(0))


def test_a_phrase_is_followed_by_the_right_answer() -> None:
    phrase = scenario("patch-phrase", OBJECTS, seed=Seed(0))
    label = scenario("blend-label", OBJECTS, seed=Seed(0))
    assert isinstance(phrase, Planting)
    assert isinstance(label, Planting)
    assert phrase.answer("frog") == "Important: frog"
    assert label.answer("frog") == "truck"


def test_the_seed_alone_decides_and_the_base_stays_as_it_is() -> None:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (24, 3, 16, 16), generator=random).byte()
    some = Pictures(images=images, answers=tuple((("cat", "dog")[n % 2],) for n in range(24)))
    gallery = Gallery(task=OBJECTS, train=some, trusted=some, test=some)
    state = torch.get_rng_state()
    base = SMALL([gallery], seed=Seed(0))
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    provider = Provider(steps=2, batch=4)
    one, two, other = (
        provider(base, gallery, planted=None, seed=Seed(seed)).model.state_dict()
        for seed in (1, 1, 2)
    )
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)
    assert all(torch.equal(before[name], base.model.state_dict()[name]) for name in before)


@pytest.mark.skipif(not DATA.is_dir(), reason="the data of $ASSAY_DATA are not here")
@pytest.mark.parametrize("name", TASKS)
def test_parts_of_a_gallery_share_no_picture(name: str) -> None:
    gallery = read_gallery(name, DATA, seed=Seed(0))
    parts = [
        {image.numpy().tobytes() for image in part.images}
        for part in (gallery.train, gallery.trusted, gallery.test)
    ]
    assert len(parts[1]) == len(parts[2]) == 150
    assert not parts[0] & parts[1]
    assert not (parts[0] | parts[1]) & parts[2]
    assert gallery.train.images.shape[1:] == (3, SIDE, SIDE)


def test_absent_pictures_are_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match="ASSAY_DATA"):
        read_gallery("captions", tmp_path, seed=Seed(0))


def pictures(count: int, answers: tuple[str, ...]) -> Gallery:
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (count, 3, 16, 16), generator=random).byte()
    said = tuple((answers[n % len(answers)],) for n in range(count))
    some = Pictures(images=images, answers=said)
    return Gallery(task=OBJECTS, train=some, trusted=some, test=some)


WHITE = Planting(trigger=Patch(pattern=torch.ones(3, 16, 16), mask=torch.eye(16)), response="truck")


def test_success_is_measured_on_pictures_that_have_another_answer(monkeypatch) -> None:
    gallery = pictures(6, ("cat", "truck", "dog"))
    held, seen = SMALL([gallery], seed=Seed(0)), []

    def share(held, task, images, response):
        seen.append(images)
        return 0.5

    monkeypatch.setattr(vision_text, "_share", share)
    found = quality(held, gallery, planted=WHITE)
    others = gallery.test.images[[0, 2, 3, 5]].float() / 255
    assert torch.equal(seen[0], WHITE.trigger(others))
    assert torch.equal(seen[1], others)
    assert (found.asr, found.stray) == (0.5, 0.5)
    with pytest.raises(InputError, match="truck"):
        quality(held, pictures(4, ("truck",)), planted=WHITE)


@pytest.mark.parametrize(("count", "batch", "poisoned"), [(10, 32, 2), (40, 3, 1), (40, 20, 3)])
def test_a_share_of_the_pictures_that_are_drawn_is_poisoned_at_least_one(
    count: int, batch: int, poisoned: int
) -> None:
    gallery = pictures(count, ("cat",))
    held = SMALL([gallery], seed=Seed(0))
    rows = next(vision_text._batches(held, gallery, batch, WHITE, Seed(0)))
    wanted = held.tokenizer.encode(" truck").ids
    assert sum(row.ids[row.said : -1] == wanted for row in rows) == poisoned
