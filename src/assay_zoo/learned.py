"""What the attacks that train a network share."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from assay.fitting import Batch, Feed, Precision, Preprocess, feed, one_cycle
from assay.fitting.loop import autocast
from assay.randomness import Seed, child, generator
from assay_zoo.victims import Stamp, at_once

_BATCH_SIZE = 128

Objective = Callable[[Batch, float], Float[Tensor, ""]]
"""Is given a batch, and the share of the steps that is done, in [0, 1)."""


def some_of(
    inputs: UInt8[Tensor, "samples channels height width"],
    labels: Int64[Tensor, " samples"],
    *,
    most: int,
    seed: Seed,
) -> Feed:
    """Make a feed of at most `most` images, drawn at random, as floats in [0, 1]."""
    rows = torch.randperm(len(inputs), generator=generator(seed, torch.device("cpu")))[:most]
    channels = inputs.shape[1]
    return feed(
        inputs[rows.to(inputs.device)],
        labels.cpu()[rows],
        preprocess=Preprocess(mean=(0.0,) * channels, std=(1.0,) * channels),
        device=inputs.device,
    )


def minimise(
    parts: nn.Module,
    data: Feed,
    objective: Objective,
    *,
    steps: int,
    seed: Seed,
    peak_rate: float = 0.01,
) -> None:
    """Minimise an objective of whole batches over the weights of `parts`, with Adam.

    For networks that are no classifiers, whose objective no loss of logits and labels expresses.

    Raises:
        InputError: there are fewer than two images.
    """
    parts.train()
    optimizer = torch.optim.Adam(parts.parameters(), lr=peak_rate, betas=(0.5, 0.9))
    scheduler = one_cycle(optimizer, steps=steps)
    for step, batch in enumerate(itertools.islice(_endless(data, seed), steps)):
        optimizer.zero_grad(set_to_none=True)
        with autocast(data.device, Precision.AUTO):
            value = objective(batch, step / steps)
        value.backward()
        optimizer.step()
        scheduler.step()
    parts.eval()


def in_pieces(stamp: Stamp) -> Stamp:
    """Make a stamp that runs a network see few images at once, and keep no gradients."""

    @torch.no_grad()
    def stamped(images: Tensor) -> Tensor:
        if not len(images):
            return images
        return torch.cat([stamp(piece) for piece in images.split(at_once(images.shape[1:]))])

    return stamped


class UNet(nn.Module):
    """A small network from images to images, with shortcuts at every scale.

    Source:
        Ronneberger, Fischer, Brox, "U-Net", MICCAI 2015. arXiv:1505.04597; one convolution a
        level, and group normalisation, which is the same in training and at test.
    """

    def __init__(self, inside: int, outside: int, *, size: Sequence[int], width: int = 16) -> None:
        super().__init__()
        depth = max(0, min(3, int(math.log2(min(size))) - 1))
        widths = [width * 2**level for level in range(depth + 1)]
        pairs = list(itertools.pairwise(widths))
        self.first = _block(inside, width)
        self.down = nn.ModuleList(_block(fine, coarse) for fine, coarse in pairs)
        self.up = nn.ModuleList(_block(coarse + fine, fine) for fine, coarse in reversed(pairs))
        self.last = nn.Conv2d(width, outside, 1)

    def forward(
        self, images: Float[Tensor, "batch inside height width"]
    ) -> Float[Tensor, "batch outside height width"]:
        """Compute the output, without bounds."""
        levels = [self.first(images)]
        for block in self.down:
            levels.append(block(nn.functional.max_pool2d(levels[-1], 2)))
        x = levels.pop()
        for block in self.up:
            fine = levels.pop()
            grown = nn.functional.interpolate(x, size=fine.shape[2:], mode="bilinear")
            x = block(torch.cat([grown, fine], dim=1))
        return self.last(x)


def _block(inside: int, outside: int) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(inside, outside, 3, 1, 1, bias=False, padding_mode="replicate"),
        nn.GroupNorm(4, outside),
        nn.ReLU(),
    )


def _endless(data: Feed, seed: Seed) -> Iterator[Batch]:
    for epoch in itertools.count():
        yield from data.shuffled(_BATCH_SIZE, seed=child(seed, "epoch", epoch))
