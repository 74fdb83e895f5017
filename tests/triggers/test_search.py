import contextlib
import math

import pytest
import torch

from assay.errors import InputError
from assay.randomness import Seed
from assay.triggers import (
    ANY,
    Bounded,
    Candidates,
    Canvases,
    Objective,
    Patches,
    Pool,
    Search,
    Signals,
    coarse_products,
    margin_of,
    margins,
)
from assay.triggers.search import alike, disturbed

SIDE = 8


def corner(images):
    """A model that answers the quadrant of the image that is brightest; quadrant 3 counts 9 times.

    So its class 3 is reached by a ninth of the change that the others need.
    """
    halves = images.mean(1).unfold(1, 4, 4).unfold(2, 4, 4).mean((-1, -2)).flatten(1)
    return halves * torch.tensor([1.0, 1.0, 1.0, 9.0])


def pool(count: int = 60) -> Pool:
    images = torch.rand(count, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    images[:, :, 4:, 4:] /= 9
    return Pool(images=images, labels=corner(images).argmax(1))


def all_targets() -> Candidates:
    return Candidates(sources=torch.full((4,), ANY), targets=torch.arange(4))


QUIET = Search(noise=0.0)


def measured(family, parameters, *, noise: float = 0.0):
    return margins(corner, pool(), all_targets(), family, parameters, noise=noise, seed=Seed(0))


def found(search: Search = QUIET, *, seed: int = 0, **options):
    family = Signals(strength=0.1)
    parameters = search(corner, pool(), all_targets(), family, seed=Seed(seed), **options)
    return family, parameters


def test_finds_what_leads_to_each_class():
    family, parameters = found()
    before = family.start(4, torch.Size((3, SIDE, SIDE)), seed=Seed(0), device=torch.device("cpu"))
    start, _ = measured(family, before)
    margin, asr = measured(family, parameters)
    assert (margin > start).all()
    assert asr[3] > 0.99
    signal = parameters["signal"].mean(1)
    for target, (top, left) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
        inside = signal[target, top : top + 4, left : left + 4].mean()
        assert inside > 3 * signal[target].mean().abs()


def test_a_patch_covers_the_place_that_counts():
    family = Patches(area=0.1)
    parameters = QUIET(corner, pool(), all_targets(), family, seed=Seed(0))
    mask = parameters["mask"][3]
    assert mask[4:, 4:].sum() > 0.9 * mask.sum()


def test_candidates_in_turns_come_to_the_same():
    family, together = found()
    _, in_turns = found(Search(most_images=24, noise=0.0))
    margin = [measured(family, p)[0] for p in (together, in_turns)]
    assert torch.allclose(*margin, atol=0.1)


def test_measuring_in_smaller_passes_comes_to_the_same():
    family, triggers = found()
    asked = (corner, pool(), all_targets(), family, triggers)
    whole, parts = (
        margins(*asked, noise=0.1, seed=Seed(0), at_once=count)[0] for count in (256, 7)
    )
    assert torch.allclose(whole, parts, atol=1e-5)


def test_the_seed_alone_decides():
    state = torch.get_rng_state()
    assert torch.equal(found(seed=3)[1]["signal"], found(seed=3)[1]["signal"])
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(found(seed=3)[1]["signal"], found(seed=4)[1]["signal"])


def test_a_source_restricts_the_images():
    candidates = Candidates(sources=torch.tensor([1, ANY]), targets=torch.tensor([0, 0]))
    held = pool()
    fits = held.eligible(candidates)
    assert torch.equal(fits[0].bool(), held.labels == 1)
    assert torch.equal(fits[1].bool(), held.labels != 0)


def test_a_reference_keeps_its_answers():
    """The reference answers by the left half alone: what preserves it leaves the left half."""

    def left(images):
        return 20 * torch.stack(
            [images[..., :4].mean((1, 2, 3)), images[..., 4:].mean((1, 2, 3))], 1
        )

    _, free = found()
    _, bound = found(reference=left, preserve=20.0)
    moved = [
        (left((pool().images + p["signal"][0]).clamp(0, 1)) - left(pool().images)).abs().mean()
        for p in (free, bound)
    ]
    assert moved[1] < 0.7 * moved[0]


def test_a_source_without_images_is_refused():
    candidates = Candidates(sources=torch.tensor([7]), targets=torch.tensor([0]))
    with pytest.raises(InputError, match="source"):
        QUIET(corner, pool(), candidates, Signals(strength=0.1), seed=Seed(0))


def test_noise_is_the_same_for_all_candidates():
    images = torch.full((3, 5, 3, SIDE, SIDE), 0.5)
    random = torch.Generator().manual_seed(0)
    noisy = disturbed(images, 0.1, random)
    assert torch.equal(noisy[0], noisy[2])
    assert not torch.equal(noisy[0, 0], noisy[0, 1])
    assert noisy.std().item() == pytest.approx(0.1, rel=0.05)
    assert disturbed(images, 0.0, random) is images


def test_under_noise_a_brittle_trigger_is_not_found():
    """Class 0 is led to by the finest checkerboard, unless the image is noisy."""
    board = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(SIDE // 2, SIDE // 2)

    def brittle(images):
        rough = (images[..., 1:] - images[..., :-1]).square().mean((1, 2, 3))
        checkered = (images * board).mean((1, 2, 3)) * (rough < 0.02)
        return 40 * torch.stack([checkered - 0.01, torch.zeros(len(images))], 1)

    even = torch.full((40, 3, SIDE, SIDE), 0.5)
    clean = Pool(images=even, labels=torch.ones(40, dtype=torch.int64))
    target = Candidates(sources=torch.tensor([ANY]), targets=torch.tensor([0]))
    family, asr = Signals(strength=0.05), []
    for noise in (0.0, 0.15):
        trigger = Search(noise=noise)(brittle, clean, target, family, seed=Seed(0))
        measured = margins(brittle, clean, target, family, trigger, noise=noise, seed=Seed(0))
        asr.append(measured[1].item())
    assert asr[0] > 0.9
    assert asr[1] < 0.1


def test_whole_images_grow_beyond_what_the_pool_shows():
    search = Search(steps=50, batch=4, noise=0.0, objective=Objective.MARGIN)
    family = Canvases()
    triggers = search(corner, pool(), all_targets(), family, seed=Seed(0))
    margin, asr = measured(family, triggers)
    own = torch.stack([margin_of(corner(pool().images), t).amax() for t in range(4)])
    assert (margin > own).all()
    assert asr.tolist() == [1.0] * 4


def test_margins_are_over_the_best_other_class():
    said = torch.tensor([[1.0, 5.0, 2.0], [4.0, 0.0, 1.0]])
    assert margin_of(said, 0).tolist() == [-4.0, 3.0]
    assert margin_of(said, torch.tensor([1, 0])).tolist() == [3.0, 3.0]


def test_bounded_noise_comes_near_the_best_corner_of_its_box():
    family = Bounded(bound=0.1)
    noise = QUIET(corner, pool(), all_targets(), family, seed=Seed(0))["noise"]
    assert noise[0, :, :4, :4].mean() > 0.095
    assert noise[3, :, 4:, 4:].mean() > 0.095
    assert noise[0, :, 4:, 4:].mean() < -0.095


def test_a_candidate_with_too_many_images_is_asked_in_parts():
    asked: list[int] = []

    def respond(images):
        asked.append(len(images))
        return corner(images)

    family = Signals(strength=0.1)
    settings = {"noise": 0.0, "steps": 10, "batch": 24}
    one, other = (
        Search(**settings, most_images=most)(
            respond, pool(), all_targets(), family, seed=Seed(0), reference=respond
        )
        for most in (24, 10)
    )
    assert {24, 10} <= set(asked) <= {24, 10, 4}
    for name, value in one.items():
        assert torch.allclose(value, other[name], atol=1e-5), name


def test_alike_is_the_log_by_which_answers_vary_less():
    plain = torch.randn(500, 4, generator=torch.Generator().manual_seed(0))
    assert alike(plain / 3 + 7, plain) == pytest.approx(2 * math.log(3), rel=1e-4)
    assert alike(plain * 2, plain) == 0
    assert alike(torch.zeros(5, 4), plain) > 10, "a constant answer is as alike as can be"
    assert not alike(plain * torch.nan, plain).isfinite()


@pytest.mark.parametrize(("said", "plain"), [(1, 9), (9, 1), (0, 9)])
def test_fewer_than_two_answers_are_not_alike(said, plain):
    with pytest.raises(InputError, match="answers to at least two images, got"):
        alike(torch.ones(said, 4), torch.ones(plain, 4))


@pytest.mark.parametrize("candidates", [([7, ANY], [0, 0]), ([ANY, ANY], [0, 1])])
def test_candidates_without_images_are_not_measured(candidates):
    held = Pool(images=pool().images, labels=torch.ones(60, dtype=torch.int64))
    asked = Candidates(sources=torch.tensor(candidates[0]), targets=torch.tensor(candidates[1]))
    family = Signals(strength=0.1)
    shape = torch.Size((3, SIDE, SIDE))
    start = family.start(2, shape, seed=Seed(0), device=torch.device("cpu"))
    with pytest.raises(InputError, match="source"):
        margins(corner, held, asked, family, start, noise=0.0, seed=Seed(0))


def test_measured_by_how_alike_answers_become():
    family = Canvases(count=1)
    same = family.start(4, torch.Size((3, SIDE, SIDE)), seed=Seed(0), device=torch.device("cpu"))
    nothing = Signals(strength=0.1)
    clean = nothing.start(4, torch.Size((3, SIDE, SIDE)), seed=Seed(0), device=torch.device("cpu"))

    def asked(family, parameters):
        found = margins(
            corner, pool(400), all_targets(), family, parameters, noise=0.0, seed=Seed(0),
            objective=Objective.ALIKE,
        )  # fmt: skip
        return found[0]

    whole = asked(family, same)
    assert whole[3] > 10, "every answer is the same, and of class 3"
    assert whole[:3].tolist() == [0, 0, 0], "nothing goes to the other targets"
    assert asked(nothing, clean).max() < 0.5


def test_alike_is_searched_as_likelihood_is():
    _, one = found(Search(noise=0.0, objective=Objective.ALIKE))
    _, other = found(QUIET)
    assert torch.equal(one["signal"], other["signal"])


@pytest.mark.parametrize(("device", "inside"), [("cpu", "highest"), ("cuda", "high")])
def test_products_are_coarse_on_cuda_alone_and_as_before_after_it(device: str, inside: str) -> None:
    assert torch.get_float32_matmul_precision() == "highest"
    with contextlib.suppress(ValueError), coarse_products(torch.device(device)):
        assert torch.get_float32_matmul_precision() == inside
        raise ValueError("within")
    assert torch.get_float32_matmul_precision() == "highest"
