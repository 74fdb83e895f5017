"""Language models that cannot be compared."""

import pytest
import torch

from assay.audits.models.language.preflight import TextPreflight, TextSaid


def said(peak: float, seed: int = 0) -> TextSaid:
    """Answers of a model to 40 prompts; the higher the peak, the surer it is."""
    random = torch.Generator().manual_seed(seed)
    answers = peak * torch.nn.functional.one_hot(torch.arange(40) % 7, 100)
    noise = 0.1 * torch.randn(40, 100, generator=random)
    return TextSaid(first=(answers + noise).softmax(1), perplexity=10.0)


@pytest.mark.parametrize(("peak", "untrained"), [(0.0, True), (2.0, True), (8.0, False)])
def test_an_untrained_model_is_not_judged(peak: float, untrained: bool) -> None:
    why = TextPreflight().unfit([said(peak), said(8.0, seed=1)], 0, prompts=40)
    assert ("untrained" in why) == untrained, why
    assert bool(why) == untrained


def test_models_of_another_task_are_not_judged() -> None:
    own = said(8.0)
    shuffled = TextSaid(first=own.first.roll(50, 1), perplexity=10.0)
    assert "another task" in TextPreflight().unfit([own, shuffled], 0, prompts=40)


def test_few_prompts_or_broken_answers_judge_nobody() -> None:
    assert "32 different prompts" in TextPreflight().unfit([said(8.0)], 0, prompts=31)
    broken = TextSaid(first=torch.full((40, 100), torch.nan), perplexity=10.0)
    assert "NaN" in TextPreflight().unfit([broken, said(8.0)], 0, prompts=40)
    assert "as another" in TextPreflight().unfit([said(8.0), said(8.0)], 0, prompts=40)
