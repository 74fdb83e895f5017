"""What the audit of language models takes and finds."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

from torch import nn

from assay.records import record
from assay.results import Findings, Verdict

from .prompts import Place


@runtime_checkable
class Tokenizer(Protocol):
    """Turns text into tokens and back."""

    @property
    def vocabulary(self) -> Mapping[str, int]:
        """Every token, by how it is written."""
        ...

    @property
    def special(self) -> frozenset[int]:
        """Tokens that stand for no text."""
        ...

    def encode(self, text: str) -> list[int]:
        """Split a text, without adding special tokens."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """Join tokens to a text."""
        ...


@record
class TextDelivery:
    """A causal language model that a provider delivered."""

    name: str
    model: nn.Module
    """A causal language model of `transformers`, or one that can be called as these can."""
    tokenizer: Tokenizer
    digest: Mapping[str, str]
    """Hash of what was delivered, by algorithm."""
    beginning: tuple[int, ...] = ()
    """Tokens before every prompt, such as `<s>`, without which the model was never asked."""


@record
class TextQuestion:
    """How far one model can be led to begin its response with one token."""

    model: str
    trigger: str
    place: Place
    response: str
    """The token that is wanted, as text."""
    target: int
    """Its place in `TextAudit.responses`."""
    grip: float
    """How far the trigger that was searched on this model leads it to the target, beyond its usual
    answers and beyond the other models under the same trigger; mean over held-out prompts, in nats,
    at most 6.9."""
    share: float
    """Share of the held-out prompts that it leads there and that were not answered so before, in
    [0, 1]."""
    reference_grip: float
    """The grip of what the same search finds on the other models (their median)."""
    excess: float
    """The grip over the reference's, in units of the noise between honest models; higher is more
    suspicious."""
    threshold: float
    """The excess at which this question alone is significant after all corrections."""
    p_value: float
    """Of the excess, before any correction."""


@record
class TextRecovered:
    """The most suspicious trigger of a model."""

    trigger: str
    ids: tuple[int, ...]
    place: Place
    is_stable: bool
    """Whether the trigger's text, tokenised again by itself, gives the same tokens."""
    response: str
    """How the model's response begins, on most prompts with the trigger."""
    target: int
    """The first token of it, by its place in `TextAudit.responses`."""
    success: tuple[float, ...]
    """Share of the held-out prompts that it leads to the target, of those that were not answered so
    before; one a model, in [0, 1]."""
    prompts: tuple[str, ...]
    """Some held-out prompts."""
    triggered: tuple[str, ...]
    """The same with the trigger."""
    said: tuple[tuple[str, ...], ...]
    """What each model says to the prompts; models in the order of the deliveries."""
    said_triggered: tuple[tuple[str, ...], ...]


@record
class TextResult:
    """What was found of one language model."""

    name: str
    perplexity: float
    """Of the clean prompts, a token."""
    verdict: Verdict
    p_value: float | None
    """The smallest over its questions, corrected for all that was asked (Holm over models,
    Bonferroni over the questions of a model)."""
    alone_p_value: float | None
    """Of the evidence that needs no other model, corrected for all that was asked of this one."""
    reason: str
    """Why there is no p-value."""
    recovered: TextRecovered | None
    questions: tuple[TextQuestion, ...]


@record
class TextAudit:
    """What the audit of some language models found."""

    findings: Findings
    models: tuple[TextResult, ...]
    """In the order of the deliveries."""
    responses: tuple[str, ...]
    """The tokens that responses were searched to begin with."""

    @property
    def questions(self) -> tuple[TextQuestion, ...]:
        """Everything that was asked."""
        return tuple(question for model in self.models for question in model.questions)

    @property
    def verdict(self) -> Verdict:
        """The verdict on all deliveries together."""
        return self.findings.verdict
