import pytest
import torch
from torch import nn

from assay.features import extract
from assay.fitting import Precision, Preprocess, feed
from assay.networks import mlp, resnet
from assay.randomness import Seed, isolated

CPU = torch.device("cpu")
PLAIN = Preprocess(mean=(0.0,) * 3, std=(1.0,) * 3)


def maps(model: nn.Module, inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
    plain = Preprocess(mean=(0.0,) * inputs.shape[1], std=(1.0,) * inputs.shape[1])
    data = feed(inputs, torch.zeros(len(inputs)).long(), preprocess=plain, device=CPU)
    return extract(model, data, precision=Precision.FP32, maps=True).maps


def images(count: int) -> torch.Tensor:
    random = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 3, 32, 32), generator=random, dtype=torch.uint8)


def test_the_last_map_of_each_resolution_is_kept_in_four_by_four_cells() -> None:
    with isolated(Seed(0), CPU):
        model = resnet(classes=5)
    inputs = images(300)  # of more than one batch
    found = maps(model, inputs)
    assert [each.shape for each in found] == [(300, 16 * width) for width in (16, 32, 64)]
    with torch.no_grad():
        first = model[:4](PLAIN(inputs[:7].permute(0, 2, 3, 1)))
        expected = nn.functional.adaptive_avg_pool2d(first, 4).flatten(1)
    assert torch.allclose(found[0][:7], expected, atol=1e-4)


def test_windows_and_tokens_first_are_left_out() -> None:
    class Windows(nn.Module):
        """Cuts images into quarters, as models with windows do, and puts them together."""

        def __init__(self) -> None:
            super().__init__()
            self.inside, self.whole = nn.Identity(), nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.inside(x.unfold(2, 16, 16).unfold(3, 16, 16).flatten(0, 1))
            self.inside(x.flatten(2).permute(2, 0, 1))
            return self.whole(x).mean((2, 3))

    assert [each.shape for each in maps(Windows(), images(30))] == [(30, 3 * 16)]


def test_they_say_where_a_patch_lies() -> None:
    with isolated(Seed(0), CPU):
        model = resnet(classes=5)
    plain, stamped = images(1), images(1)
    stamped[:, :, -4:, -4:] = 255
    differ = (maps(model, plain)[0] - maps(model, stamped)[0]).view(16, 16).abs().amax(0)
    assert differ[15] > 0
    assert differ[[0, 1, 2, 4, 5, 8]].max() < 1e-5


def test_many_channels_are_mixed_always_alike() -> None:
    with isolated(Seed(0), CPU):
        model = nn.Sequential(
            nn.Conv2d(3, 100, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
    (found,) = maps(model, images(5))
    assert found.shape == (5, 64 * 16)
    assert torch.equal(found, maps(model, images(5))[0])


def test_tokens_count_as_a_map() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.patches = nn.Conv2d(3, 24, 4, 4)
            self.norm = nn.LayerNorm(24)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.norm(self.patches(x).flatten(2).mT).mean(1)

    with isolated(Seed(0), CPU):
        model = Tokens()
    patches, tokens = maps(model, images(5))
    assert patches.shape == tokens.shape == (5, 16 * 24)


def test_a_network_for_rows_has_none() -> None:
    with isolated(Seed(0), CPU):
        model = mlp(classes=3, dims=8)
    assert maps(model, torch.randn(20, 8)) == ()


class Channels(nn.Module):
    """A convolution whose channels are put last, as ConvNeXt does for normalisation."""

    def __init__(self, channels: int, size: int = 4) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, channels, size, size)
        self.last = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.stem(x).permute(0, 2, 3, 1)).mean((1, 2))


def pooled(stem: nn.Module, inputs: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found = stem(inputs / 255)
    return nn.functional.adaptive_avg_pool2d(found, 4).flatten(1)


def test_channels_that_lie_last_are_no_places() -> None:
    with isolated(Seed(0), CPU):
        model = Channels(12)
    (found,) = maps(model, images(5))
    assert torch.allclose(found, pooled(model.stem, images(5)), atol=1e-6)


@pytest.mark.parametrize(
    ("channels", "height", "width"), [(8, 32, 32), (8, 32, 24), (6, 32, 24), (6, 24, 32)]
)
def test_channels_that_lie_first_stay_there(channels: int, height: int, width: int) -> None:
    with isolated(Seed(0), CPU):
        model = nn.Sequential(nn.Conv2d(3, channels, 4, 4), nn.Flatten())
    shown = images(5)[:, :, :height, :width]
    (found,) = maps(model, shown)
    assert torch.allclose(found, pooled(model[0], shown), atol=1e-6)


def test_what_depends_on_no_sample_is_no_map() -> None:
    class Biased(nn.Module):
        """Has a table as large as its map and a larger one, as models with windows do."""

        def __init__(self) -> None:
            super().__init__()
            self.stem, self.table = nn.Conv2d(3, 6, 16, 16), nn.Identity()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            said = self.stem(x)
            for side in (2, 3):
                self.table(torch.zeros(1, 6, side, side))
            return said.mean((2, 3))

    with isolated(Seed(0), CPU):
        model = Biased()
    inputs = images(513)  # one is left over
    (found,) = maps(model, inputs)
    assert torch.allclose(found, pooled(model.stem, inputs), atol=1e-6)
