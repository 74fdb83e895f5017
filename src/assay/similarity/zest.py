"""Zest: models compared by what their answers hang on."""

import torch
from jaxtyping import Bool, Float, Float64, Int64
from torch import Tensor, nn

from assay.errors import InputError
from assay.fitting import logits_of
from assay.randomness import Seed, child, generator
from assay.records import record

_ROUNDS = 8  # of k-means
_COLOURS = 1.0  # weight of a standard deviation of colour beside one of place


@record
class Zest:
    """Describe a model by linear fits of its logits to which parts of an input are there.

    Source:
        Jia, Chen, Papernot, "A Zest of LIME: towards architecture-independent model distances",
        ICLR 2022, with the linear fits of Ribeiro, Singh, Guestrin, "Why should I trust you?", KDD
        2016. Their code: 128 images, quickshift segments, 1,000 masks an image, one least squares
        an image, all coefficients in one vector.
    Differs from the source:
        Segments are k-means clusters of place and colour, as many in every image, so that one
        pseudo-inverse solves all images, classes and models at once; the fits are not weighted by
        how much of an image is left. Fewer images and masks. Rows and token sequences are cut into
        runs of neighbours. A hidden part shows its own mean; hidden tokens are token 0.
    """

    images: int = 16
    """How many inputs are described, at most."""
    side: int = 5
    """Segments along a side of an image; their square is the number of segments."""
    masks: int = 100
    """Random choices of parts, more than there are segments; each part is there half the time."""

    def signature(
        self, model: nn.Module, probes: Tensor, *, seed: Seed
    ) -> Float64[Tensor, " coefficients"]:
        """Describe one model; compare with `zest_distances`. What is not finite stays so.

        Args:
            model: in evaluation mode; on the device of the probes.
            probes: as the model takes them: images, rows, or sequences of tokens.
            seed: of the masks; the same for all models that are compared.

        Raises:
            InputError: the probes are of no known kind, or there are too few masks.
        """
        shown = probes[: self.images]
        parts = self._segments(shown)
        count = int(parts.max()) + 1
        if self.masks <= count:
            raise InputError(f"expected more masks than {count} segments, got {self.masks}")
        random = generator(child(seed, "zest"), torch.device("cpu"))
        masks = torch.rand(self.masks, count, generator=random) < 0.5
        design = torch.cat([masks.double(), torch.ones(self.masks, 1).double()], dim=1)
        solve = torch.linalg.pinv(design)[:-1]
        fits = [
            solve @ _answers(model, _hidden(one, part, masks))
            for one, part in zip(shown, parts, strict=True)
        ]
        return torch.stack(fits).flatten()

    def _segments(self, probes: Tensor) -> Int64[Tensor, "images places"]:
        """Give every place of an input (pixel, column, token) the number of its part."""
        if probes.ndim == 4:
            return torch.stack([_clusters(image, self.side) for image in probes.float().cpu()])
        if probes.ndim != 2:
            raise InputError(
                f"expected images, rows or sequences as probes, got shape {tuple(probes.shape)}"
            )
        places = probes.shape[1]
        count = min(self.side**2, places)
        return (torch.arange(places) * count // places).expand(len(probes), -1)


def zest_distances(
    signatures: Float64[Tensor, "models coefficients"],
) -> Float64[Tensor, "models models"]:
    """Distance of signatures relative to their length, for every pair.

    Returns:
        Symmetric, zero on the diagonal, in [0, 2].
    """
    sizes = signatures.square().sum(1)
    scale = ((sizes[:, None] + sizes) / 2).clamp(min=1e-300)
    apart = torch.stack([(signatures - one).square().sum(1) for one in signatures])
    return (apart / scale).sqrt()


def _answers(model: nn.Module, batch: Tensor) -> Float64[Tensor, "masks outputs"]:
    """Logits; of a sequence, those after its last token."""
    with torch.inference_mode():
        said = logits_of(model(batch)).double().cpu()
    return said if said.ndim == 2 else said[:, -1]


def _hidden(
    one: Tensor, parts: Int64[Tensor, " places"], masks: Bool[Tensor, "masks segments"]
) -> Tensor:
    """Copies of an input, each with some parts hidden."""
    parts, masks = parts.to(one.device), masks.to(one.device)
    shown = masks[:, parts]
    if not one.is_floating_point():
        return torch.where(shown, one, torch.zeros_like(one))
    flat = one.flatten(1) if one.ndim == 3 else one[None]
    means = torch.stack([flat[:, parts == p].mean(1) for p in range(masks.shape[1])], dim=1)
    filled = torch.where(shown[:, None], flat, means[:, parts])
    return filled.reshape(len(masks), *one.shape)


def _clusters(image: Float[Tensor, "channels height width"], side: int) -> Int64[Tensor, " places"]:
    """Cut an image by k-means of place and colour, started on a grid."""
    height, width = image.shape[1:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    start = (rows * side // height * side + columns * side // width).flatten()
    place = torch.stack([rows / height, columns / width]).flatten(1).T * side
    colour = image.flatten(1).T
    points = torch.cat(
        [place, _COLOURS * (colour - colour.mean(0)) / colour.std().clamp(min=1e-6)], 1
    )
    parts, count = start, int(start.max()) + 1
    for _ in range(_ROUNDS):
        sums = torch.zeros(count, points.shape[1]).index_add_(0, parts, points)
        sizes = torch.bincount(parts, minlength=count)
        centres = sums / sizes.clamp(min=1)[:, None]
        gaps = torch.cdist(points, centres)
        gaps[:, sizes == 0] = torch.inf
        nearest = gaps.argmin(1)
        kept = torch.bincount(nearest, minlength=count) > 0
        parts = torch.where(kept[parts], nearest, parts)
    return parts.unique(return_inverse=True)[1]
