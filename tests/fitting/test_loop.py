from collections.abc import Mapping

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from transformers import ResNetConfig, ResNetForImageClassification

from assay.features import logits
from assay.fitting import (
    EVERYTHING,
    Feed,
    Focus,
    Precision,
    Preprocess,
    Recipe,
    feed,
    one_cycle,
    sgd,
    train,
)
from assay.networks import default_network, resnet
from assay.randomness import Seed, isolated

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def digits() -> tuple[Feed, Feed]:
    """Real handwritten digits to train on and to test on."""
    held = load_digits()
    images = torch.tensor(held.images * 255 / 16).round().to(torch.uint8)[:, None]
    labels = torch.tensor(held.target).long()
    ready = Preprocess.of(images)
    return tuple(
        feed(images[part], labels[part], preprocess=ready, device=CPU)
        for part in (slice(0, 1400), slice(1400, None))
    )


def accuracy(model: nn.Module, data: Feed) -> float:
    return (logits(model, data).argmax(1) == data.labels).float().mean().item()


@pytest.mark.parametrize("precision", [Precision.FP32, Precision.BF16])
def test_digits_are_learnt(digits: tuple[Feed, Feed], precision: Precision) -> None:
    model = default_network(torch.Size((1, 1, 8, 8)), classes=10, seed=Seed(0))
    train(model, digits[0], Recipe(epochs=3, precision=precision), seed=Seed(0))
    assert accuracy(model, digits[1]) > 0.9


def test_a_hugging_face_model_is_trained_by_the_same_loop(digits: tuple[Feed, Feed]) -> None:
    with isolated(Seed(0), CPU):
        model = ResNetForImageClassification(
            ResNetConfig(
                num_channels=1,
                embedding_size=8,
                hidden_sizes=[16, 32],
                depths=[1, 1],
                layer_type="basic",
                num_labels=10,
            )
        )
    train(model, digits[0], Recipe(epochs=4), seed=Seed(0))
    assert accuracy(model, digits[1]) > 0.5


def test_the_seed_alone_decides_the_weights(digits: tuple[Feed, Feed]) -> None:
    before = torch.get_rng_state()
    first, again, other = (trained(digits[0], Seed(s)) for s in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)
    assert torch.equal(before, torch.get_rng_state()), "the global generator was used"


class InterruptedWorkError(Exception):
    """Stands for kill -9 between two steps."""


class Memory:
    """Keeps what it is given, like a run folder does."""

    def __init__(self) -> None:
        self.held: dict[str, dict[str, Tensor]] = {}

    def save(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        self.held[name] = {key: value.clone() for key, value in tensors.items()}

    def load(self, name: str) -> dict[str, Tensor] | None:
        return self.held.get(name)


def trained(
    data: Feed,
    seed: Seed,
    *,
    stops: int = 0,
    dropout: float = 0.0,
    focus: Focus = EVERYTHING,
) -> dict[str, Tensor]:
    """Train three epochs, and be interrupted at the start of the last `stops` of them."""
    store = Memory()
    sizes = focus.sizes(len(data), 3)
    left = sum(data.steps(128, samples=size) for size in sizes[3 - stops :])

    def stop(_: str, done: int, total: int) -> None:
        if stops and done == total - left + 1 and len(seen) < 1:
            seen.append(done)
            raise InterruptedWorkError

    seen: list[int] = []
    while True:
        with isolated(seed, CPU):
            model = nn.Sequential(resnet(classes=10, channels=1, width=8), nn.Dropout(dropout))
        try:
            train(model, data, Recipe(epochs=3), seed=seed, focus=focus, progress=stop, store=store)
        except InterruptedWorkError:
            continue
        return model.state_dict()


@pytest.mark.parametrize("memory_mb", [100.0, 0.2])
@pytest.mark.parametrize("focus", [EVERYTHING, Focus()])
def test_interrupted_training_ends_in_the_same_weights(
    digits: tuple[Feed, Feed], monkeypatch: pytest.MonkeyPatch, focus: Focus, memory_mb: float
) -> None:
    monkeypatch.setattr("assay.fitting.loop._SAVE_EVERY_S", 0.0)
    images = digits[0].inputs[:].repeat_interleave(2, 2).repeat_interleave(2, 3)
    data = feed(
        images,
        digits[0].labels,
        preprocess=digits[0].preprocess,
        device=CPU,
        memory_mb=memory_mb,
    )
    assert (data.resident is None) is (memory_mb < 1)
    whole = trained(data, Seed(5), dropout=0.1, focus=focus)
    resumed = trained(data, Seed(5), stops=1, dropout=0.1, focus=focus)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_cycle_rises_and_ends_at_zero() -> None:
    optimizer = sgd(nn.Linear(2, 2), Recipe(peak_rate=0.4))
    scheduler = one_cycle(optimizer, steps=50)
    rates = []
    for _ in range(50):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert max(rates) == pytest.approx(0.4)
    assert rates.index(max(rates)) in {9, 10}
    assert rates[0] < 0.05
    assert rates[-1] < 0.02


def test_biases_and_norms_do_not_decay() -> None:
    groups = sgd(nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), Recipe()).param_groups
    assert [len(g["params"]) for g in groups] == [1, 3]
    assert groups[1]["weight_decay"] == 0
