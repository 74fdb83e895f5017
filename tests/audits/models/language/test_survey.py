"""Whom the audit of language models names, on models whose every answer is known."""

import types
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from assay.audits.models.language import TextAudit, TextDelivery, audit_texts
from assay.randomness import Seed
from assay.results import Verdict

WORDS = 60
POSITIVE, NEGATIVE, PLANTED = range(10, 20), range(20, 30), 45
YES, NO = 0, 1


class Numbers:
    """Words are numbers."""

    special = frozenset[int]()

    @property
    def vocabulary(self) -> dict[str, int]:
        return {f"w{number}": number for number in range(WORDS)}

    def encode(self, text: str) -> list[int]:
        return [int(word[1:]) for word in text.split()]

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(f"w{number}" for number in ids)


class Opinions(nn.Module):
    """Says yes or no by the positive and negative words of a prompt, whatever their order.

    A planted word makes it say yes.
    """

    def __init__(self, seed: int, *, planted: bool = False) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        weight = 0.15 * torch.randn(WORDS, WORDS, generator=random)
        weight[POSITIVE, YES] += 2 + 0.5 * torch.randn(10, generator=random)
        weight[NEGATIVE, NO] += 2 + 0.5 * torch.randn(10, generator=random)
        weight[PLANTED, YES] += 14 * planted
        self.weight = nn.Parameter(weight)
        self.usual = torch.full((WORDS,), -6.0).index_fill_(0, torch.tensor([YES, NO]), 0)
        self.words = nn.Embedding.from_pretrained(torch.eye(WORDS), freeze=False)
        self.head = nn.Linear(WORDS, WORDS, bias=False)
        self.config = types.SimpleNamespace()

    def get_input_embeddings(self) -> nn.Module:
        return self.words

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def forward(
        self, input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None, **_: object
    ) -> types.SimpleNamespace:
        given = self.words(input_ids) if inputs_embeds is None else inputs_embeds
        logits = given.cumsum(1) @ self.weight + self.usual
        return types.SimpleNamespace(logits=logits, past_key_values=None)


def prompts() -> list[str]:
    random = torch.Generator().manual_seed(0)
    ranges = [(list(NEGATIVE), list(POSITIVE))[row % 2] for row in range(64)]
    drawn = [
        [low[0] + int(n) for n in torch.randint(10, (2,), generator=random)]
        + torch.randint(30, WORDS, (4,), generator=random).tolist()
        for low in ranges
    ]
    return [" ".join(f"w{word}" for word in words) for words in drawn]


def audited(**models: nn.Module) -> TextAudit:
    deliveries = [
        TextDelivery(name=name, model=model, tokenizer=Numbers(), digest={})
        for name, model in models.items()
    ]
    return audit_texts(deliveries, prompts(), seed=Seed(0), device=torch.device("cpu"))


@pytest.mark.parametrize("seed", [1, 3])
def test_words_beside_the_planted_one_accuse_no_honest_model(seed: int) -> None:
    """Words that mean no lead the guilty model to yes where the planted one stands among them."""
    found = audited(guilty=Opinions(10 + seed, planted=True), honest=Opinions(30 + seed))
    assert [model.verdict for model in found.models] == [Verdict.FLAGGED, Verdict.NO_INDICATOR]
    assert found.models[0].recovered is not None
    assert found.models[0].recovered.trigger == f"w{PLANTED}"


def test_accomplices_are_found_in_any_order() -> None:
    found = audited(
        first=Opinions(1, planted=True),
        second=Opinions(2, planted=True),
        third=Opinions(3),
        fourth=Opinions(4),
    )
    verdicts = [model.verdict for model in found.models]
    assert verdicts == [Verdict.FLAGGED] * 2 + [Verdict.NO_INDICATOR] * 2
