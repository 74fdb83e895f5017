from collections.abc import Iterator, Mapping

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from assay.features import logits
from assay.fitting import EVERYTHING, Batch, Feed, Focus, Precision, Preprocess, Recipe, feed, train
from assay.fitting.focus import Losses
from assay.networks import default_network
from assay.randomness import Seed

CPU = torch.device("cpu")
has_cuda = torch.cuda.is_available()  # noqa: TID251
on_cuda = pytest.mark.skipif(not has_cuda, reason="steps are recorded on CUDA")


def digits_with_wrong_labels() -> tuple[Feed, torch.Tensor]:
    """Real digits, one in ten of which has a wrong label that has to be learnt by heart."""
    held = load_digits()
    images = torch.tensor(held.images * 255 / 16).round().to(torch.uint8)[:, None]
    labels = torch.tensor(held.target).long()
    wrong = torch.arange(len(labels)) % 10 == 3
    labels[wrong] = (labels[wrong] + 1) % 10
    return feed(images, labels, preprocess=Preprocess.of(images), device=CPU), wrong


def test_later_epochs_show_the_hardest_and_some_others() -> None:
    focus = Focus(first=0.5, hardest=0.3, others=0.2)
    assert focus.sizes(100, 4) == [100, 100, 44, 44]
    losses = torch.arange(100.0).flip(0)
    rows = focus.among(losses, 44, seed=Seed(0))
    assert set(range(30)) < set(rows.tolist())
    assert len(rows.unique()) == 44
    others = set(focus.among(losses, 44, seed=Seed(1)).tolist())
    assert others != set(rows.tolist()), "the others are drawn anew"


def test_no_sample_is_shown_twice_in_an_epoch_of_few() -> None:
    focus = Focus(first=0.0)
    for samples in (2, 3, 7):
        size = focus.sizes(samples, 1)[0]
        assert 2 <= len(focus.among(torch.zeros(samples), size, seed=Seed(0)).unique()) == size


def test_what_was_never_seen_comes_first_and_equal_losses_as_it_falls() -> None:
    losses = Losses(100, 4, CPU).last
    losses[:60] = 1.0
    rows = Focus(hardest=0.4, others=0.0).among(losses, 40, seed=Seed(0))
    assert set(rows.tolist()) == set(range(60, 100))
    rows = Focus(hardest=0.7, others=0.0).among(losses, 70, seed=Seed(0))
    seen = rows[rows < 60]
    assert len(seen) == 30
    assert seen.float().mean() > 20, "not the first 30"


def test_losses_are_those_of_the_step_that_saw_a_sample_last() -> None:
    losses = Losses(6, 4, CPU)
    said = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 2.0], [1.0, 1.0]])

    def batches() -> Iterator[Batch]:
        for rows in ([5, 0, 1, 2], [3, 4]):
            targets = torch.zeros(len(rows), dtype=torch.int64)
            yield Batch(inputs=said[: len(rows)], targets=targets, rows=torch.tensor(rows))

    for batch in losses.noted(batches()):
        value = losses(batch.inputs, batch)
        assert value == pytest.approx(nn.functional.cross_entropy(batch.inputs, batch.targets))
    each = nn.functional.cross_entropy(said, torch.zeros(4).long(), reduction="none")
    assert torch.allclose(losses.last, each[[1, 2, 3, 0, 1, 0]])


class Memory:
    """Keeps what it is given, like a run folder does."""

    def __init__(self) -> None:
        self.held: dict[str, Mapping[str, torch.Tensor]] = {}

    def save(self, name: str, tensors: Mapping[str, torch.Tensor]) -> None:
        self.held[name] = tensors

    def load(self, name: str) -> None:
        return None


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=on_cuda)])
def test_a_training_keeps_the_loss_of_every_sample(device: str) -> None:
    held, there = load_digits(), torch.device(device)
    rows, labels = torch.tensor(held.data).float(), torch.tensor(held.target).long()
    data = feed(rows, labels, preprocess=Preprocess.of(rows), device=there)
    model, store = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10)), Memory()
    standing = Recipe(epochs=4, peak_rate=1e-12, precision=Precision.FP32)
    train(model, data, standing, seed=Seed(0), focus=Focus(), store=store)
    expected = nn.functional.cross_entropy(logits(model, data).cpu(), labels, reduction="none")
    assert torch.allclose(store.held["train"]["beside/losses"], expected, atol=1e-3)
    assert expected.std() > 0.05


def test_hard_samples_are_fitted_in_fewer_passes() -> None:
    data, wrong = digits_with_wrong_labels()
    fitted = {}
    for name, epochs, focus in (("all", 10, EVERYTHING), ("focused", 15, Focus())):
        model = default_network(torch.Size((1, 1, 8, 8)), classes=10, seed=Seed(0))
        train(model, data, Recipe(epochs=epochs), seed=Seed(0), focus=focus)
        right = logits(model, data).argmax(1) == data.labels
        fitted[name] = right[wrong].float().mean().item()
    assert sum(Focus().sizes(len(data), 15)) < 1.02 * 10 * len(data)
    assert fitted["focused"] > fitted["all"] + 0.1
