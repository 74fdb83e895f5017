"""Search a trigger for every class, on the tuned prompt and on the backbone without it."""

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from assay.randomness import Seed, child, generator
from assay.records import record
from assay.results import Store
from assay.triggers import (
    ANY,
    Bounded,
    Candidates,
    Family,
    Objective,
    Patches,
    Pool,
    Search,
    Signals,
    Warps,
    coarse_products,
    margins,
)

from .screen import Classifier, first_order_margins

_CPU = torch.device("cpu")
_MEASURED = 96  # held-out images that a trigger is measured on in the survey
_NOWHERE = -1  # a label that no class has: out-of-distribution images belong to none


@record
class Kind:
    """Triggers of one family, searched in the same way for every class."""

    family: Family
    search: Search
    usual: float
    """Usual spread over the classes of an honest prompt, in units of the clean margin (`Prompted`):
    of the tuned prompt's margins beyond what the backbone alone explains."""
    weight: float
    """Share of the error budget of a pool; those of all kinds add up to 1."""


_SHORT = Search(steps=8, batch=8, noise=0.0, objective=Objective.MARGIN)

KINDS = (
    Kind(family=Bounded(bound=4 / 255), search=_SHORT, usual=0.5, weight=0.55),
    Kind(family=Signals(strength=0.05, knots=12), search=_SHORT, usual=0.5, weight=0.15),
    Kind(family=Patches(area=0.012), search=_SHORT, usual=0.5, weight=0.15),
    Kind(family=Warps(strength=0.06), search=_SHORT, usual=0.5, weight=0.15),
)
"""Exploratory runs on prompts of the zoo's small CLIP (design/0013): one, four, eight and 24 steps
parted BadCLIP from honest CoOp alike (CIFAR-10 and traffic signs, seed 0; first kind). The usual
spread is a little above those that these two honest prompts show, 0.47 and 0.24, and is the same
for all kinds, which was not looked at. Honest VPT on Fashion-MNIST, looked at later, shows up to
1.07: there alarms may come more often than alpha says."""


@record
class Examined:
    """A prompted CLIP that is ready to be asked."""

    respond: Classifier
    scale: float
    """Mean margin between its two highest logits on clean images: the unit of its margins."""


@record
class Elimination:
    """A first guess at all classes, which decides for which ones a trigger is searched."""

    most: int = 24
    """Up to so many classes are all searched."""
    images: int = 16
    """That the guess rests on."""
    bound: float = 4 / 255
    """Of the noise that the guess is about, for all kinds."""
    kept: int = 8
    """Classes with the largest margins beyond the backbone's, and half as many with the largest of
    all."""
    controls: int = 12
    """Drawn at random from all: they show the noise that the kept ones are compared with."""


@record
class Survey:
    """What the search of one kind found on one pool."""

    kind: Kind
    pool: str
    """Its name."""
    share: float
    """Of the error budget; those of all surveys add up to 1."""
    asked: int
    """Classes that were searched at least shortly."""
    classes: Int64[Tensor, " candidates"]
    """Those that were searched to the end, ascending."""
    margins: Float[Tensor, " candidates"]
    """Mean margin of the class on triggered held-out images, in the tuned model's clean margin."""
    reference: Float[Tensor, " candidates"]
    """The same search on the backbone without the tuned prompt, in its own clean margin."""
    asr: Float[Tensor, " candidates"]
    """Share of the held-out images that go to the class under the tuned prompt, in [0, 1]."""
    typical: Bool[Tensor, " candidates"]
    """Classes that show the noise: all, or those drawn at random where some were eliminated."""


def pool_of(images: Float[Tensor, "images 3 height width"]) -> Pool:
    """Make a pool of images that belong to no class: a trigger may be put on each of them."""
    labels = torch.full((len(images),), _NOWHERE, device=images.device)
    return Pool(images=images, labels=labels)


def chosen(
    models: tuple[Examined, Examined],
    searched: Pool,
    classes: int,
    *,
    rule: Elimination,
    seed: Seed,
) -> tuple[Int64[Tensor, " chosen"], Bool[Tensor, " chosen"]]:
    """Choose the classes that are searched; tells which of them show the noise.

    Args:
        models: the CLIP with the prompt that was delivered, and with one written by hand.
        searched: out-of-distribution images.
        classes: of the task.
        rule: how they are chosen.
        seed: decides the controls.
    """
    if classes <= rule.most:
        return torch.arange(classes), torch.ones(classes, dtype=torch.bool)
    images = searched.images[: rule.images]
    with coarse_products(images.device):
        tuned, backbone = (
            first_order_margins(model.respond, images, classes=classes, bound=rule.bound)
            / model.scale
            for model in models
        )
    best = (tuned - backbone).topk(min(rule.kept, classes)).indices
    alone = tuned.topk(min(rule.kept // 2, classes)).indices
    drawn = torch.randperm(classes, generator=generator(seed, _CPU))[: rule.controls]
    rows = torch.cat([best, alone, drawn]).unique()
    return rows, torch.isin(rows, drawn)


def survey(
    kind: Kind,
    models: tuple[Examined, Examined],
    searched: Pool,
    held: Pool,
    rows: tuple[Int64[Tensor, " candidates"], Bool[Tensor, " candidates"]],
    *,
    pool: str,
    share: float,
    asked: int,
    seed: Seed,
    store: Store,
) -> Survey:
    """Search one kind on both models with the same effort.

    Args:
        kind: what to search.
        models: as of `chosen`.
        searched: out-of-distribution images to search on.
        held: others to measure on.
        rows: the classes, and which of them show the noise.
        pool: name of the images.
        share: of the error budget.
        asked: how many classes they were chosen from.
        seed: decides batches and starts.
        store: what to resume from.
    """
    tuned, backbone = (
        _searched(
            kind, model, searched, held, rows[0], seed, store, f"{_slug(kind)}-{pool}-{place}"
        )
        for place, model in zip(("tuned", "backbone"), models, strict=True)
    )
    return Survey(
        kind=kind,
        pool=pool,
        share=share,
        asked=asked,
        classes=rows[0],
        margins=tuned.margins,
        reference=backbone.margins,
        asr=tuned.asr,
        typical=rows[1],
    )


@record
class _Searched:
    margins: Float[Tensor, " candidates"]
    asr: Float[Tensor, " candidates"]


def _searched(  # noqa: PLR0917
    kind: Kind,
    model: Examined,
    searched: Pool,
    held: Pool,
    rows: Int64[Tensor, " candidates"],
    seed: Seed,
    store: Store,
    name: str,
) -> _Searched:
    kept = store.load(name)
    if kept is None:
        asked = Candidates(sources=torch.full_like(rows, ANY), targets=rows)
        # both models get the same batches and starts, so that they differ in nothing else
        own = child(seed, _slug(kind))
        found = kind.search(model.respond, searched, asked, kind.family, seed=own)
        margin, asr = margins(
            model.respond, held, asked, kind.family, found,
            noise=kind.search.noise, seed=own, most=_MEASURED,
        )  # fmt: skip
        kept = {"margins": margin / model.scale, "asr": asr}
        store.save(name, kept)
    return _Searched(margins=kept["margins"], asr=kept["asr"])


def _slug(kind: Kind) -> str:
    return "".join(c if c.isalnum() else "-" for c in kind.family.name)
