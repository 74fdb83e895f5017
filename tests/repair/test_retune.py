import pytest
import torch
from torch import nn

from assay.errors import InputError
from assay.randomness import Seed
from assay.repair import Planted, Retuning, filled, retune
from assay.triggers import Additive, Pool

CLASSES, SIDE = 5, 6
BRIGHT = Additive(signal=torch.full((3, SIDE, SIDE), 0.05))
PLANTED = Planted(stamp=BRIGHT, source=None, target=2)


class Small(nn.Module):
    """A frozen map from stripes to classes, and a trainable bias of brightness towards class 2."""

    def __init__(self, strength: float) -> None:
        super().__init__()
        self.frozen = nn.Parameter(torch.eye(SIDE)[:CLASSES] * 8, requires_grad=False)
        self.pull = nn.Parameter(strength * nn.functional.one_hot(torch.tensor(2), CLASSES).float())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        stripes = images.mean((1, 3))
        has = images.mean((1, 2, 3))[:, None] - 0.205
        return stripes @ self.frozen.T + has * self.pull


def pool(count: int, seed: int) -> Pool:
    random = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    images = 0.2 * torch.rand(count, 3, SIDE, SIDE, generator=random)
    images[torch.arange(count), :, labels] += 0.6
    return Pool(images=images, labels=labels)


def test_the_trigger_loses_its_grip_and_the_rest_stays() -> None:
    model = Small(strength=200.0)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    made = retune(
        model, PLANTED, searched=pool(100, 0), held=pool(60, 1),
        method=Retuning(rate=1.0), seed=Seed(0),
    )  # fmt: skip
    first, then = made.rows
    assert first.asr is not None
    assert then.asr is not None
    assert first.asr > 0.9
    assert then.asr < 0.2
    assert then.accuracy >= first.accuracy
    assert set(made.values) == {"pull"}
    assert made.is_finite
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    with filled(model, made.values):
        assert torch.equal(model.pull, made.values["pull"])
    assert torch.equal(model.pull, before["pull"])


def test_the_seed_alone_decides() -> None:
    before = torch.get_rng_state()
    first, again = (
        Retuning(steps=20)(Small(strength=9.0), BRIGHT, pool(40, 0), seed=Seed(3))["pull"]
        for _ in range(2)
    )
    assert torch.equal(first, again)
    assert torch.equal(before, torch.get_rng_state()), "the global generator was used"


def test_values_come_back_after_an_error() -> None:
    model = Small(strength=9.0)
    with pytest.raises(KeyError), filled(model, {"pull": torch.zeros(CLASSES)}):
        raise KeyError
    assert model.pull[2] == 9.0


def test_mistakes_are_errors() -> None:
    frozen = Small(strength=1.0).requires_grad_(requires_grad=False)
    with pytest.raises(InputError, match="parameters to tune"):
        retune(frozen, PLANTED, searched=pool(10, 0), held=pool(10, 1), seed=Seed(0))
    empty = Pool(images=torch.zeros(0, 3, SIDE, SIDE), labels=torch.zeros(0).long())
    with pytest.raises(InputError, match="clean samples"):
        retune(Small(strength=1.0), PLANTED, searched=empty, held=pool(10, 1), seed=Seed(0))
