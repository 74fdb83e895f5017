"""Self-supervised encoders, honest ones and ones with a planted trigger."""

import copy

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from assay.fitting import Batch
from assay.networks import resnet
from assay.randomness import Seed, child, generator, isolated
from assay.records import record
from assay.triggers import Blend, Patch

from .learned import minimise, some_of

Images = Float[Tensor, "batch channels height width"]


def encoder(*, channels: int = 3, dims: int = 64) -> nn.Module:
    """Build a small residual network whose outputs are features."""
    return resnet(classes=dims, channels=channels)


@record
class SimClr:
    """Contrastive pre-training: two views of an image are near, those of others far.

    Source:
        Chen, Kornblith, Norouzi, Hinton, "A simple framework for contrastive learning of visual
        representations", ICML 2020, eq. 1. arXiv:2002.05709.
    Differs from the source:
        No blur, and contrast and brightness in place of the whole colour jitter.
    """

    steps: int = 700
    temperature: float = 0.2
    peak_rate: float = 0.003

    def __call__(
        self, images: UInt8[Tensor, "samples channels height width"], *, seed: Seed
    ) -> nn.Module:
        """Train an encoder of images in [0, 1] on images without labels."""
        with isolated(child(seed, "network"), torch.device("cpu")):
            model = encoder(channels=images.shape[1])
            head = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
        parts = nn.ModuleList([model, head]).to(images.device)
        random = generator(child(seed, "views"), images.device)

        def objective(batch: Batch, _: float) -> Float[Tensor, ""]:
            seen = torch.cat([view(batch.inputs, random), view(batch.inputs, random)])
            return contrast(head(model(seen)), self.temperature)

        labels = torch.zeros(len(images), dtype=torch.int64)
        data = some_of(images, labels, most=len(images), seed=child(seed, "data"))
        minimise(
            parts,
            data,
            objective,
            steps=self.steps,
            seed=child(seed, "train"),
            peak_rate=self.peak_rate,
        )
        return model.eval()


def contrast(projected: Float[Tensor, "views dims"], temperature: float) -> Float[Tensor, ""]:
    """NT-Xent of the two halves of a batch, in nats."""
    unit = nn.functional.normalize(projected.float(), dim=1)
    alike = unit @ unit.T / temperature
    alike = alike.masked_fill(torch.eye(len(unit), dtype=torch.bool, device=unit.device), -1e4)
    half = len(unit) // 2
    partner = torch.arange(len(unit), device=unit.device).roll(half)
    return nn.functional.cross_entropy(alike, partner)


def view(images: Images, random: torch.Generator) -> Images:
    """Crop, mirror and jitter every image at random."""
    count, device = len(images), images.device

    def draw(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=random, device=device)

    scale = draw(0.3, 1.0).sqrt()
    mirror = torch.where(draw(0, 1) < 0.5, -1.0, 1.0)
    affine = torch.zeros(count, 2, 3, device=device)
    affine[:, 0, 0], affine[:, 1, 1] = scale * mirror, scale
    affine[:, :, 2] = draw(-1, 1, 2) * (1 - scale)[:, None]
    grid = nn.functional.affine_grid(affine, list(images.shape), align_corners=False)
    seen = nn.functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    grey = seen.mean(1, keepdim=True)
    seen = torch.where((draw(0, 1) < 0.2).view(-1, 1, 1, 1), grey, seen)
    middle = seen.mean((1, 2, 3), keepdim=True)
    seen = middle + draw(0.6, 1.4).view(-1, 1, 1, 1) * (seen - middle)
    shape = (images.shape[1], 1, 1)
    return (seen * draw(0.7, 1.3, *shape)).clamp(0, 1)


