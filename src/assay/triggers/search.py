"""Trigger inversion: what must be put on any image for a model to answer a given class?"""

import contextlib
import enum
from collections.abc import Callable, Iterator, Mapping

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from assay.errors import InputError
from assay.randomness import Seed, child, generator
from assay.records import record

from .families import Family, Parameters

Respond = Callable[[Float[Tensor, "batch channels height width"]], Float[Tensor, "batch classes"]]
"""A model: logits of images in [0, 1]; differentiable."""

ANY = -1
"""Stands for every class but the target, as the source of a candidate."""


@record
class Candidates:
    """What is searched for: one trigger each."""

    sources: Int64[Tensor, " candidates"]
    """Class of the images that it is put on, or `ANY`."""
    targets: Int64[Tensor, " candidates"]
    """Class that it is to lead to."""

    def __len__(self) -> int:
        """Count them."""
        return len(self.targets)

    def subset(self, rows: Tensor) -> "Candidates":
        """Choose some."""
        return Candidates(sources=self.sources[rows], targets=self.targets[rows])


@record
class Pool:
    """Clean images to search on, on the device, in [0, 1]."""

    images: Float[Tensor, "images channels height width"]
    labels: Int64[Tensor, " images"]

    def eligible(self, candidates: Candidates) -> Float[Tensor, "candidates images"]:
        """Mark with 1 which images a candidate may be put on, with 0 the others."""
        sources = candidates.sources.to(self.labels.device)[:, None]
        targets = candidates.targets.to(self.labels.device)[:, None]
        fits = torch.where(sources == ANY, self.labels != targets, self.labels == sources)
        return fits.float()


class Objective(enum.StrEnum):
    """What a search makes large, in the mean over images, and what it is measured by."""

    LIKELIHOOD = "likelihood"
    """The log-probability of the target: it attends to the images that are not yet led there."""
    MARGIN = "margin"
    """The target's logit over the highest other one: it has no ceiling."""
    ALIKE = "alike"
    """Searched as `LIKELIHOOD`, and measured by how alike the answers to different images become
    as they go to the target, not by margins."""


