"""Families of triggers that can be searched: many candidates at once, each within its budget."""

import math
from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assay.randomness import Seed, generator
from assay.records import record

from .additive import Additive
from .patch import Patch
from .warp import Warp

Parameters = Mapping[str, Tensor]
"""Tensors by name, with a row a candidate."""

Images = Float[Tensor, "candidates batch channels height width"]

Trigger = Additive | Patch | Warp


@runtime_checkable
class Family(Protocol):
    """A kind of trigger, with a budget that bounds how much it may change an image."""

    @property
    def name(self) -> str:
        """As reports call it."""
        ...

    def start(
        self, candidates: int, shape: torch.Size, *, seed: Seed, device: torch.device
    ) -> Parameters:
        """Make parameters to start from, for images of `shape` (channels, height, width)."""
        ...

    def stamp(self, parameters: Parameters, images: Images) -> Images:
        """Stamp each candidate on its own images, in [0, 1], differentiably."""
        ...

    def project(self, parameters: Parameters) -> Parameters:
        """Bring parameters back into the budget."""
        ...

    def stride(self, name: str, rows: int) -> float:
        """Length of the first step of a parameter with so many numbers; later ones shrink."""
        ...

    def trigger(self, parameters: Parameters, candidate: int, size: torch.Size) -> Trigger:
        """Read off one candidate's trigger, for images of `size` (height, width)."""
        ...

    @property
    def is_signed(self) -> bool:
        """Whether all numbers of a parameter move equally far in a step: where each is bounded."""
        ...


@record
class Bounded:
    """Noise that is added to the image, each value of it within a bound (l_inf).

    Source:
        Jindal et al., "CLIP-Inspector", CVPR 2026 Findings, arXiv:2604.09101: universal noise
        within 4/255.
    """

    bound: float = 4 / 255
    """Largest change of a value, in values of an image in [0, 1]."""

    @property
    def name(self) -> str:
        """As reports call it."""
        return f"noise, {255 * self.bound:g}/255"

    def start(
        self,
        candidates: int,
        shape: torch.Size,
        *,
        seed: Seed,  # noqa: ARG002
        device: torch.device,
    ) -> Parameters:
        """Start from no noise."""
        return {"noise": torch.zeros(candidates, *shape, device=device)}

    def stamp(self, parameters: Parameters, images: Images) -> Images:
        """Add and clip."""
        return (images + parameters["noise"][:, None]).clamp(0, 1)

    def project(self, parameters: Parameters) -> Parameters:
        """Clip every value to the bound."""
        return {"noise": parameters["noise"].clamp(-self.bound, self.bound)}

    def stride(self, name: str, rows: int) -> float:  # noqa: ARG002
        """Half of the bound, for every value."""
        return 0.5 * self.bound * math.sqrt(rows)

    def trigger(
        self,
        parameters: Parameters,
        candidate: int,
        size: torch.Size,  # noqa: ARG002
    ) -> Trigger:
        """Read off one candidate's noise."""
        return Additive(signal=parameters["noise"][candidate].cpu())

    @property
    def is_signed(self) -> bool:
        """Every value may be as large as the bound, so all move."""
        return True


