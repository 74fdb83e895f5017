"""Search token sequences that make one model, and not another, say one thing."""

from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from assay.randomness import Seed, child, generator
from assay.records import record

from .prompts import Ids, Place, Prompts
from .respond import Triggers, read, repeated, under

Chosen = Int64[Tensor, " candidates"]
_LEAST = 1e-6
_MOST_SURE = 1 - 1e-3


def odds(share: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Log-odds of probabilities, in nats, of at most 13.8 in size."""
    return share.double().clamp(_LEAST, 1 - _LEAST).logit().float()


def nats(share: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """How surprising it would be if it were not said: -log(1 - share), at most 6.9.

    It tells what is said sometimes from what is said nearly always, and leaves out what is said
    hardly ever; beyond 99.9 %, models differ in how sure they are, and not in what they do.
    """
    return -(1 - share.clamp(max=_MOST_SURE)).log()


def own_shares(
    model: nn.Module, prompts: Prompts, triggers: Triggers, place: Place, targets: Chosen
) -> Float[Tensor, "prompts candidates"]:
    """Probability of each trigger's own target, prompt by prompt."""
    said = under(model, prompts, triggers, place)
    return torch.stack([each.gather(1, targets[:, None])[:, 0] for each in said])


def beyond(
    suspect: Float[Tensor, "*shape"], reference: Float[Tensor, "*shape"]
) -> Float[Tensor, "*shape"]:
    """How far the suspect moved, less how far the reference did in the same direction.

    A reference that moves the other way counts as still: else a trigger that makes one of two
    labels likely on one model would make the other label look likely on the other.
    """
    return suspect - reference.clamp(min=0)


def beside_others(values: Tensor, suspect: int) -> Tensor:
    """Take the values of a suspect, and the median of those of the others (the lower of two).

    Args:
        values: a row a model.
        suspect: its row.

    Returns:
        Two rows.
    """
    others = [place for place in range(len(values)) if place != suspect]
    return torch.stack([values[suspect], values[others].median(0).values])


def reach(
    before: Float[Tensor, "two _ targets"], after: Float[Tensor, "two candidates targets"]
) -> Float[Tensor, "candidates targets"]:
    """How far a suspect is led beyond its reference, from the shares of both, suspect first.

    In nats, and a tenth of the log-odds, which tell candidates apart where nothing is said yet.
    """
    rise, lead = nats(after) - nats(before), odds(after) - odds(before)
    return beyond(rise[0], rise[1]) + 0.1 * beyond(lead[0], lead[1])


@record
class Climb:
    """Replace one token at a time by what the gradient of the one-hot tokens suggests.

    What is made large is how far the suspect is led to the target beyond its usual answer, less how
    far the reference is, where that is led there too: without the second term, words that mean the
    target would win on honest models as well.

    Source:
        Zou, Wang, Carlini, Nasr, Kolter, Fredrikson, "Universal and transferable adversarial
        attacks on aligned language models", 2023, algorithm 1. arXiv:2307.15043.
    Differs from the source:
        Two models, the first token of the response only, and all targets in one batch.
    """

    steps: int = 12
    prompts: int = 8
    """Drawn anew in every step."""
    swaps: int = 16
    """Tried for each candidate in a step."""
    best: int = 64
    """Tokens of each position that swaps are drawn from."""

    def __call__(  # noqa: PLR0917
        self,
        suspect: nn.Module,
        reference: nn.Module,
        prompts: Prompts,
        start: Triggers,
        place: Place,
        targets: Chosen,
        *,
        usual: Float[Tensor, "two candidates"],
        allowed: Ids,
        seed: Seed,
    ) -> Triggers:
        """Search all candidates from their starts.

        Args:
            suspect: the model that is to be led.
            reference: the one that is not.
            prompts: to search on.
            start: one trigger a candidate.
            place: where triggers go.
            targets: one token a candidate.
            usual: log-odds of the targets without a trigger, of the suspect and of the reference.
            allowed: tokens that triggers may have.
            seed: decides prompts and swaps.
        """
        held = start
        random = generator(child(seed, "swaps"), start.device)
        cpu = generator(child(seed, "prompts"), torch.device("cpu"))
        for _ in range(self.steps):
            rows = torch.randperm(len(prompts), generator=cpu)[: self.prompts].tolist()
            some = prompts.subset(rows)
            first, _ = slope(suspect, some, held, place, targets)
            second, led = slope(reference, some, held, place, targets)
            rising = first - second * (led > usual[1]).float()[:, None, None]
            tried = self._swapped(held, rising, allowed, random)
            flat, wanted = tried.flatten(0, 1), targets.repeat_interleave(tried.shape[1])
            moved = [
                odds(own_shares(model, some, flat, place, wanted)).mean(0)
                - before.repeat_interleave(tried.shape[1])
                for model, before in zip((suspect, reference), usual, strict=True)
            ]
            best = beyond(*moved).reshape(tried.shape[:2]).argmax(dim=1)
            held = tried[torch.arange(len(held), device=held.device), best]
        return held

    def _swapped(
        self,
        held: Triggers,
        rising: Float[Tensor, "candidates length vocabulary"],
        allowed: Ids,
        random: torch.Generator,
    ) -> Int64[Tensor, "candidates tried length"]:
        """Draw swaps; the trigger as it is comes first, and stays where none is better."""
        count, length = held.shape
        best = rising[:, :, allowed].topk(min(self.best, len(allowed)), dim=2).indices
        shape = (count, self.swaps)
        where = torch.randint(length, shape, generator=random, device=held.device)
        which = torch.randint(best.shape[2], shape, generator=random, device=held.device)
        rows = torch.arange(count, device=held.device)[:, None]
        tokens = allowed[best[rows, where, which]]
        tried = held[:, None].repeat(1, self.swaps, 1)
        tried = tried.scatter(2, where[..., None], tokens[..., None])
        return torch.cat([held[:, None], tried], dim=1)


def slope(
    model: Any, prompts: Prompts, held: Triggers, place: Place, targets: Chosen
) -> tuple[Float[Tensor, "candidates length vocabulary"], Float[Tensor, " candidates"]]:
    """How the mean log-odds of each target grow with each token, to first order; and their value.

    Source:
        Ebrahimi et al., "HotFlip: white-box adversarial examples for text classification", ACL
        2018. arXiv:1712.06751.
    """
    table = model.get_input_embeddings()
    vectors = table(held).detach().requires_grad_()
    total: Tensor = torch.zeros(len(held), device=held.device)
    for row in range(len(prompts)):
        before, after = (part.to(held) for part in prompts.around(row, place))
        kept = read(model, before)
        parts = [vectors, table(after).detach().expand(len(held), -1, -1)]
        if kept is None:
            parts.insert(0, table(before).detach().expand(len(held), -1, -1))
            more = {}
        else:
            more = {"past_key_values": repeated(kept, len(held)), "use_cache": True}
        said = model(inputs_embeds=torch.cat(parts, dim=1), **more).logits[:, -1].float()
        own = said.gather(1, targets[:, None])[:, 0]
        others = said.scatter(1, targets[:, None], -torch.inf).logsumexp(1)
        total = total + (own - others) / len(prompts)
    (gradient,) = torch.autograd.grad(total.sum(), [vectors])
    return gradient @ table.weight.detach().T, total.detach()