@record
class Search:
    """Lead images to the target by normalised gradient steps.

    Each step moves every candidate by a set length against the mean direction of its gradients
    (momentum 0.9), so that none needs a learning rate of its own, and shrinks to nothing at the
    end. Candidates do not touch each other: all of them run through the model in one batch.

    Noise is added to every triggered image. A trigger that was planted with some strength survives
    it; most of what leads an honest model astray does not, so that honest models differ less.

    Source:
        Normalised steps: Dong et al., "Boosting adversarial attacks with momentum", CVPR 2018.
        Universal over images: Moosavi-Dezfooli et al., "Universal adversarial perturbations",
        CVPR 2017.
    """

    steps: int = 40
    batch: int = 24
    """Images a candidate and step."""
    most_images: int = 768
    """Through the model at once; more candidates are searched in turns."""
    momentum: float = 0.9
    noise: float = 0.1
    """Standard deviation of the normal noise under which triggers are searched, and measured, in
    values of an image in [0, 1]."""
    objective: Objective = Objective.LIKELIHOOD

    def __call__(
        self,
        respond: Respond,
        pool: Pool,
        candidates: Candidates,
        family: Family,
        *,
        seed: Seed,
        reference: Respond | None = None,
        preserve: float = 1.0,
    ) -> Parameters:
        """Search all candidates.

        Args:
            respond: the suspected model.
            pool: images to search on.
            candidates: each with at least one image in the pool.
            family: what triggers look like.
            seed: decides starts and batches.
            reference: a model whose answers the trigger must not change, or None.
            preserve: weight of that term.

        Raises:
            InputError: a candidate has no image in the pool.
        """
        at_once = max(1, self.most_images // self.batch)
        with coarse_products(pool.images.device):
            parts = [
                self._search(respond, pool, some, family, child(seed, first), reference, preserve)
                for first, some in _turns(candidates, at_once)
            ]
        return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}

    def _search(  # noqa: PLR0917
        self,
        respond: Respond,
        pool: Pool,
        candidates: Candidates,
        family: Family,
        seed: Seed,
        reference: Respond | None,
        preserve: float,
    ) -> Parameters:
        device, shape = pool.images.device, pool.images.shape[1:]
        random = generator(child(seed, "batches"), device)
        eligible = pool.eligible(candidates)
        _check_sources(eligible)
        targets = candidates.targets.to(device)
        point = family.start(len(candidates), shape, seed=child(seed, "start"), device=device)
        moving: dict[str, Tensor] = {}
        for step in range(self.steps):
            rows = torch.multinomial(eligible, self.batch, replacement=True, generator=random)
            point = {name: value.detach().requires_grad_() for name, value in point.items()}
            stamped = disturbed(family.stamp(point, pool.images[rows]), self.noise, random)
            loss = self._loss(respond, stamped, targets)
            if reference is not None:
                undisturbed = family.stamp(point, pool.images[rows])
                loss = loss + preserve * self._kept(reference, pool.images[rows], undisturbed)
            left = 1 - step / self.steps
            gradients = _gradients(loss, point)
            point = family.project(self._moved(family, point, gradients, moving, left))
        return {name: value.detach() for name, value in point.items()}

    def _loss(
        self, respond: Respond, stamped: Tensor, targets: Int64[Tensor, " candidates"]
    ) -> Float[Tensor, ""]:
        batch = stamped.shape[1]
        said = self._answers(respond, stamped.flatten(0, 1))
        wanted = targets[:, None].expand(-1, batch).flatten()
        if self.objective is Objective.MARGIN:
            return -margin_of(said, wanted).sum() / batch
        return nn.functional.cross_entropy(said, wanted, reduction="sum") / batch

    def _answers(
        self, respond: Respond, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch classes"]:
        """Ask in parts, and again for gradients, where one candidate has too many images."""
        if len(images) <= max(self.most_images, 1):
            return respond(images).float()
        parts = images.split(self.most_images)
        return torch.cat([checkpoint(respond, p, use_reentrant=False) for p in parts]).float()

    def _kept(self, reference: Respond, plain: Tensor, stamped: Tensor) -> Float[Tensor, ""]:
        batch = plain.shape[1]
        with torch.no_grad():
            before = self._answers(reference, plain.flatten(0, 1)).softmax(1)
        after = self._answers(reference, stamped.flatten(0, 1))
        return nn.functional.cross_entropy(after, before, reduction="sum") / batch

    def _moved(
        self,
        family: Family,
        point: Parameters,
        gradients: Mapping[str, Tensor],
        moving: dict[str, Tensor],
        left: float,
    ) -> Parameters:
        moved = dict(point)
        with torch.no_grad():
            for name, gradient in gradients.items():
                before = moving.get(name, torch.zeros_like(gradient))
                moving[name] = self.momentum * before + _unit(gradient)
                length = left * family.stride(name, gradient[0].numel())
                ahead = moving[name].sign() if family.is_signed else moving[name]
                moved[name] = point[name] - length * _unit(ahead)
        return moved


@contextlib.contextmanager
def coarse_products(device: torch.device) -> Iterator[None]:
    """Let CUDA multiply float32 matrices with the 10 bits of TF32, as it convolves by default.

    Margins need no more, and a search through a transformer is little else. (Its time was not
    measured yet: `benchmarks/prompts_cost.py --device cuda`.) On other devices nothing changes.
    """
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


def disturbed(
    images: Float[Tensor, "candidates batch channels height width"],
    noise: float,
    random: torch.Generator,
) -> Float[Tensor, "candidates batch channels height width"]:
    """Add normal noise, the same to all candidates, so that they differ in nothing else."""
    if not noise:
        return images
    added = torch.randn(images.shape[1:], generator=random, device=images.device)
    return (images + noise * added).clamp(0, 1)


def margins(
    respond: Respond,
    pool: Pool,
    candidates: Candidates,
    family: Family,
    parameters: Parameters,
    *,
    noise: float,
    seed: Seed,
    objective: Objective = Objective.LIKELIHOOD,
    most: int = 256,
    at_once: int = 256,
) -> tuple[Float[Tensor, " candidates"], Float[Tensor, " candidates"]]:
    """Measure candidates under noise, on at most so many images each, `at_once` in a pass.

    Returns:
        The mean margin of the target's logit over the highest other one, or, where the objective
        is to make answers alike, `alike` times the attack success rate; and that rate, the share
        of images on which the target's logit is the highest.

    Raises:
        InputError: a candidate has no image in the pool, or too few for `alike`.
    """

    def ask(images: Tensor) -> Tensor:
        return torch.cat([respond(some) for some in images.split(at_once)]).float()

    found = []
    eligible = pool.eligible(candidates)
    _check_sources(eligible)
    random = generator(child(seed, "noise"), pool.images.device)
    is_alike = objective is Objective.ALIKE
    with torch.no_grad(), coarse_products(pool.images.device):
        plain = ask(disturbed(pool.images[None, :most], noise, random)[0]) if is_alike else None
        for row, (target, fits) in enumerate(
            zip(candidates.targets.tolist(), eligible, strict=True)
        ):
            images = pool.images[fits.nonzero().squeeze(1)[:most]]
            own = {name: value[row : row + 1] for name, value in parameters.items()}
            stamped = disturbed(family.stamp(own, images[None]), noise, random)[0]
            said = ask(stamped)
            margin = margin_of(said, target)
            asr = (margin > 0).float().mean()
            # where a search for one target ends in another, answers are alike and it failed
            found.append((margin.mean() if plain is None else asr * alike(said, plain), asr))
    return torch.stack([f[0] for f in found]).cpu(), torch.stack([f[1] for f in found]).cpu()


def alike(
    said: Float[Tensor, "batch classes"], plain: Float[Tensor, "others classes"]
) -> Float[Tensor, ""]:
    """How much less answers differ between images than plain ones do, those without a trigger.

    The natural logarithm of the ratio of their total variances, and 0 where they differ more: a
    trigger that some images obey and others do not makes answers differ.

    Raises:
        InputError: answers to fewer than two images, which cannot differ.
    """
    if min(len(said), len(plain)) < 2:
        raise InputError(
            f"expected answers to at least two images, got {len(said)} with a trigger and "
            f"{len(plain)} without; add clean images"
        )
    before, after = (answers.float().var(0).sum() for answers in (plain, said))
    return (before.clamp(min=1e-12) / after.clamp(min=1e-12)).log().clamp(min=0)


def margin_of(
    said: Float[Tensor, "batch classes"], target: int | Int64[Tensor, " batch"]
) -> Float[Tensor, " batch"]:
    """How far the target's logit lies above the highest other one; one target, or one a row."""
    wanted = torch.as_tensor(target, device=said.device).expand(len(said))[:, None]
    said = said.float()
    return said.gather(1, wanted)[:, 0] - said.scatter(1, wanted, -torch.inf).amax(1)


def _check_sources(eligible: Float[Tensor, "candidates images"]) -> None:
    if not eligible.any(dim=1).all():
        raise InputError("expected images of every source class, some have none")


def _turns(candidates: Candidates, at_once: int) -> list[tuple[int, Candidates]]:
    rows = torch.arange(len(candidates)).split(at_once)
    return [(int(some[0]), candidates.subset(some)) for some in rows]


def _gradients(loss: Tensor, point: Parameters) -> Mapping[str, Tensor]:
    names = list(point)
    found = torch.autograd.grad(loss, [point[name] for name in names], allow_unused=True)
    return {n: g for n, g in zip(names, found, strict=True) if g is not None}


def _unit(values: Tensor) -> Tensor:
    size = values.flatten(1).norm(dim=1).clamp(min=1e-12)
    return values / size.view(-1, *[1] * (values.ndim - 1))
