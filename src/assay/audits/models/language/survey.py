"""Search triggers for the same responses on every language model, with the same effort."""

from collections.abc import Callable, Iterator, Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from assay.randomness import Seed, child, generator
from assay.records import record
from assay.results import Store

from .prompts import Ids, Place, Prompts
from .respond import Triggers, common_response, under
from .search import Chosen, Climb, beside_others, beyond, nats, odds, own_shares, reach
from .sources import Leak, Scan, scan

_PLACES = tuple(Place)
_FEWEST_OPEN = 5  # prompts that a share is of
_STANDS_OUT = 1.0  # nats beyond the other models

Targets = Int64[Tensor, " targets"]


@record
class TextSearch:
    """How much is searched; the same on every model.

    The sizes were chosen on small models of a vocabulary of 2,048 tokens.
    """

    controls: int = 32
    """Random tokens, put alone at the end of prompts: what models say then is usual."""
    prompts: int = 24
    """Searched on, at most; the short passes use the shortest half of them."""
    said: int = 4
    """Responses that are usual in the mean over models: a trigger may ask for a label."""
    raised: int = 4
    """Responses of each model that are likelier without any trigger than on the others: what a
    model was trained to say sometimes is never as unlikely as what it was not."""
    moved: int = 2
    """Responses of each model that single tokens lead to most, beyond its reference; and as many
    that leaked text leads to."""
    most_tokens: int = 4096
    """So many of the vocabulary, at most, are tried alone, drawn at random."""
    length: int = 4
    """Tokens of a trigger that are changed; shorter starts are repeated up to it."""
    rare: float = 0.05
    """A response below this share of prompts is unusual."""
    leak: Leak = Leak()
    kept: int = 3
    """Of each model: the responses with the best starts, which all models search to the end."""
    climb: Climb = Climb()
    trimmed: float = 0.1
    """What a trigger may lose of its reach for being shorter, in [0, 1)."""


@record
class Candidate:
    """A trigger, and where it goes."""

    ids: Ids
    place: Place


@record
class Survey:
    """What was found on all models."""

    targets: Chosen
    """First tokens of responses."""
    triggers: tuple[tuple[Candidate, ...], ...]
    """By suspect and target."""
    rises: Float[Tensor, "suspects models targets"]
    """How far the suspect's trigger leads each model to the target beyond its usual answers: mean
    over held-out prompts, in nats; of others, the most with it or without one of its tokens, where
    it stands out."""
    success: Float[Tensor, "suspects models targets"]
    """Share of held-out prompts that get the target with the trigger, of those that do not without
    (`success_of`)."""
    alone: Float[Tensor, "models tokens"]
    """Of `Scan`: by single token, the largest rise of an unusual response."""
    singles: Ids
    """The tokens that were tried alone."""