@record
class Signals:
    """Signals that are added to the image, of a bounded root mean square.

    Blends, sinusoids, reflections and changed frequencies are close to such a signal.
    """

    strength: float
    """Largest root mean square of the signal, in values of an image in [0, 1]. Where there are
    knots, only theirs is bounded: between them the signal is smaller as a rule, and that of the
    whole image may be larger where it is small along the border."""
    knots: int | None = None
    """The signal is given on so many by so many points and interpolated; None for every pixel.
    Smooth signals leave less room to what fools any model."""

    @property
    def name(self) -> str:
        """As reports call it."""
        return f"{'additive' if self.knots is None else 'smooth additive'}, {self.strength:g}"

    def start(
        self,
        candidates: int,
        shape: torch.Size,
        *,
        seed: Seed,  # noqa: ARG002
        device: torch.device,
    ) -> Parameters:
        """Start from no signal."""
        side = shape[1:] if self.knots is None else (self.knots, self.knots)
        return {"signal": torch.zeros(candidates, shape[0], *side, device=device)}

    def stamp(self, parameters: Parameters, images: Images) -> Images:
        """Add and clip."""
        signal = self._spread(parameters["signal"], images.shape[-2:])
        return (images + signal[:, None]).clamp(0, 1)

    def project(self, parameters: Parameters) -> Parameters:
        """Scale down what is too strong."""
        return {"signal": shortened(parameters["signal"], self.strength)}

    def stride(self, name: str, rows: int) -> float:  # noqa: ARG002
        """Three tenths of the budget."""
        return 0.3 * self.strength * math.sqrt(rows)

    def trigger(self, parameters: Parameters, candidate: int, size: torch.Size) -> Trigger:
        """Read off one candidate's signal."""
        signal = self._spread(parameters["signal"][candidate : candidate + 1], size)
        return Additive(signal=signal[0].cpu())

    @property
    def is_signed(self) -> bool:
        """What is bounded is the whole."""
        return False

    def _spread(self, signal: Tensor, size: torch.Size) -> Tensor:
        if self.knots is None:
            return signal
        return nn.functional.interpolate(
            signal, size=tuple(size), mode="bilinear", align_corners=True
        )


@record
class Patches:
    """A mask of bounded area and the pattern that it shows."""

    area: float
    """Share of the image that the mask may cover, in (0, 1]; four pixels of any image."""

    @property
    def name(self) -> str:
        """As reports call it."""
        return f"patch, {self.area:.1%}"

    def start(
        self, candidates: int, shape: torch.Size, *, seed: Seed, device: torch.device
    ) -> Parameters:
        """Start from an even faint mask over grey noise."""
        random = generator(seed, device)
        noise = torch.rand(candidates, *shape, generator=random, device=device)
        pixels = shape[1] * shape[2]
        mask = torch.full((candidates, *shape[1:]), self._most(pixels) / pixels, device=device)
        return {"mask": mask, "pattern": 0.4 + 0.2 * noise}

    def stamp(self, parameters: Parameters, images: Images) -> Images:
        """Show the pattern where the mask is."""
        mask, pattern = parameters["mask"][:, None, None], parameters["pattern"][:, None]
        return (images + mask * (pattern - images)).clamp(0, 1)

    def project(self, parameters: Parameters) -> Parameters:
        """Lower every mask until its area is in the budget (the nearest mask that is)."""
        mask = parameters["mask"].clamp(0, 1)
        most = self._most(mask[0].numel())
        low, high = torch.zeros_like(mask[:, :1, :1]), torch.ones_like(mask[:, :1, :1])
        for _ in range(25):
            middle = (low + high) / 2
            large = (mask - middle).clamp(0, 1).sum((1, 2), keepdim=True) > most
            low, high = torch.where(large, middle, low), torch.where(large, high, middle)
        too_large = mask.sum((1, 2), keepdim=True) > most
        mask = torch.where(too_large, (mask - high).clamp(0, 1), mask)
        return {"mask": mask, "pattern": parameters["pattern"].clamp(0, 1)}

    def _most(self, pixels: int) -> float:
        return min(pixels, max(4.0, self.area * pixels))

    def stride(self, name: str, rows: int) -> float:
        """A fortieth of the image's diagonal for the mask, a twentieth for the pattern."""
        return (0.025 if name == "mask" else 0.054) * math.sqrt(rows)

    def trigger(
        self,
        parameters: Parameters,
        candidate: int,
        size: torch.Size,  # noqa: ARG002
    ) -> Trigger:
        """Read off one candidate's mask and pattern."""
        return Patch(
            pattern=parameters["pattern"][candidate].cpu(), mask=parameters["mask"][candidate].cpu()
        )

    @property
    def is_signed(self) -> bool:
        """What is bounded is the whole."""
        return False


