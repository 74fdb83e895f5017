"""Search every candidate trigger on every model, in kinds whose results can be compared."""

import dataclasses
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from assay.randomness import Seed, child, generator
from assay.records import record
from assay.results import Store
from assay.triggers import (
    ANY,
    Candidates,
    Canvases,
    Family,
    Objective,
    Patches,
    Pool,
    Search,
    Signals,
    Warps,
    margins,
)

from .respond import Examined


@record
class Kind:
    """Candidates of one family that are searched in the same way."""

    family: Family
    search: Search
    by_source: bool
    """Whether each candidate is for images of one class, or for those of all but the target."""
    between: float
    """Usual spread of the differences between two honest models, in their mean clean margins; how
    wide all kinds are together is learnt from the deliveries (`Decision`)."""
    within: float
    """Usual spread over the candidates of one honest model, in the same unit."""
    weight: float
    """Share of the error budget; those of all kinds add up to 1."""
    freedom: float = 10.0
    """Degrees of freedom of Student's t that excesses of honest models follow: their tail."""
    shown: bool = True
    """Whether its triggers are put on images, and so can show a reader that a backdoor works."""

    @property
    def name(self) -> str:
        """As tables call it."""
        return f"{self.family.name}{', one source class' if self.by_source else ''}"

    @property
    def key(self) -> str:
        """What stores call that which was found of it."""
        return "survey-" + "".join(c if c.isalnum() else "-" for c in self.name)

    @property
    def is_seen(self) -> bool:
        """Whether its triggers are put on images of all classes but the target."""
        return self.shown and not self.by_source

    @property
    def sort(self) -> str:
        """What its triggers look like, however strong and on whatever images: such as `patch`."""
        return self.family.name.partition(",")[0]


_FEWEST = 8  # images of a class in either half, for the class to be a source
_SHORT = Search(steps=25, batch=8)
_STILL = Search(noise=0.0)

KINDS = (
    Kind(
        family=Signals(strength=0.036),
        search=Search(),
        by_source=False,
        between=0.25,
        within=0.8,
        weight=0.05,
        freedom=4.0,
    ),
    Kind(
        family=Signals(strength=0.1, knots=12),
        search=Search(),
        by_source=False,
        between=0.25,
        within=0.5,
        weight=0.05,
        freedom=4.0,
    ),
    Kind(
        family=Patches(area=0.012),
        search=Search(),
        by_source=False,
        between=0.26,
        within=0.8,
        weight=0.2,
        freedom=8.0,
    ),
    Kind(
        family=Warps(strength=0.06),
        search=_STILL,
        by_source=False,
        between=0.15,
        within=0.35,
        weight=0.3,
        freedom=10.0,
    ),
    Kind(
        family=Canvases(),
        search=Search(steps=100, batch=4, noise=0.0, objective=Objective.MARGIN),
        by_source=False,
        between=3.3,
        within=4.0,
        weight=0.3,
        freedom=8.0,
        shown=False,
    ),
    Kind(
        family=Signals(strength=0.018),
        search=_SHORT,
        by_source=True,
        between=0.25,
        within=0.6,
        weight=0.05,
        freedom=8.0,
    ),
    Kind(
        family=Patches(area=0.012),
        search=_SHORT,
        by_source=True,
        between=0.36,
        within=0.7,
        weight=0.05,
        freedom=10.0,
    ),
)
"""Chosen on models of CIFAR-10 and Fashion-MNIST (12,000 images each; up to 15 attacks, 4 honest
models; seed 0): `between` lies in the middle, on a logarithmic scale, of the spreads that the 12
ordered honest pairs of either show. `freedom` follows the tails of 32 ordered pairs of other honest
models of both, trained anew: signals led one model far to a single class, where warps never did. So
signals count most where kinds are taken together (`Decision.together`), and have little weight by
themselves. Kinds that did not add a detection there were left out: signals
of 0.055 and 0.018 for all classes, patches of 3 % and 5 %, warps of 0.12, sums of few sinusoids,
twice the noise, shifts within the network's layers."""


@record
class Survey:
    """What the search of one kind found, on all models."""

    kind: Kind
    asked: int
    """Candidates that were searched at least shortly."""
    candidates: Candidates
    """Those that were searched to the end."""
    margins: Float[Tensor, "models candidates"]
    """Mean margin of the target on triggered held-out samples, in the model's mean clean margin; or
    how alike its answers are, where that is the objective of the search."""
    asr: Float[Tensor, "models candidates"]
    typical: Bool[Tensor, " candidates"]
    """Candidates that show the noise: all, or those drawn at random where some were eliminated."""


@record
class Elimination:
    """A short search of all candidates, which decides which are searched to the end.

    On the 43 classes of GTSRB, six steps on four images put the target of BadNets among the first
    four of every kind; four steps on three images put it ninth for patches. Those of Blend and SIG
    are among the first two for signals. Candidates for one source class are not eliminated: they
    are drawn (`candidates`).
    """

    most: int = 24
    """Up to so many candidates are all searched to the end."""
    share: float = 0.15
    """Of the kind's steps."""
    batch: int = 4
    most_images: int = 32
    """That a candidate is measured on."""
    kept: int = 8
    """Of each model: the candidates with the largest margins beyond the other models', and half as
    many with the largest margins of all, which a backdoor that the models share would have."""
    controls: int = 12
    """Drawn at random from all: they show the noise that the kept ones are compared with."""

    def short(self, search: Search) -> Search:
        """Shorten the search of a kind."""
        steps = max(1, round(self.share * search.steps))
        return dataclasses.replace(search, steps=steps, batch=min(self.batch, search.batch))