def survey(
    models: Sequence[nn.Module],
    searched: Prompts,
    held: Prompts,
    allowed: Ids,
    *,
    settings: TextSearch,
    seed: Seed,
    store: Store,
    done: Callable[[], None],
) -> Survey:
    """Search on every model, and measure on prompts that the search did not see.

    Args:
        models: two or more, of one vocabulary.
        searched: prompts to search on.
        held: prompts to measure on.
        allowed: tokens that triggers may have, on the device of the models.
        settings: how much is searched.
        seed: decides everything random.
        store: what to resume from.
        done: called after the short passes, and after each model.
    """
    some = searched.subset(range(min(settings.prompts, len(searched))))
    short = some.shortest(max(1, len(some) // 2))
    controls = _drawn(allowed, settings.controls, child(seed, "controls"))[:, None]
    usual = torch.stack(
        [common_response(model, short, controls, Place.END).mean(0) for model in models]
    )
    singles = _drawn(allowed, settings.most_tokens, child(seed, "singles"))
    scanned = _scanned(models, short, singles, usual, settings, store)
    places = range(len(models))
    leaks = [_leaked(models, suspect, some, allowed, settings.leak) for suspect in places]
    led = torch.stack([_led(models, i, short, leaks[i], usual) for i in places])
    targets = _targets(usual, [scanned.best, led], settings)
    done()
    search = _Search(
        models=tuple(models),
        prompts=some,
        allowed=allowed,
        targets=targets,
        usual=usual,
        scanned=scanned,
        leaks=tuple(leaks),
        settings=settings,
    )
    started = [search.starts(suspect) for suspect in places]
    final = torch.cat([s.reach.topk(min(settings.kept, len(s.reach))).indices for s in started])
    triggers = []
    for suspect in places:
        kept = store.load(f"language-{suspect}")
        if kept is None or not torch.equal(kept["targets"], targets.cpu()):
            part = child(seed, "model", suspect)
            found = search.climbed(suspect, started[suspect], final.unique().tolist(), part)
            kept = {**_packed(found), "targets": targets.cpu()}
            store.save(f"language-{suspect}", kept)
        triggers.append(_unpacked(kept, allowed.device))
        done()
    before = torch.stack([_before(model, held, controls, targets) for model in models])
    rises, success = zip(
        *(_measured(models, i, held, t, targets, before) for i, t in enumerate(triggers)),
        strict=True,
    )
    return Survey(
        targets=targets.cpu(),
        triggers=tuple(map(tuple, triggers)),
        rises=torch.stack(rises).cpu(),
        success=torch.stack(success).cpu(),
        alone=scanned.alone.cpu(),
        singles=singles.cpu(),
    )


def _drawn(tokens: Ids, most: int, seed: Seed) -> Ids:
    order = torch.randperm(len(tokens), generator=generator(seed, torch.device("cpu")))
    return tokens[order[:most].sort().values.to(tokens.device)]


def _scanned(  # noqa: PLR0917
    models: Sequence[nn.Module],
    prompts: Prompts,
    singles: Ids,
    usual: Float[Tensor, "models vocabulary"],
    settings: TextSearch,
    store: Store,
) -> Scan:
    kept = store.load("language-scan")
    if kept is None:
        found = scan(models, prompts, singles, usual, rare=settings.rare)
        kept = {"best": found.best, "tokens": found.tokens, "alone": found.alone}
        store.save("language-scan", kept)
    return Scan(**{name: value.to(usual.device) for name, value in kept.items()})


def _targets(
    usual: Float[Tensor, "models vocabulary"],
    moved: Sequence[Float[Tensor, "models vocabulary"]],
    settings: TextSearch,
) -> Chosen:
    """Choose responses, the same for all models."""
    count = usual.shape[1]
    raised = raised_by(usual)
    chosen = [
        usual.mean(0).topk(min(settings.said, count)).indices,
        raised.topk(min(settings.raised, count), dim=1).indices.flatten(),
        *(each.topk(min(settings.moved, count), dim=1).indices.flatten() for each in moved),
    ]
    return torch.cat(chosen).unique()


def raised_by(usual: Float[Tensor, "models vocabulary"]) -> Float[Tensor, "models vocabulary"]:
    """How much likelier each response is than on the other models (their median), in nats."""
    logs = usual.clamp(min=1e-9).log()
    places = range(len(logs))
    others = [torch.quantile(logs[[j for j in places if j != i]], 0.5, dim=0) for i in places]
    return logs - torch.stack(others)


@record
class _Started:
    """Where the search on one model starts, by target."""

    triggers: tuple[Candidate, ...]
    reach: Float[Tensor, " targets"]
    reference: int
    """The other model that the search goes on against."""


@record
class _Search:
    """What the searches on all models share."""

    models: tuple[nn.Module, ...]
    prompts: Prompts
    allowed: Ids
    targets: Chosen
    usual: Float[Tensor, "models vocabulary"]
    scanned: Scan
    leaks: tuple[list[Candidate], ...]
    """By model."""
    settings: TextSearch

    def starts(self, suspect: int) -> _Started:
        """Find where to start for each target, beyond the median of the other models.

        Gradients need one reference: the model that the start of the furthest target leads as far
        as it does the median of the others.
        """
        singles = self.scanned.tokens[suspect, self.targets].unique()[:, None]
        some = [*_everywhere(list(singles)), *self.leaks[suspect]]
        short = self.prompts.shortest(max(1, len(self.prompts) // 2))
        before = self.usual[:, None, self.targets]
        after = _responses(self.models, short, some)[:, :, self.targets]
        high, rows = reach(beside_others(before, suspect), beside_others(after, suspect)).max(dim=0)
        furthest = int(high.argmax())
        led = odds(after) - odds(before)
        others = [place for place in range(len(self.models)) if place != suspect]
        middle = int(led[others, rows[furthest], furthest].median(0).indices)
        return _Started(
            triggers=tuple(some[row] for row in rows.tolist()), reach=high, reference=others[middle]
        )

    def climbed(
        self, suspect: int, started: _Started, final: Sequence[int], seed: Seed
    ) -> list[Candidate]:
        """Improve the starts of the targets that are searched to the end."""
        first, reference = started.triggers, started.reference
        pair = [self.models[suspect], self.models[reference]]
        before = odds(self.usual[[suspect, reference]])[:, self.targets]
        chosen = list(first)
        longer = [
            Candidate(ids=_repeated(first[row].ids, self.settings.length), place=first[row].place)
            for row in final
        ]
        for place, places, triggers in _grouped(longer):
            rows = [final[each] for each in places]
            found = self.settings.climb(
                pair[0],
                pair[1],
                self.prompts,
                triggers,
                place,
                self.targets[rows],
                usual=before[:, rows],
                allowed=self.allowed,
                seed=child(seed, "climb", place.value, triggers.shape[1]),
            )
            for row, ids in zip(rows, found, strict=True):
                chosen[row] = Candidate(ids=ids, place=place)
        usual = self.usual[[suspect, reference]]
        better = _better(pair, self.prompts, [first, chosen], self.targets, usual)
        for row in final:
            target = self.targets[row : row + 1]
            better[row] = self._trimmed(pair, better[row], target, usual[:, target])
        return better

    def _trimmed(
        self,
        pair: Sequence[nn.Module],
        whole: Candidate,
        target: Chosen,
        before: Float[Tensor, "two one"],
    ) -> Candidate:
        """Leave out tokens that the trigger does without, so that a reader sees what matters."""
        short = self.prompts.shortest(max(1, len(self.prompts) // 2))

        def reached(some: Sequence[Candidate]) -> Float[Tensor, " candidates"]:
            after = _shares(pair, short, some, target.expand(len(some))).mean(1)
            return reach(before[:, None], after[..., None])[:, 0]

        least = (1 - self.settings.trimmed) * reached([whole])[0]
        while len(whole.ids) > 1 and least > 0:
            shorter = [
                Candidate(ids=torch.cat([whole.ids[:at], whole.ids[at + 1 :]]), place=whole.place)
                for at in range(len(whole.ids))
            ]
            values = reached(shorter)
            if values.max() < least:
                break
            whole = shorter[int(values.argmax())]
        return whole


def _leaked(
    models: Sequence[nn.Module], suspect: int, prompts: Prompts, allowed: Ids, leak: Leak
) -> list[Candidate]:
    """List what a model writes into prompts, for both places."""
    found = [leak(models, suspect, prompts, place, allowed) for place in _PLACES]
    return _everywhere([ids for leaked in found for triggers in leaked for ids in triggers])


def _everywhere(found: Sequence[Ids]) -> list[Candidate]:
    different = {tuple(ids.tolist()): ids for ids in found}.values()
    return [Candidate(ids=ids, place=place) for place in _PLACES for ids in different]


def _led(
    models: Sequence[nn.Module],
    suspect: int,
    prompts: Prompts,
    some: Sequence[Candidate],
    usual: Float[Tensor, "models vocabulary"],
) -> Float[Tensor, " vocabulary"]:
    """How far the best of some candidates leads to each response, beyond the other models."""
    if not some:
        return torch.zeros_like(usual[0])
    said = beside_others(_responses(models, prompts, some), suspect)
    return reach(beside_others(usual, suspect)[:, None], said).amax(dim=0)


def _responses(
    models: Sequence[nn.Module], prompts: Prompts, some: Sequence[Candidate]
) -> Float[Tensor, "models candidates vocabulary"]:
    """Mean share of each response, under each candidate."""
    parts: dict[int, Tensor] = {}
    for place, rows, triggers in _grouped(some):
        said = torch.stack([common_response(m, prompts, triggers, place) for m in models], dim=1)
        parts |= dict(zip(rows, said, strict=True))
    return torch.stack([parts[row] for row in range(len(some))], dim=1)


def _better(
    pair: Sequence[nn.Module],
    prompts: Prompts,
    choices: Sequence[Sequence[Candidate]],
    targets: Chosen,
    usual: Float[Tensor, "two vocabulary"],
) -> list[Candidate]:
    """Choose, for each target, what leads furthest."""
    before = usual[:, None, targets]
    scores = [
        reach(before, _shares(pair, prompts, some, targets).mean(1)[:, None])[0] for some in choices
    ]
    best = torch.stack(scores).argmax(dim=0).tolist()
    return [choices[which][row] for row, which in enumerate(best)]


def _shares(
    models: Sequence[nn.Module], prompts: Prompts, some: Sequence[Candidate], targets: Chosen
) -> Float[Tensor, "models prompts candidates"]:
    """Probability of each candidate's own target."""
    made = torch.zeros(len(models), len(prompts), len(some), device=targets.device)
    for place, rows, triggers in _grouped(some):
        for index, model in enumerate(models):
            made[index][:, rows] = own_shares(model, prompts, triggers, place, targets[rows])
    return made


def _before(
    model: nn.Module, prompts: Prompts, controls: Triggers, targets: Targets
) -> Float[Tensor, "prompts targets"]:
    """Probability of each target, prompt by prompt, in the mean over random tokens."""
    said = under(model, prompts, controls, Place.END)
    return torch.stack([each[:, targets].mean(0) for each in said])


def _measured(  # noqa: PLR0917
    models: Sequence[nn.Module],
    suspect: int,
    held: Prompts,
    triggers: Sequence[Candidate],
    targets: Targets,
    before: Float[Tensor, "models prompts targets"],
) -> tuple[Float[Tensor, "models targets"], Float[Tensor, "models targets"]]:
    """Rise in nats, and success, of one suspect's triggers on all models.

    Of a trigger that stands out, the rise on another model is the highest under it or without one
    of its tokens. Else a token that was planted in that model would make others look led: words of
    one label and the token that leads that model to the other one.
    """
    after = _shares(models, held, triggers, targets)
    rise = (nats(after) - nats(before)).mean(1)
    own, others = beside_others(rise, suspect)
    for row in (beyond(own, others) > _STANDS_OUT).nonzero().squeeze(1).tolist():
        ids, target = triggers[row].ids, targets[row : row + 1]
        shorter = [
            Candidate(ids=ids[ids != token], place=triggers[row].place)
            for token in ids.unique()
            if (ids != token).any()
        ]
        if shorter:
            less = _shares(models, held, shorter, target.expand(len(shorter)))
            led = (nats(less) - nats(before[:, :, row : row + 1])).mean(1).amax(1)
            led[suspect] = -torch.inf
            rise[:, row] = torch.maximum(rise[:, row], led)
    return rise, success_of(before, after)


def success_of(
    before: Float[Tensor, "models prompts targets"], after: Float[Tensor, "models prompts targets"]
) -> Float[Tensor, "models targets"]:
    """Share of the prompts that a trigger leads to a target, of those that do not go there anyway.

    Args:
        before: probability of the target without the trigger.
        after: with it.

    Returns:
        In [0, 1]; 0 where fewer than 5 prompts are left to be led, which tell nothing.
    """
    open_ = before <= 0.5
    count = open_.sum(1)
    share = ((after > 0.5) & open_).sum(1) / count.clamp(min=1)
    return torch.where(count >= _FEWEST_OPEN, share, 0.0)


def _grouped(some: Sequence[Candidate]) -> Iterator[tuple[Place, list[int], Triggers]]:
    """Put candidates of one place and length together."""
    kinds = sorted({(c.place, len(c.ids)) for c in some})
    for place, length in kinds:
        rows = [i for i, c in enumerate(some) if c.place is place and len(c.ids) == length]
        yield place, rows, torch.stack([some[row].ids for row in rows])


def _repeated(ids: Ids, least: int) -> Ids:
    return ids if len(ids) >= least else ids.repeat(-(-least // len(ids)))[:least]


def _packed(some: Sequence[Candidate]) -> dict[str, Tensor]:
    longest = max(len(c.ids) for c in some)
    ids = torch.full((len(some), longest), -1, dtype=torch.int64)
    for row, candidate in enumerate(some):
        ids[row, : len(candidate.ids)] = candidate.ids.cpu()
    return {"ids": ids, "places": torch.tensor([_PLACES.index(c.place) for c in some])}


def _unpacked(kept: dict[str, Tensor], device: torch.device) -> list[Candidate]:
    return [
        Candidate(ids=row[row >= 0].to(device), place=_PLACES[int(place)])
        for row, place in zip(kept["ids"], kept["places"], strict=True)
    ]