@record
class Warps:
    """Smooth displacements of bounded root mean square."""

    strength: float
    """Largest root mean square of the displacements at the knots, over both coordinates, in half
    image sides. Only these are bounded: that of all pixels may be larger, and so are lengths, by up
    to the root of 2."""
    knots: int = 8
    """The displacement is given on so many by so many points and interpolated."""

    @property
    def name(self) -> str:
        """As reports call it."""
        return f"warp, {self.strength:g}"

    def start(
        self,
        candidates: int,
        shape: torch.Size,
        *,
        seed: Seed,  # noqa: ARG002
        device: torch.device,
    ) -> Parameters:
        """Start from no displacement."""
        height, width = shape[1:]
        return {
            "knots": torch.zeros(candidates, 2, self.knots, self.knots, device=device),
            "grid": _identity(height, width, device).expand(candidates, -1, -1, -1),
        }

    def stamp(self, parameters: Parameters, images: Images) -> Images:
        """Resample every pixel from its displaced place."""
        flow = _flow(parameters["knots"], images.shape[-2:])
        places = (parameters["grid"] + flow).clamp(-1, 1)
        batch = images.shape[1]
        bent = nn.functional.grid_sample(
            images.flatten(0, 1),
            places[:, None].expand(-1, batch, -1, -1, -1).flatten(0, 1),
            align_corners=True,
        )
        return bent.unflatten(0, (-1, batch))

    def project(self, parameters: Parameters) -> Parameters:
        """Scale down what is too strong."""
        return {**parameters, "knots": shortened(parameters["knots"], self.strength)}

    def stride(self, name: str, rows: int) -> float:
        """Three tenths of the budget; the grid stays."""
        return 0.3 * self.strength * math.sqrt(rows) if name == "knots" else 0.0

    def trigger(self, parameters: Parameters, candidate: int, size: torch.Size) -> Trigger:
        """Read off one candidate's flow."""
        return Warp(flow=_flow(parameters["knots"][candidate : candidate + 1], size).cpu())

    @property
    def is_signed(self) -> bool:
        """What is bounded is the whole."""
        return False


@record
class Canvases:
    """Whole images, not put on others: what a model takes for the target more than anything else.

    Source:
        Wang et al., "MM-BD: post-training detection of backdoor attacks with arbitrary backdoor
        pattern types using a maximum margin statistic", S&P 2024.
    """

    count: int = 4
    """Images a candidate, shown in turn; a search of them takes batches of as many."""

    @property
    def name(self) -> str:
        """As reports call it."""
        return "whole image"

    def start(
        self, candidates: int, shape: torch.Size, *, seed: Seed, device: torch.device
    ) -> Parameters:
        """Start from noise; all candidates from the same."""
        random = generator(seed, device)
        images = torch.rand(self.count, *shape, generator=random, device=device)
        return {"images": images.expand(candidates, *images.shape).clone()}

    def stamp(self, parameters: Parameters, images: Images) -> Images:
        """Show them in the place of the images."""
        turns = torch.arange(images.shape[1], device=images.device) % self.count
        return parameters["images"][:, turns]

    def project(self, parameters: Parameters) -> Parameters:
        """Clip."""
        return {"images": parameters["images"].clamp(0, 1)}

    def stride(self, name: str, rows: int) -> float:  # noqa: ARG002
        """A tenth of the range of values."""
        return 0.1 * math.sqrt(rows)

    def trigger(
        self,
        parameters: Parameters,
        candidate: int,
        size: torch.Size,
    ) -> Trigger:
        """Read off a candidate's first image, as a patch that covers everything."""
        image = parameters["images"][candidate, 0].cpu()
        return Patch(pattern=image, mask=torch.ones(tuple(size)))

    @property
    def is_signed(self) -> bool:
        """What is bounded is the whole."""
        return False


def shortened(values: Tensor, most: float) -> Tensor:
    """Scale each row down to a root mean square of at most `most`."""
    size = values.flatten(1).square().mean(1).sqrt().clamp(min=1e-12)
    return values * (most / size).clamp(max=1).view(-1, *[1] * (values.ndim - 1))


def _identity(height: int, width: int, device: torch.device) -> Tensor:
    eye = torch.eye(2, 3, device=device)[None]
    return nn.functional.affine_grid(eye, [1, 1, height, width], align_corners=True)


def _flow(knots: Tensor, size: torch.Size) -> Tensor:
    flow = nn.functional.interpolate(knots, size=tuple(size), mode="bicubic", align_corners=True)
    return flow.permute(0, 2, 3, 1)
