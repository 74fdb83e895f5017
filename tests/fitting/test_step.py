import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

from assay.audits.dataset import Confusion
from assay.fitting import Feed, Preprocess, Recipe, feed, fit, one_cycle, sgd, train
from assay.fitting.step import is_plain
from assay.networks import default_network, mlp, resnet
from assay.randomness import Seed

has_cuda = torch.cuda.is_available()  # noqa: TID251
on_cuda = pytest.mark.skipif(not has_cuda, reason="steps are recorded on CUDA")


@pytest.mark.parametrize(
    "model", [resnet(classes=10), resnet(classes=10, blocks=(2, 2)), mlp(classes=3, dims=5)]
)
def test_our_networks_are_plain(model: nn.Module) -> None:
    assert is_plain(model)


def test_models_that_draw_or_are_watched_are_not() -> None:
    class Unknown(nn.Linear):
        pass

    watched = resnet(classes=10)
    watched[0].register_forward_pre_hook(lambda *_: None)
    assert not is_plain(watched)
    assert not is_plain(nn.Sequential(nn.Linear(2, 2), nn.Dropout(0.5)))
    assert not is_plain(nn.Sequential(Unknown(2, 2)))
    assert is_plain(nn.Sequential(nn.BatchNorm1d(2, momentum=0.3)))
    for cumulative in (nn.BatchNorm1d(2, momentum=None), nn.BatchNorm2d(2, momentum=None)):
        assert not is_plain(nn.Sequential(cumulative)), "its average depends on a count"


def data(device: str) -> Feed:
    held = load_digits()
    images = torch.tensor(held.images * 255 / 16).round().to(torch.uint8)[:, None]
    labels = torch.tensor(held.target).long()
    return feed(images, labels, preprocess=Preprocess.of(images), device=torch.device(device))


def trained(samples: Feed, *, replay: bool, momentum: float = 0.9) -> tuple[nn.Module, list[float]]:
    """Train for two epochs; the last batch of each is a smaller one."""
    model = default_network(torch.Size((1, 1, 8, 8)), classes=10, seed=Seed(0))
    model.to(samples.device).to(memory_format=torch.channels_last)
    optimizer = sgd(model, Recipe(peak_rate=0.1, momentum=momentum))
    steps = samples.steps(128)
    losses: list[torch.Tensor] = []
    batches = [b for epoch in (0, 1) for b in samples.shuffled(128, seed=Seed(epoch))]
    fit(
        model,
        batches,
        optimizer,
        scheduler=one_cycle(optimizer, steps=2 * steps),
        replay=replay,
        on_step=lambda step: losses.append(step.loss),
    )
    return model, [loss.item() for loss in losses]


@pytest.mark.parametrize("momentum", [0.9, 0.0])
@on_cuda
def test_replayed_steps_are_the_ordinary_ones(momentum: float) -> None:
    samples = data("cuda")
    first, ordinary = trained(samples, replay=False, momentum=momentum)
    second, replayed = trained(samples, replay=True, momentum=momentum)
    # bfloat16, and sums in another order: the paths part slowly
    assert replayed[:8] == pytest.approx(ordinary[:8], rel=0.02)
    assert replayed == pytest.approx(ordinary, rel=0.3, abs=0.05)
    counts = [
        int(m.num_batches_tracked)
        for model in (first, second)
        for m in model.modules()
        if isinstance(m, nn.BatchNorm2d)
    ]
    assert set(counts) == {len(ordinary)}


@on_cuda
def test_a_training_and_a_confusion_are_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    from assay.fitting import step

    replays: list[int] = []
    usual = step.Replayed._replay

    def counted(self: step.Replayed, batch: object) -> torch.Tensor:
        replays.append(1)
        return usual(self, batch)

    monkeypatch.setattr(step.Replayed, "_replay", counted)
    samples = data("cuda")
    model = default_network(torch.Size((1, 1, 8, 8)), classes=10, seed=Seed(0))
    train(model, samples, Recipe(epochs=3), seed=Seed(0))
    assert len(replays) == 3 * (samples.steps(128) - 1) - 3
    looks = list(Confusion()(model, samples, data("cuda"), seed=Seed(1)))
    assert len(replays) > 150  # 50 steps a part, three of them
    assert looks[-1].own.isfinite().all()
