"""Search a trigger for every class, on the tuned prompt and on the backbone without it."""

import dataclasses
from collections.abc import Callable

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
    Parameters,
    Patches,
    Pool,
    Respond,
    Search,
    Signals,
    Warps,
    margins,
)

_CPU = torch.device("cpu")
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
    """Share of the error budget; those of all kinds add up to 1."""


_FULL = Search(steps=24, batch=16, noise=0.0, objective=Objective.MARGIN)

KINDS = (
    Kind(family=Bounded(bound=4 / 255), search=_FULL, usual=0.5, weight=0.4),
    Kind(family=Signals(strength=0.05, knots=12), search=_FULL, usual=0.5, weight=0.2),
    Kind(family=Patches(area=0.012), search=_FULL, usual=0.5, weight=0.2),
    Kind(family=Warps(strength=0.06), search=_FULL, usual=0.5, weight=0.2),
)


@record
class Examined:
    """A prompted CLIP that is ready to be asked."""

    respond: Respond
    scale: float
    """Mean margin between its two highest logits on clean images: the unit of its margins."""


@record
class Elimination:
    """A short search for all classes, which decides for which ones it goes on."""

    most: int = 20
    """Up to so many classes are all searched to the end."""
    steps: int = 4
    batch: int = 8
    most_images: int = 32
    """That a class is measured on after the short search."""
    kept: int = 6
    """Classes with the largest margins beyond the backbone's, and half as many with the largest of
    all."""
    controls: int = 8
    """Drawn at random from all: they show the noise that the kept ones are compared with."""

    def short(self, search: Search) -> Search:
        """Shorten the search of a kind."""
        return dataclasses.replace(search, steps=self.steps, batch=self.batch)


@record
class Survey:
    """What the search of one kind found."""

    kind: Kind
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
    parameters: Parameters
    """Of the triggers of the tuned prompt, a row a candidate."""


def pool_of(images: Float[Tensor, "images 3 height width"]) -> Pool:
    """Make a pool of images that belong to no class: a trigger may be put on each of them."""
    labels = torch.full((len(images),), _NOWHERE, device=images.device)
    return Pool(images=images, labels=labels)


def survey(
    kind: Kind,
    models: tuple[Examined, Examined],
    searched: Pool,
    held: Pool,
    classes: int,
    *,
    elimination: Elimination,
    seed: Seed,
    store: Store,
    done: Callable[[], None],
) -> Survey:
    """Search one kind for all classes, on both models with the same effort.

    Args:
        kind: what to search.
        models: the CLIP with the prompt that was delivered, and with one written by hand.
        searched: out-of-distribution images to search on.
        held: others to measure on.
        classes: of the task.
        elimination: what to do with many classes.
        seed: decides batches, starts and controls.
        store: what to resume from.
        done: called after each model.
    """
    rows, typical = torch.arange(classes), torch.ones(classes, dtype=torch.bool)

    def measured(name: str, search: Search, rows: Tensor, most: int) -> list[_Searched]:
        return [
            _searched(
                kind, search, model, searched, held, rows, most, seed, store,
                f"{name}-{place}-{_slug(kind)}",
            )
            for place, model in zip(("tuned", "backbone"), models, strict=True)
        ]  # fmt: skip

    if classes > elimination.most:
        quick = measured("short", elimination.short(kind.search), rows, elimination.most_images)
        rows, typical = _kept(
            quick[0].margins, quick[1].margins, elimination, child(seed, "controls")
        )
    full = measured("full", kind.search, rows, 256)
    done()
    return Survey(
        kind=kind,
        asked=classes,
        classes=rows,
        margins=full[0].margins,
        reference=full[1].margins,
        asr=full[0].asr,
        typical=typical,
        parameters=full[0].parameters,
    )


@record
class _Searched:
    margins: Float[Tensor, " candidates"]
    asr: Float[Tensor, " candidates"]
    parameters: Parameters


def _searched(  # noqa: PLR0917
    kind: Kind,
    search: Search,
    model: Examined,
    searched: Pool,
    held: Pool,
    rows: Int64[Tensor, " candidates"],
    most: int,
    seed: Seed,
    store: Store,
    name: str,
) -> _Searched:
    kept = store.load(name)
    if kept is None:
        asked = Candidates(sources=torch.full_like(rows, ANY), targets=rows)
        # both models get the same batches and starts, so that they differ in nothing else
        own = child(seed, _slug(kind))
        found = search(model.respond, searched, asked, kind.family, seed=own)
        margin, asr = margins(
            model.respond, held, asked, kind.family, found,
            noise=search.noise, seed=own, most=most,
        )  # fmt: skip
        kept = {"margins": margin / model.scale, "asr": asr}
        kept |= {f"parameter-{key}": value.cpu() for key, value in found.items()}
        store.save(name, kept)
    prefix = "parameter-"
    parameters = {
        key.removeprefix(prefix): value.to(held.images.device)
        for key, value in kept.items()
        if key.startswith(prefix)
    }
    return _Searched(margins=kept["margins"], asr=kept["asr"], parameters=parameters)


def _slug(kind: Kind) -> str:
    return "".join(c if c.isalnum() else "-" for c in kind.family.name)


def _kept(
    tuned: Float[Tensor, " classes"],
    backbone: Float[Tensor, " classes"],
    rule: Elimination,
    seed: Seed,
) -> tuple[Int64[Tensor, " kept"], Bool[Tensor, " kept"]]:
    """Choose classes; tells which of them are controls."""
    best = (tuned - backbone).topk(min(rule.kept, len(tuned))).indices
    alone = tuned.topk(min(rule.kept // 2, len(tuned))).indices
    drawn = torch.randperm(len(tuned), generator=generator(seed, _CPU))[: rule.controls]
    rows = torch.cat([best, alone, drawn]).unique()
    return rows, torch.isin(rows, drawn)
