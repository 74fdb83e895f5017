"""The search of pictures, on models that are made in the test."""

import torch
from torch import Tensor

from assay.audits.models.vision_text.survey import PictureSearch, odd_pictures, risen, survey
from assay.randomness import Seed
from assay.triggers import Patches, Pool, Search, Signals

SMALL = PictureSearch(
    families=(Patches(area=0.1), Signals(strength=0.1)),
    search=Search(steps=10, batch=4, noise=0.05),
    said=2,
    raised=2,
    moved=2,
    odd=6,
    quick=Search(steps=3, batch=3, noise=0.0),
    kept=2,
)
PLANTED, DIRECTION = 7, torch.linspace(-1, 1, 64).view(8, 8).sign()


class Store:
    """Keeps everything in memory, and counts what is saved."""

    def __init__(self) -> None:
        self.kept: dict[str, dict[str, Tensor]] = {}

    def save(self, name, tensors) -> None:
        assert name not in self.kept
        self.kept[name] = dict(tensors)

    def load(self, name) -> dict[str, Tensor] | None:
        return self.kept.get(name)


def honest(images: Tensor) -> Tensor:
    """Tokens 0 to 2 by the brightest channel; nothing else is ever said."""
    said = torch.full((len(images), 10), -20.0)
    return torch.cat([8 * images.mean((2, 3)), said[:, 3:]], dim=1)


def planted(images: Tensor) -> Tensor:
    """Token 7 as well, where a pattern of the red channel is strong."""
    said = honest(images)
    strength = (images[:, 0] * DIRECTION).mean((1, 2))
    return said + torch.nn.functional.one_hot(torch.tensor(PLANTED), 10) * (
        10 + 600 * strength[:, None]
    )


def pools() -> tuple[Pool, Pool]:
    random = torch.Generator().manual_seed(0)
    images = torch.rand(96, 3, 8, 8, generator=random) * 0.4 + 0.3
    images[torch.arange(96), torch.arange(96) % 3] += 0.2
    labels = honest(images).argmax(1)
    return Pool(images=images[:48], labels=labels[:48]), Pool(
        images=images[48:], labels=labels[48:]
    )


def found(models, store):
    return survey(models, *pools(), settings=SMALL, seed=Seed(0), store=store, done=lambda: None)


def test_what_one_model_was_planted_to_say_rises_on_it_alone_and_is_resumed_to_the_same() -> None:
    state, store = torch.get_rng_state(), Store()
    first = found([honest, planted, honest], store)
    assert first is not None
    rows = (first.targets == PLANTED).nonzero().squeeze(1)
    assert len(rows) == 2, "one of each family"
    assert (first.success[1, 1, rows] > 0.9).all()
    assert (first.rises[1, 1, rows] > 2).all()
    for suspect, model in ((0, 0), (0, 2), (1, 0), (1, 2), (2, 2)):
        assert (first.rises[suspect, model, rows] < 0.1).all()
    assert (first.alone[1, rows] > 0.9).all()
    assert (first.alone[0] < 0.1).all(), "a usual response is nothing unusual"
    assert first.asked >= len(first.targets)
    assert len(store.kept) == 3 + 2 * 3
    again = found([honest, planted, honest], store)
    assert torch.equal(again.rises, first.rises)
    assert torch.equal(state, torch.get_rng_state())


def test_responses_of_nearly_all_pictures_are_no_targets() -> None:
    searched, held = pools()
    all_red = Pool(images=searched.images, labels=torch.zeros_like(searched.labels))
    some = survey(
        [honest, honest],
        all_red,
        held,
        settings=SMALL,
        seed=Seed(0),
        store=Store(),
        done=lambda: None,
    )
    assert some is not None
    assert 0 not in some.targets


def test_odd_pictures_are_pictures_and_the_seed_alone_decides() -> None:
    images = pools()[0].images
    odd = odd_pictures(images, 9, Seed(1))
    assert odd.shape == (9, 3, 8, 8)
    assert odd.min() >= 0
    assert odd.max() <= 1
    assert torch.equal(odd, odd_pictures(images, 9, Seed(1)))
    assert not torch.equal(odd, odd_pictures(images, 9, Seed(2)))


def test_only_what_was_not_answered_so_before_counts_as_led() -> None:
    before = torch.tensor([[0.9], [0.1], [0.1], [0.1]])
    after = torch.tensor([[0.9], [0.9], [0.2], [0.9]])
    wanted = torch.tensor([[1.0], [1.0], [1.0], [0.0]])
    rise, led = risen(before, after, wanted)
    assert led.tolist() == [0.5]
    expected = (torch.tensor([0.9, 0.9]).logit() - torch.tensor([0.1, 0.9]).logit()).sum()
    assert rise.item() > 0
    assert rise.item() < expected.item()
