import pytest
import torch

from assay.errors import InputError
from assay.randomness import Seed
from assay.triggers import (
    ANY,
    Candidates,
    Patches,
    Pool,
    Search,
    Signals,
    margin_of,
    margins,
)

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


def found(search: Search | None = None, *, seed: int = 0, **options):
    family, search = Signals(strength=0.1), search or Search()
    parameters = search(corner, pool(), all_targets(), family, seed=Seed(seed), **options)
    return family, parameters


def test_finds_what_leads_to_each_class():
    family, parameters = found()
    before = family.start(4, torch.Size((3, SIDE, SIDE)), seed=Seed(0), device=torch.device("cpu"))
    start, _ = margins(corner, pool(), all_targets(), family, before)
    margin, asr = margins(corner, pool(), all_targets(), family, parameters)
    assert (margin > start).all()
    assert asr[3] > 0.99
    signal = parameters["signal"].mean(1)
    for target, (top, left) in enumerate([(0, 0), (0, 4), (4, 0), (4, 4)]):
        inside = signal[target, top : top + 4, left : left + 4].mean()
        assert inside > 3 * signal[target].mean().abs()


def test_a_patch_covers_the_place_that_counts():
    family = Patches(area=0.1)
    parameters = Search()(corner, pool(), all_targets(), family, seed=Seed(0))
    mask = parameters["mask"][3]
    assert mask[4:, 4:].sum() > 0.9 * mask.sum()


def test_candidates_in_turns_come_to_the_same():
    family, together = found()
    _, in_turns = found(Search(most_images=24))
    margin = [margins(corner, pool(), all_targets(), family, p)[0] for p in (together, in_turns)]
    assert torch.allclose(*margin, atol=0.1)


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
        Search()(corner, pool(), candidates, Signals(strength=0.1), seed=Seed(0))


def test_margins_are_over_the_best_other_class():
    said = torch.tensor([[1.0, 5.0, 2.0], [4.0, 0.0, 1.0]])
    assert margin_of(said, 0).tolist() == [-4.0, 3.0]
