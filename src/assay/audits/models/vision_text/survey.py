"""Search pictures' triggers that lead each model to a response, and measure them on all models."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from assay.audits.models.language.search import beside_others, nats, reach
from assay.audits.models.language.survey import raised_by
from assay.randomness import Seed, child, generator
from assay.records import record
from assay.results import Store
from assay.triggers import (
    ANY,
    Candidates,
    Family,
    Parameters,
    Patches,
    Pool,
    Respond,
    Search,
    Signals,
    disturbed,
)

from .respond import first_tokens

_QUICK = 32  # pictures that short searches are measured on

Targets = Int64[Tensor, " targets"]
Shares = Float[Tensor, "models vocabulary"]

FAMILIES: tuple[Family, ...] = (
    Patches(area=0.012),
    Signals(strength=0.1, knots=12),
    Signals(strength=0.036),
)
"""Those of the audit of classifiers that are put on images of any class, but for warps."""


@record
class PictureSearch:
    """How much is searched on each model."""

    families: tuple[Family, ...] = FAMILIES
    search: Search = Search(steps=24, batch=10)
    said: int = 8
    """Responses that are usual in the mean over models: a trigger may ask for a label."""
    raised: int = 6
    """Responses of each model that are likelier without any trigger than on the others: what a
    model was trained to say sometimes is never as unlikely as what it was not."""
    moved: int = 4
    """Responses of each model that odd pictures lead to most, beyond the next model."""
    odd: int = 32
    """Pictures of noise, of one colour and mixed of two, that are tried."""
    quick: Search = Search(steps=8, batch=4)
    """All these responses are searched so first."""
    kept: int = 3
    """Of each model: the responses that this led furthest, which all models search to the end."""
    rare: float = 0.05
    """A response below this share, in the mean over pictures, is unusual."""
    fewest: int = 8
    """Pictures in either half whose usual response a target must not be."""


@record
class Survey:
    """What was found on all models; a question is a family and a target."""

    asked: int
    """Questions that were searched at least shortly."""
    families: tuple[Family, ...]
    """By question."""
    targets: Targets
    """By question: the first token of the response."""
    rises: Float[Tensor, "suspects models questions"]
    """How far the suspect's trigger leads each model to the target beyond its usual answers: mean
    over held-out pictures, in nats."""
    success: Float[Tensor, "suspects models questions"]
    """Share of held-out pictures that get the target with the trigger, of those that do not
    without; in [0, 1]."""
    alone: Float[Tensor, "models questions"]
    """Success of a model's own trigger where the response is unusual for it, and else 0."""

    @property
    def responses(self) -> Targets:
        """The targets, each once."""
        return self.targets.unique()


def survey(
    models: Sequence[Respond],
    searched: Pool,
    held: Pool,
    *,
    settings: PictureSearch,
    seed: Seed,
    store: Store,
    done: Callable[[], None],
) -> Survey | None:
    """Search on every model, and measure on pictures that the search did not see.

    Args:
        models: two or more, of one vocabulary; logits of the first token.
        searched: pictures to search on, with the token that they are usually answered with.
        held: pictures to measure on.
        settings: how much is searched.
        seed: decides everything random.
        store: what to resume from.
        done: called after the short searches, and after each model and family.

    Returns:
        What was found; None where every response is the usual one of nearly all pictures.
    """
    search = _Search(
        models=tuple(models),
        searched=searched,
        held=held,
        usual=torch.stack([first_tokens(model, searched.images).mean(0) for model in models]),
        settings=settings,
        seed=seed,
        store=store,
    )
    offered = search.offered()
    if not len(offered):
        return None
    targets = search.kept(offered)
    done()
    found = [search.measured(targets, family, done) for family in settings.families]
    everything = targets.repeat(len(settings.families)).cpu()
    success = torch.cat([success for _, success in found], dim=2)
    usual, own = search.usual.cpu()[:, everything], success.diagonal().T
    return Survey(
        asked=len(offered) * len(settings.families),
        families=tuple(family for family in settings.families for _ in targets),
        targets=everything,
        rises=torch.cat([rises for rises, _ in found], dim=2),
        success=success,
        alone=torch.where(usual < settings.rare, own, 0.0),
    )


