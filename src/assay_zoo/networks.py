"""Reference architectures for small images, beside the residual network of `assay.networks`."""

from collections.abc import Callable

from torch import nn
from transformers import ViTConfig, ViTForImageClassification

from assay.networks import resnet


def vgg(*, classes: int, channels: int = 3, width: int = 24) -> nn.Module:
    """Build a plain convolutional network: three stages of two 3x3 convolutions and pooling.

    Source:
        Simonyan, Zisserman, "Very deep convolutional networks for large-scale image recognition",
        ICLR 2015, with batch normalisation and average pooling in place of the dense layers.
    """
    layers: list[nn.Module] = []
    inside = channels
    for stage in range(3):
        for _ in range(2):
            layers += _convolution(inside, width * 2**stage)
            inside = width * 2**stage
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers, *_head(inside, classes))


def mobilenet(*, classes: int, channels: int = 3, width: int = 32) -> nn.Module:
    """Build a network of depthwise separable convolutions.

    Source:
        Howard et al., "MobileNets", 2017, table 1, cut down to images of 32 x 32.
    """
    layers = _convolution(channels, width)
    inside = width
    for outside, stride in ((2 * width, 1), (2 * width, 2), (4 * width, 1), (4 * width, 2)):
        layers += _convolution(inside, inside, stride=stride, groups=inside)
        layers += _convolution(inside, outside, size=1)
        inside = outside
    return nn.Sequential(*layers, *_head(inside, classes))


def vit(*, classes: int, channels: int = 3, size: int = 32) -> nn.Module:
    """Build a small vision transformer, as `transformers` has it.

    Source:
        Dosovitskiy et al., "An image is worth 16x16 words", ICLR 2021.
    """
    config = ViTConfig(
        image_size=size,
        patch_size=max(1, size // 8),
        num_channels=channels,
        hidden_size=96,
        num_hidden_layers=4,
        num_attention_heads=4,
        intermediate_size=192,
    )
    config.num_labels = classes
    return ViTForImageClassification(config)


def wide_resnet(*, classes: int, channels: int = 3) -> nn.Module:
    """Build the residual network of `assay.networks` with half as many channels again."""
    return resnet(classes=classes, channels=channels, width=24)


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    "mobilenet": mobilenet,
    "vgg": vgg,
    "vit": vit,
    "wide-resnet": wide_resnet,
}
"""They take `classes`, `channels` and, where it matters, `size` by name."""


def _convolution(
    inside: int, outside: int, *, size: int = 3, stride: int = 1, groups: int = 1
) -> list[nn.Module]:
    return [
        nn.Conv2d(inside, outside, size, stride, size // 2, groups=groups, bias=False),
        nn.BatchNorm2d(outside),
        nn.ReLU(inplace=True),
    ]


def _head(inside: int, classes: int) -> list[nn.Module]:
    return [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inside, classes)]