def survey(
    kind: Kind,
    models: Sequence[Examined],
    searched: Pool,
    held: Pool,
    classes: int,
    *,
    elimination: Elimination,
    seed: Seed,
    store: Store,
    done: Callable[[], None],
) -> Survey | None:
    """Search one kind on all models.

    Returns:
        What was found; None where there is no candidate.

    Args:
        kind: what to search.
        models: the deliveries.
        searched: clean samples to search on.
        held: clean samples to measure on.
        classes: of the task.
        elimination: what to do with many candidates.
        seed: decides batches, starts, sources and controls.
        store: what to resume from.
        done: called after each model.
    """
    everything = candidates(kind, searched, held, classes, seed=child(seed, "candidates"))
    if not len(everything):
        return None
    chosen, typical = everything, torch.ones(len(everything), dtype=torch.bool)
    if len(everything) > elimination.most and not kind.by_source:
        quick = _measured(
            kind, elimination.short(kind.search), models, searched, held, everything, seed, store,
            f"{kind.key}-quick", lambda: None, elimination.most_images,
        )  # fmt: skip
        rows, typical = _kept(quick[0], elimination, child(seed, "controls"))
        chosen = everything.subset(rows)
    found = _measured(
        kind, kind.search, models, searched, held, chosen, seed, store, kind.key, done
    )
    return Survey(
        kind=kind,
        asked=len(everything),
        candidates=chosen,
        margins=found[0],
        asr=found[1],
        typical=typical,
    )


def candidates(
    kind: Kind, searched: Pool, held: Pool, classes: int, *, seed: Seed, most_pairs: int = 90
) -> Candidates:
    """List targets, or pairs of source and target: at most so many, drawn at random."""
    if not kind.by_source:
        targets = torch.arange(classes)
        return Candidates(sources=torch.full((classes,), ANY), targets=targets)
    counts = [pool.labels.bincount(minlength=classes).cpu() for pool in (searched, held)]
    there = (torch.minimum(*counts) >= _FEWEST).nonzero().squeeze(1)
    pairs = torch.cartesian_prod(there, torch.arange(classes))
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    order = torch.randperm(len(pairs), generator=generator(seed, torch.device("cpu")))
    some = pairs[order[:most_pairs].sort().values]
    return Candidates(sources=some[:, 0], targets=some[:, 1])


def _measured(  # noqa: PLR0917
    kind: Kind,
    search: Search,
    models: Sequence[Examined],
    searched: Pool,
    held: Pool,
    asked: Candidates,
    seed: Seed,
    store: Store,
    name: str,
    done: Callable[[], None],
    most: int = 256,
) -> tuple[Float[Tensor, "models candidates"], Float[Tensor, "models candidates"]]:
    found = []
    together = at_once(search, models, searched)
    for index, model in enumerate(models):
        kept = store.load(f"{name}-{index}")
        if kept is None:
            # all models get the same batches and starts, so that they differ in nothing else
            search = dataclasses.replace(search, most_images=together)
            parameters = search(
                model.respond, searched, asked, kind.family, seed=child(seed, kind.name)
            )
            margin, asr = margins(
                model.respond,
                held,
                asked,
                kind.family,
                parameters,
                noise=search.noise,
                seed=child(seed, kind.name),
                objective=search.objective,
                most=most,
                at_once=max(1, together // 3),
            )
            scale = 1.0 if search.objective is Objective.ALIKE else model.scale
            kept = {"margins": margin / scale, "asr": asr}
            store.save(f"{name}-{index}", kept)
        found.append(kept)
        done()
    return torch.stack([f["margins"] for f in found]), torch.stack([f["asr"] for f in found])


def at_once(search: Search, models: Sequence[Examined], pool: Pool) -> int:
    """How many images of a search go through some models at once (`images_at_once`)."""
    sizes = [model.delivery.preprocess.size or 0 for model in models]
    return images_at_once(search.most_images, pool.images, sizes)


def images_at_once(most: int, images: Tensor, sizes: Sequence[int]) -> int:
    """How many images go through a model at once: fewer where one wants more than 32 by 32.

    Args:
        most: of the size 32 by 32.
        images: as they are.
        sizes: side of the images that models want.
    """
    largest = max(images[0, 0].numel(), *(size**2 for size in sizes))
    return max(1, most * 32 * 32 // max(32 * 32, largest))


def _kept(
    quick: Float[Tensor, "models candidates"], rule: Elimination, seed: Seed
) -> tuple[Int64[Tensor, " kept"], Bool[Tensor, " kept"]]:
    """Choose candidates; tells which of them are controls.

    A model that answers NaN or infinity is told later, and does not choose for the others.
    """
    quick = torch.where(quick.isfinite().all(1, keepdim=True), quick, 0.0)
    beyond = torch.stack([row - reference(quick, index) for index, row in enumerate(quick)])
    best = beyond.topk(min(rule.kept, beyond.shape[1]), dim=1).indices.flatten()
    alone = quick.topk(min(rule.kept // 2, quick.shape[1]), dim=1).indices.flatten()
    drawn = torch.randperm(beyond.shape[1], generator=generator(seed, torch.device("cpu")))
    controls = drawn[: rule.controls]
    rows = torch.cat([best, alone, controls]).unique()
    return rows, torch.isin(rows, controls)


def reference(
    values: Float[Tensor, "models candidates"], model: int
) -> Float[Tensor, " candidates"]:
    """Median over the other models."""
    others = [index for index in range(len(values)) if index != model]
    return torch.quantile(values[others], 0.5, dim=0)
