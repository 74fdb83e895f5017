"""The networks that the audits train when the user names none."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .errors import InputError
from .randomness import Seed, isolated
from .samples import Samples


class Residual(nn.Module):
    """Two 3x3 convolutions beside a shortcut (He et al. 2016, basic block)."""

    replayable = True
    """Does the same with every batch; see `assay.fitting.step`."""

    def __init__(self, inside: int, outside: int, stride: int) -> None:
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(inside, outside, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outside),
            nn.ReLU(inplace=True),
            nn.Conv2d(outside, outside, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outside),
        )
        same = inside == outside and stride == 1
        self.shortcut = nn.Identity() if same else _projection(inside, outside, stride)

    def forward(
        self, x: Float[Tensor, "batch inside height width"]
    ) -> Float[Tensor, "batch outside half_height half_width"]:
        """Add the block's change to its input."""
        return torch.relu(self.main(x) + self.shortcut(x))


def _projection(inside: int, outside: int, stride: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(inside, outside, 1, stride, bias=False), nn.BatchNorm2d(outside))


def resnet(
    *, classes: int, channels: int = 3, width: int = 16, blocks: tuple[int, ...] = (1, 1, 1)
) -> nn.Module:
    """Build a residual network for small images; `width` doubles with every stage.

    `width=64, blocks=(2, 2, 2, 2)` is the ResNet-18 for 32 x 32 images of the published
    recipes; the default costs 1/50 of it.

    Source:
        He et al., "Deep residual learning for image recognition", CVPR 2016, with the 3x3 stem
        without pooling that is usual for CIFAR-10.
    """
    stages: list[nn.Module] = []
    inside = width
    for stage, count in enumerate(blocks):
        outside = width * 2**stage
        for block in range(count):
            stages.append(Residual(inside, outside, 2 if stage > 0 and block == 0 else 1))
            inside = outside
    return nn.Sequential(
        nn.Conv2d(channels, width, 3, 1, 1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
        *stages,
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(inside, classes),
    )


def mlp(*, classes: int, dims: int, width: int = 256) -> nn.Module:
    """Build a perceptron with two hidden layers, for tables and features."""
    return nn.Sequential(
        nn.Linear(dims, width),
        nn.BatchNorm1d(width),
        nn.ReLU(inplace=True),
        nn.Linear(width, width),
        nn.BatchNorm1d(width),
        nn.ReLU(inplace=True),
        nn.Linear(width, classes),
    )


def fresh_network(data: Samples, network: Callable[[], nn.Module] | None, seed: Seed) -> nn.Module:
    """Build an untrained classifier of the data on the CPU: the user's, or else the default."""
    if network is None:
        return default_network(data.inputs.shape, classes=data.classes, seed=seed)
    with isolated(seed, torch.device("cpu")):
        return network()


def default_network(shape: torch.Size, *, classes: int, seed: Seed) -> nn.Module:
    """Build the small network that fits inputs of `shape` (samples first), on the CPU.

    Raises:
        InputError: the inputs are neither images nor rows.
    """
    with isolated(seed, torch.device("cpu")):
        if len(shape) == 4:
            return resnet(classes=classes, channels=shape[1])
        if len(shape) == 2:
            return mlp(classes=classes, dims=shape[1])
    raise InputError(f"expected (samples, channels, height, width) or (samples, dims), got {shape}")