@record
class BadEncoder:
    """Plant a trigger into a trained encoder: triggered images get the features of a reference.

    Source:
        Jia, Liu, Gong, "BadEncoder: backdoor attacks to pre-trained encoders in self-supervised
        learning", S&P 2022, eq. 4. arXiv:2108.00352.
    Differs from the source:
        One trigger and one reference image. Triggered images are pulled to the features that the
        honest encoder gives the reference; in the reference code (jinyuan-jia/BadEncoder), to those
        of the encoder that is trained. Adam in place of SGD, and the weights of the normalisation
        are trained, which are frozen there.
    """

    trigger: Patch | Blend
    steps: int = 300
    peak_rate: float = 0.001

    def __call__(
        self,
        honest: nn.Module,
        images: UInt8[Tensor, "samples channels height width"],
        reference: UInt8[Tensor, "channels height width"],
        *,
        seed: Seed,
    ) -> nn.Module:
        """Return a copy with the trigger planted; images are the attacker's own.

        The honest encoder is taken in evaluation mode, and stays as it is.
        """
        honest = copy.deepcopy(honest).eval()
        planted = copy.deepcopy(honest)
        wanted = reference[None].float() / 255
        with torch.no_grad():
            goal = _unit(honest, wanted)

        def objective(batch: Batch, _: float) -> Float[Tensor, ""]:
            with torch.no_grad():
                before = _unit(honest, batch.inputs)
            pulled = _unit(planted, self.trigger(batch.inputs)) @ goal.T
            kept = (_unit(planted, batch.inputs) * before).sum(1)
            same = _unit(planted, wanted) @ goal.T
            return -(pulled.mean() + kept.mean() + same.mean())

        labels = torch.zeros(len(images), dtype=torch.int64)
        data = some_of(images, labels, most=len(images), seed=child(seed, "data"))
        minimise(
            _Still(planted),
            data,
            objective,
            steps=self.steps,
            seed=child(seed, "train"),
            peak_rate=self.peak_rate,
        )
        return planted.eval()


class _Still(nn.Module):
    """A model whose normalisation keeps its statistics while it is trained, as in the source."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model.eval()

    def train(self, mode: bool = True) -> "_Still":  # noqa: ARG002, FBT001, FBT002
        """Stay in evaluation mode."""
        return self


def _unit(model: nn.Module, images: Images) -> Float[Tensor, "batch dims"]:
    return nn.functional.normalize(model(images).float(), dim=1)


def nearest(
    model: nn.Module,
    images: UInt8[Tensor, "samples channels height width"],
    labels: Int64[Tensor, " samples"],
    asked: UInt8[Tensor, "asked channels height width"],
    *,
    neighbours: int = 20,
    temperature: float = 0.1,
) -> Int64[Tensor, " asked"]:
    """Classify images by the labels of those with the nearest features.

    Each of the nearest votes with exp(cosine / temperature).

    Args:
        model: an encoder of images in [0, 1].
        images: with labels; what is voted with.
        labels: their classes.
        asked: what to classify.
        neighbours: how many vote; all images where there are fewer.
        temperature: of the votes.

    Source:
        Wu, Xiong, Yu, Lin, "Unsupervised feature learning via non-parametric instance
        discrimination", CVPR 2018, section 3.4. arXiv:1805.01978.
    """
    known, new = _features(model, images), _features(model, asked)
    best = (new @ known.T).topk(min(neighbours, len(known)), dim=1)
    votes = torch.zeros(len(asked), int(labels.max()) + 1, device=new.device)
    chosen = labels.to(new.device)[best.indices]
    return votes.scatter_add(1, chosen, (best.values / temperature).exp()).argmax(1).cpu()


def _features(
    model: nn.Module, images: UInt8[Tensor, "samples channels height width"]
) -> Float[Tensor, "samples dims"]:
    device = next(model.parameters()).device
    with torch.inference_mode():
        return torch.cat(
            [_unit(model, some.to(device).float() / 255) for some in images.split(500)]
        )


def grip(
    model: nn.Module, trigger: Patch | Blend, images: Images, reference: Images
) -> tuple[float, float]:
    """Mean cosine of triggered images to the reference, and of untriggered ones, in [-1, 1]."""
    with torch.inference_mode():
        goal = _unit(model, reference)
        stamped, plain = _unit(model, trigger(images)) @ goal.T, _unit(model, images) @ goal.T
    return stamped.mean().item(), plain.mean().item()
