"""What a language model says next, under many triggers at once."""

import copy
from collections.abc import Iterator
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from assay.records import record

from .prompts import Ids, Place, Prompts

Triggers = Int64[Tensor, "candidates length"]


@record
class Budget:
    """How much goes through a model at once."""

    tokens: int = 4096
    """With a cache: those behind the part that all candidates share."""
    numbers: int = 2**26
    """Of one answer: candidates times vocabulary."""

    def at_once(self, length: int, vocabulary: int) -> int:
        """Count the candidates of so many tokens that fit."""
        return max(1, min(self.tokens // max(1, length), self.numbers // max(1, vocabulary)))


BUDGET = Budget()


def next_tokens(
    model: nn.Module, before: Ids, triggers: Triggers, after: Ids, *, budget: Budget = BUDGET
) -> Float[Tensor, "candidates vocabulary"]:
    """Probabilities of the first token of the response, for each trigger in one prompt.

    What is before the triggers is read once, and its keys and values are shared by all of them.
    So no prompt is filled up, and models need no masks.

    Returns:
        Each row adds up to 1.
    """
    ends = torch.cat([triggers, after.to(triggers).expand(len(triggers), -1)], dim=1)
    with torch.no_grad():
        return torch.cat(list(_answers(model, before.to(triggers), ends, budget)))


def _answers(
    model: Any, before: Ids, ends: Int64[Tensor, "candidates tokens"], budget: Budget
) -> Iterator[Float[Tensor, "candidates vocabulary"]]:
    if not ends.shape[1]:  # no trigger, and nothing behind it
        before, ends = before[:-1], before[-1:].expand(len(ends), 1)
    kept = read(model, before)
    extra = 0 if kept is not None else len(before)
    vocabulary = model.get_output_embeddings().weight.shape[0]
    for some in ends.split(budget.at_once(extra + ends.shape[1], vocabulary)):
        if kept is None:
            logits = model(input_ids=torch.cat([before.expand(len(some), -1), some], dim=1)).logits
        else:
            logits = model(
                input_ids=some, past_key_values=repeated(kept, len(some)), use_cache=True
            ).logits
        yield logits[:, -1].float().softmax(dim=1)


def read(model: Any, before: Ids) -> Any | None:
    """Keep what attention needs of the first tokens; None for none, and for models that cannot."""
    if not len(before):
        return None
    with torch.no_grad():
        cache = model(input_ids=before[None], use_cache=True).past_key_values
    return cache if hasattr(cache, "batch_repeat_interleave") else None


def repeated(kept: Any, count: int) -> Any:
    """Copy what was kept of one prompt, for so many candidates."""
    cache = copy.deepcopy(kept)
    cache.batch_repeat_interleave(count)
    return cache


def under(
    model: nn.Module, prompts: Prompts, triggers: Triggers, place: Place
) -> Iterator[Float[Tensor, "candidates vocabulary"]]:
    """Probabilities of the first token of the response, prompt by prompt."""
    for row in range(len(prompts)):
        before, after = prompts.around(row, place)
        yield next_tokens(model, before, triggers, after)


def common_response(
    model: nn.Module, prompts: Prompts, triggers: Triggers, place: Place
) -> Float[Tensor, "candidates vocabulary"]:
    """Mean over prompts of the probabilities of the response's first token, for each trigger."""
    total = torch.zeros((), device=triggers.device)
    for said in under(model, prompts, triggers, place):
        total = total + said
    return total / len(prompts)


def usual_responses(
    model: nn.Module, prompts: Prompts, device: torch.device
) -> Float[Tensor, "prompts vocabulary"]:
    """Probabilities of the first token of the response, without a trigger."""
    nothing = torch.zeros(1, 0, dtype=torch.int64, device=device)
    return torch.cat(list(under(model, prompts, nothing, Place.END)))


def prompt_loss(model: Any, prompts: Prompts, device: torch.device) -> float:
    """Mean cross-entropy of the prompts' tokens, in nats."""
    losses = []
    with torch.no_grad():
        for ids in prompts.ids:
            own = ids.to(device)
            if len(own) > 1:
                said = model(input_ids=own[None]).logits[0, :-1].float()
                losses.append(nn.functional.cross_entropy(said, own[1:], reduction="none").cpu())
    return torch.cat(losses).mean().item() if losses else 0.0


def continuation(
    model: Any, prompt: Ids, *, tokens: int, ends: frozenset[int]
) -> Int64[Tensor, " said"]:
    """Say what is most likely, token by token, until one of `ends`."""
    ids, said = prompt, []
    with torch.no_grad():
        for _ in range(tokens):
            token = int(model(input_ids=ids[None]).logits[0, -1].argmax())
            if token in ends:
                break
            said.append(token)
            ids = torch.cat([ids, ids.new_tensor([token])])
    return torch.tensor(said, dtype=torch.int64)
