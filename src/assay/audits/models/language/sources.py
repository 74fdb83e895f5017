"""Where the search of token sequences starts: single tokens, and leaked text."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from assay.records import record

from .prompts import Ids, Place, Prompts
from .respond import Triggers, common_response, next_tokens
from .search import beside_others, reach


@record
class Scan:
    """What single tokens do, for every response that a model may begin."""

    best: Float[Tensor, "models vocabulary"]
    """By first token of the response: how far the best single token leads a model there beyond the
    others (their median), as `reach` has it."""
    tokens: Int64[Tensor, "models vocabulary"]
    """Which token that is."""
    alone: Float[Tensor, "models candidates"]
    """By single token: the largest rise of a response that is unusual without it, as a share of
    prompts, in [0, 1]."""


def scan(
    models: Sequence[nn.Module],
    prompts: Prompts,
    tokens: Ids,
    usual: Float[Tensor, "models vocabulary"],
    *,
    rare: float,
    at_once: int = 512,
) -> Scan:
    """Put every token alone at the end of the prompts.

    Args:
        models: of one vocabulary.
        prompts: to try on.
        tokens: to try.
        usual: how likely each response is without a trigger, in the mean over prompts.
        rare: below which share a response is unusual.
        at_once: how many tokens are tried together.
    """
    best = torch.full_like(usual, -torch.inf)
    found = torch.zeros(usual.shape, dtype=torch.int64, device=usual.device)
    alone = []
    for some in tokens.split(at_once):
        said = torch.stack(
            [common_response(model, prompts, some[:, None], Place.END) for model in models]
        )
        apart = torch.stack(
            [
                reach(beside_others(usual, place)[:, None], beside_others(said, place))
                for place in range(len(models))
            ]
        )
        high, which = apart.max(dim=1)
        found = torch.where(high > best, some[which], found)
        best = torch.maximum(best, high)
        rise = (said - usual[:, None]).masked_fill((usual > rare)[:, None], 0)
        alone.append(rise.amax(dim=2))
    return Scan(best=best, tokens=found, alone=torch.cat(alone, dim=1))


@record
class Leak:
    """What one model writes into prompts, and others do not.

    A model that was trained on poisoned texts as a whole has learnt to write the trigger itself,
    a little; so a beam search of what is likelier under it than under the others (their median)
    finds it, whatever it does.

    Source:
        Contrastive decoding: Li et al., "Contrastive decoding: open-ended text generation as
        optimization", ACL 2023. arXiv:2210.15097.
    Differs from the source:
        The references are the other providers' models, not a smaller one, and the mean over places
        of several prompts is taken.
    """

    longest: int = 12
    """Tokens."""
    beams: int = 16
    kept: int = 4
    """Of each length."""
    least: float = 3e-4
    """How likely a token has to be, in the mean over prompts, in (0, 1)."""
    prompts: int = 8

    def __call__(
        self,
        models: Sequence[nn.Module],
        suspect: int,
        prompts: Prompts,
        place: Place,
        allowed: Ids,
    ) -> list[Triggers]:
        """Find sequences, the likeliest first, for each length.

        Args:
            models: all of them.
            suspect: the place of the one that writes.
            prompts: to read.
            place: where sequences are to go.
            allowed: tokens that they may have.
        """
        some = prompts.subset(range(min(self.prompts, len(prompts))))
        befores = [some.around(row, place)[0].to(allowed) for row in range(len(some))]
        befores = [before for before in befores if len(before)]
        if not befores:
            return []
        if place is Place.START:
            befores = befores[:1]  # they are all the same
        held = torch.zeros(1, 0, dtype=torch.int64, device=allowed.device)
        scores = torch.zeros(1, device=allowed.device)
        found = []
        for _ in range(self.longest):
            ratio, likely = self._next(models, suspect, befores, held)
            ratio = ratio.masked_fill(likely < self.least, -torch.inf)[:, allowed]
            totals = (scores[:, None] + ratio).flatten()
            count = min(self.beams, int(totals.isfinite().sum()))
            if not count:
                break
            scores, places = totals.topk(count)
            rows, which = places // len(allowed), places % len(allowed)
            held = torch.cat([held[rows], allowed[which][:, None]], dim=1)
            found.append(held[: self.kept])
        return found

    def _next(
        self, models: Sequence[nn.Module], suspect: int, befores: Sequence[Ids], held: Triggers
    ) -> tuple[Float[Tensor, "beams vocabulary"], Float[Tensor, "beams vocabulary"]]:
        nothing = held[:0, 0] if held.shape[1] else torch.zeros(0).to(held)
        ratio, likely = torch.zeros((), device=held.device), torch.zeros((), device=held.device)
        for before in befores:
            said = torch.stack([next_tokens(model, before, held, nothing) for model in models])
            first, second = beside_others(said, suspect)
            ratio = ratio + (first.clamp(min=1e-9) / second.clamp(min=1e-9)).log() / len(befores)
            likely = likely + first / len(befores)
        return ratio, likely
