"""Measure how long a small network takes to learn CIFAR-10; 94 % is the mark.

The network and its rates are those of Jordan, "94% on CIFAR-10 in 3.29 seconds", 2024,
arXiv:2404.00498, without its alternating flip, lookahead, scaled biases and cropped views at test.
"""

import argparse
import itertools
import time

import torch
from jaxtyping import Float
from torch import Tensor, nn

import grid
from assay.features import logits
from assay.fitting import Augment, Batch, Feed, Preprocess, Recipe, feed, fit, one_cycle, sgd
from assay.randomness import Seed, child, isolated
from assay.storage import read_samples

MARK = 0.94
WIDTHS = (64, 256, 256)
SEED = Seed(0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--data", required=True, help="a folder in CIFAR-10 binary layout")
    add("--epochs", type=int, default=12)
    add("--samples", type=int, help="of the training and the test images, at most")
    add("--device", type=torch.device, default=torch.accelerator.current_accelerator() or "cpu")
    asked = parser.parse_args()
    device = torch.device(asked.device)
    train, test = (_feed(asked.data, split, asked.samples, device) for split in ("train", "test"))
    recipe = Recipe(
        epochs=asked.epochs,
        batch_size=1024,
        peak_rate=1.5,
        momentum=0.85,
        weight_decay=1.3e-3,
        augment=Augment(shift=2 / 32, mirror=True),
    )
    _learn(train, recipe, epochs=1)  # what the device prepares once is not counted
    started = time.perf_counter()
    model = _learn(train, recipe, epochs=recipe.epochs)
    right = (_views(model, test).argmax(1).cpu() == test.labels).double().mean().item()
    seconds = time.perf_counter() - started
    where = grid.machine(device)["accelerator"] or grid.machine(device)["cpu"]
    print(f"{len(train):,} training images, {recipe.epochs} epochs on {where}")
    print(f"{seconds:.2f} s with the test; accuracy {right:.4f} on {len(test):,} test images")
    print(f"{MARK:.0%} {'reached' if right >= MARK else 'not reached'}")


def _feed(folder: str, split: str, most: int | None, device: torch.device) -> Feed:
    samples = read_samples(f"{folder}#{split}")
    rows = slice(0, most)
    mean, std = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
    preprocess = Preprocess(mean=mean, std=std)
    return feed(samples.inputs[rows], samples.labels[rows], preprocess=preprocess, device=device)


def _learn(data: Feed, recipe: Recipe, *, epochs: int) -> nn.Module:
    with isolated(child(SEED, "network"), torch.device("cpu")):
        model = _network(next(data.ordered(2_000)).inputs.cpu())
    model.to(data.device).to(memory_format=torch.channels_last)
    optimizer = sgd(model, recipe)
    batches = itertools.chain.from_iterable(
        data.shuffled(recipe.batch_size, seed=child(SEED, "epoch", epoch), augment=recipe.augment)
        for epoch in range(epochs)
    )
    steps = epochs * data.steps(recipe.batch_size)
    schedule = one_cycle(optimizer, steps=steps)
    fit(model, batches, optimizer, scheduler=schedule, loss=_smoothed, replay=True)
    return model


def _smoothed(said: Float[Tensor, "batch classes"], batch: Batch) -> Float[Tensor, ""]:
    return nn.functional.cross_entropy(said, batch.targets, label_smoothing=0.2)


def _network(images: Float[Tensor, "some channels height width"]) -> nn.Module:
    first = _whitening(images)
    inside, blocks = 2 * first.weight[0].numel(), []
    for outside in WIDTHS:
        blocks += [_convolution(inside, outside), nn.MaxPool2d(2), *_rest(outside)]
        blocks += [_convolution(outside, outside), *_rest(outside)]
        inside = outside
    ends = (nn.MaxPool2d(3), nn.Flatten(), nn.Linear(inside, 10, bias=False), _Scale())
    return nn.Sequential(_Both(first), nn.GELU(), *blocks, *ends)


def _whitening(images: Float[Tensor, "some channels height width"]) -> nn.Conv2d:
    """Make a convolution whose outputs on 2 x 2 patches are uncorrelated; it is not trained."""
    channels = images.shape[1]
    patches = nn.functional.unfold(images, 2).permute(0, 2, 1).reshape(-1, 4 * channels)
    values, vectors = torch.linalg.eigh(torch.cov(patches.T))
    layer = nn.Conv2d(channels, 4 * channels, 2, bias=False)
    filters = (vectors / (values + 5e-4).sqrt()).T.reshape(-1, channels, 2, 2)
    layer.weight = nn.Parameter(filters, requires_grad=False)
    return layer


class _Both(nn.Module):
    """Passes on what a layer says, and its opposite."""

    replayable = True

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        said = self.layer(x)
        return torch.cat([said, -said], dim=1)


class _Scale(nn.Module):
    replayable = True

    def forward(self, x: Tensor) -> Tensor:
        return x / 9


def _convolution(inside: int, outside: int) -> nn.Conv2d:
    layer = nn.Conv2d(inside, outside, 3, padding=1, bias=False)
    nn.init.dirac_(layer.weight.data[: min(inside, outside)])
    return layer


def _rest(width: int) -> tuple[nn.Module, nn.Module]:
    return nn.BatchNorm2d(width, momentum=0.4), nn.GELU()


def _views(model: nn.Module, test: Feed) -> Float[Tensor, "samples classes"]:
    """Sum what the model says of the images and of their mirror images."""
    mirrored = nn.Sequential(_Mirror(), model)
    return logits(model, test) + logits(mirrored, test)


class _Mirror(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flip(3)


if __name__ == "__main__":
    main()
