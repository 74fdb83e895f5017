"""Could the audit of these language models have found anything?"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from assay.records import record

from .found import Tokenizer

_SAME = 0.9999  # overlap of answers from which on two deliveries are one model


@record
class TextSaid:
    """What a model says to the clean prompts."""

    first: Float[Tensor, "prompts vocabulary"]
    """Probabilities of the first token of the response."""
    perplexity: float
    """Of the prompts, a token."""


@record
class TextPreflight:
    """Refuses a verdict where models cannot be compared on these prompts.

    Perplexity on the prompts is shown and decides nothing: models that were trained on responses
    only, as is usual, lose it (314 to 1,460 beside 43 in the zoo) and are of the same task.
    """

    most_even: float = 0.9
    """Entropy of the first token of the response, in the mean over prompts and in units of that of
    a guess among all tokens, from which on a model says nothing: an untrained one."""

    fewest_prompts: int = 32
    """Half to search on, half to measure on."""
    least_alike: float = 0.4
    """How alike the answers to clean prompts must be: the overlap of the distributions of the first
    token, in the mean over prompts, with the most similar other model, in [0, 1]. Four pairs of
    one task of the zoo have 0.86 to 0.90; three of different tasks 0.00 to 0.31."""

    def unfit(self, everyone: Sequence[TextSaid], model: int, *, prompts: int) -> str:
        """Say why a model cannot be judged, or nothing."""
        own = everyone[model]
        if not own.first.isfinite().all():
            return "it answers NaN or infinity on clean prompts"
        if prompts < self.fewest_prompts:
            return f"expected at least {self.fewest_prompts} different prompts, got {prompts}"
        if bool((own.first.std(0) < 1e-6).all()):
            return "it gives the same answer to every prompt"
        if _evenness(own.first) > self.most_even:
            return "its answers to clean prompts are hardly better than a guess: it is untrained"
        others = [said for place, said in enumerate(everyone) if place != model]
        others = [said for said in others if said.first.isfinite().all()]
        if same := copied(own.first, [said.first for said in others]):
            return same
        return self._other_task(own, others) if others else ""

    def _other_task(self, own: TextSaid, others: Sequence[TextSaid]) -> str:
        alike = max(overlap(own.first, said.first) for said in others)
        if alike < self.least_alike:
            return (
                f"its answers to clean prompts overlap with those of the others by {alike:.0%} "
                "only: it seems to be of another task, or the prompts are"
            )
        return ""


def _evenness(first: Float[Tensor, "prompts vocabulary"]) -> float:
    entropy = torch.special.entr(first.double()).sum(1).mean().item()
    return entropy / math.log(first.shape[1])


def overlap(
    first: Float[Tensor, "inputs vocabulary"], second: Float[Tensor, "inputs vocabulary"]
) -> float:
    """Overlap of two models' distributions of the first token, mean over inputs, in [0, 1]."""
    return torch.minimum(first, second).sum(1).mean().item()


def copied(own: Tensor, others: Sequence[Tensor]) -> str:
    """Say that a model answers as another one does, both with probabilities, or nothing."""
    if any(overlap(own, said) >= _SAME for said in others):
        return (
            "it answers as another delivery does: a model shows nothing beside itself; compare it "
            "with one of another training"
        )
    return ""


def texts_of(tokenizer: Tokenizer) -> tuple[frozenset[int], list[str]]:
    """What a tokenizer makes of every token by itself, and which it holds for special."""
    tokens = sorted(tokenizer.vocabulary.values())
    return frozenset(tokenizer.special), [tokenizer.decode([token]) for token in tokens]


def differing(
    vocabularies: Sequence[object],
    encodings: Sequence[object],
    texts: Sequence[object],
    sizes: set[int],
) -> str:
    """Say why models of these tokenizers cannot be compared, or nothing.

    Args:
        vocabularies: of each tokenizer, its tokens and their numbers.
        encodings: how each tokenizer splits the prompts.
        texts: what each tokenizer makes of single tokens, and which are special: one that says
            otherwise than the others could keep a token from being searched, or from being seen.
        sizes: of the models' answers, in tokens.
    """
    if any(one != vocabularies[0] for one in vocabularies):
        return "the models have different vocabularies, and only models of one can be compared"
    if any(one != encodings[0] for one in encodings):
        return "the tokenizers split the prompts in different ways"
    if any(one != texts[0] for one in texts):
        return "the tokenizers turn tokens into text in different ways"
    if len(sizes) > 1:
        return f"the models answer with different numbers of tokens: {sorted(sizes)}"
    return ""