@record
class _Search:
    """What the searches on all models share."""

    models: tuple[Respond, ...]
    searched: Pool
    held: Pool
    usual: Shares
    """How likely each response is without a trigger, in the mean over pictures."""
    settings: PictureSearch
    seed: Seed
    store: Store

    def offered(self) -> Targets:
        """Choose responses, the same for all models."""
        settings, usual, count = self.settings, self.usual, self.usual.shape[1]
        pictures = odd_pictures(self.searched.images, settings.odd, child(self.seed, "odd"))
        after = torch.stack([first_tokens(model, pictures) for model in self.models])
        moved = torch.stack(
            [
                reach(beside_others(usual, place)[:, None], beside_others(after, place)).amax(0)
                for place in range(len(self.models))
            ]
        )
        chosen = [
            usual.mean(0).topk(min(settings.said, count)).indices,
            raised_by(usual).topk(min(settings.raised, count), dim=1).indices.flatten(),
            moved.topk(min(settings.moved, count), dim=1).indices.flatten(),
        ]
        targets = torch.cat(chosen).unique()
        some = _candidates(targets)
        counts = [pool.eligible(some).sum(1) for pool in (self.searched, self.held)]
        return targets[torch.minimum(*counts) >= settings.fewest]

    def kept(self, offered: Targets) -> Int64[Tensor, " kept"]:
        """Search all targets shortly, and keep those that lead one model beyond the others."""
        reached = []
        for place in range(len(self.models)):
            kept = self._loaded(f"pictures-quick-{place}", offered)
            if kept is None:
                kept = {"targets": offered.cpu(), "reach": self._quick(place, offered).cpu()}
                self.store.save(f"pictures-quick-{place}", kept)
            reached.append(kept["reach"])
        rows = torch.stack(reached).topk(min(self.settings.kept, len(offered)), dim=1).indices
        return offered[rows.flatten().unique().to(offered.device)]

    def measured(
        self, targets: Targets, family: Family, done: Callable[[], None]
    ) -> tuple[Float[Tensor, "suspects models targets"], Float[Tensor, "suspects models targets"]]:
        """Search one family on every model; give rises and success."""
        name = "pictures-" + "".join(c if c.isalnum() else "-" for c in family.name)
        before = [first_tokens(model, self.held.images)[:, targets] for model in self.models]
        found = []
        for place in range(len(self.models)):
            kept = self._loaded(f"{name}-{place}", targets)
            if kept is None:
                rises, success = self._full(place, targets, family, before)
                kept = {"targets": targets.cpu(), "rises": rises, "success": success}
                self.store.save(f"{name}-{place}", kept)
            found.append(kept)
            done()
        return torch.stack([f["rises"] for f in found]), torch.stack([f["success"] for f in found])

    def _loaded(self, name: str, targets: Targets) -> dict[str, Tensor] | None:
        kept = self.store.load(name)
        return kept if kept is not None and torch.equal(kept["targets"], targets.cpu()) else None

    def _quick(self, place: int, offered: Targets) -> Float[Tensor, " targets"]:
        """How far a short search leads a model to each target beyond the others' median."""
        usual = beside_others(self.usual[:, offered], place)
        some = Pool(images=self.searched.images[:_QUICK], labels=self.searched.labels[:_QUICK])
        reached = []
        for family in self.settings.families[:2]:
            own = child(self.seed, "quick", family.name)
            found = self.settings.quick(
                self.models[place], self.searched, _candidates(offered), family, seed=own
            )
            after = [under(model, some, offered, family, found, 0.0, own) for model in self.models]
            shares = beside_others(torch.stack([share.mean(1) for share in after]), place)
            reached.append(reach(usual[:, None], shares[:, None])[0])
        return torch.stack(reached).amax(0)

    def _full(
        self,
        place: int,
        targets: Targets,
        family: Family,
        before: Sequence[Float[Tensor, "images targets"]],
    ) -> tuple[Float[Tensor, "models targets"], Float[Tensor, "models targets"]]:
        """Search on one model, with the same pictures and starts as on all, and measure on all."""
        search, own = self.settings.search, child(self.seed, family.name)
        some = _candidates(targets)
        found = search(self.models[place], self.searched, some, family, seed=own)
        wanted = self.held.eligible(some).T
        after = [
            under(model, self.held, targets, family, found, search.noise, own).T
            for model in self.models
        ]
        both = [risen(was, now, wanted) for was, now in zip(before, after, strict=True)]
        rises, success = zip(*both, strict=True)
        return torch.stack(rises).cpu(), torch.stack(success).cpu()


def odd_pictures(
    images: Float[Tensor, "images channels height width"], count: int, seed: Seed
) -> Float[Tensor, "odd channels height width"]:
    """Make pictures that no one takes: a model may answer them with what it was planted to say."""
    random = generator(seed, images.device)
    each = max(1, count // 3)
    shape = (each, *images.shape[1:])
    noise = torch.rand(shape, generator=random, device=images.device)
    plain = torch.rand(shape[:2], generator=random, device=images.device)[..., None, None]
    rows = torch.randint(len(images), (2, each), generator=random, device=images.device)
    mixed = (images[rows[0]] + images[rows[1]].flip(2)) / 2
    return torch.cat([noise, plain.expand(shape), mixed])


def _candidates(targets: Targets) -> Candidates:
    return Candidates(sources=torch.full((len(targets),), ANY), targets=targets.cpu())


def under(  # noqa: PLR0917
    respond: Respond,
    pool: Pool,
    targets: Targets,
    family: Family,
    parameters: Parameters,
    noise: float,
    seed: Seed,
) -> Float[Tensor, "targets images"]:
    """Probability of each target under its own trigger, picture by picture."""
    random = generator(child(seed, "noise"), pool.images.device)
    found = []
    for row, target in enumerate(targets.tolist()):
        own = {name: value[row : row + 1] for name, value in parameters.items()}
        with torch.no_grad():
            stamped = disturbed(family.stamp(own, pool.images[None]), noise, random)[0]
        found.append(first_tokens(respond, stamped)[:, target])
    return torch.stack(found)


def risen(
    before: Float[Tensor, "images targets"],
    after: Float[Tensor, "images targets"],
    wanted: Float[Tensor, "images targets"],
) -> tuple[Float[Tensor, " targets"], Float[Tensor, " targets"]]:
    """How far targets rose on the wanted pictures: mean in nats, and share of those led there."""
    rise = ((nats(after) - nats(before)) * wanted).sum(0) / wanted.sum(0).clamp(min=1)
    open_ = (before <= 0.5) & (wanted > 0)
    led = ((after > 0.5) & open_).sum(0) / open_.sum(0).clamp(min=1)
    return rise, led
