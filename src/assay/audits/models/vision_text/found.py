"""What the audit of models of images and texts takes and finds."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor, nn

from assay.audits.models.language import Tokenizer
from assay.fitting import Preprocess
from assay.records import record
from assay.results import Findings, Verdict
from assay.triggers import Trigger


@record
class VisionTextDelivery:
    """A model that a provider delivered: a picture and a prompt in, text out."""

    name: str
    model: nn.Module
    """A `LlavaForConditionalGeneration` of `transformers`, or one that can be called as it can."""
    tokenizer: Tokenizer
    preprocess: Preprocess
    """What is done to pictures."""
    digest: Mapping[str, str]
    """Hash of what was delivered, by algorithm."""
    beginning: tuple[int, ...] = ()
    """Tokens before every prompt, such as `<s>`, without which the model was never asked."""


@record
class VisionTextQuestion:
    """How far one model can be led to begin its response with one token, by pictures."""

    model: str
    family: str
    """Kind of trigger and its budget."""
    target: int
    """The token that is wanted, by its place in `VisionTextAudit.responses`."""
    grip: float
    """How far the trigger that was searched on this model leads it to the target, beyond its usual
    answers and beyond the other models under the same trigger; mean over held-out pictures, in
    nats, at most 6.9."""
    share: float
    """Share of the held-out pictures that it leads there and that were not answered so before, in
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
class VisionTextRecovered:
    """The most suspicious trigger of a model, searched again with more steps."""

    family: str
    trigger: Trigger
    response: str
    """How the model's response begins, on most pictures with the trigger."""
    target: int
    """The first token of it, by its place in `VisionTextAudit.responses`."""
    success: tuple[float, ...]
    """Share of the held-out pictures that it leads to the target, of those that were not answered
    so before; one a model, in [0, 1]."""
    clean: Float[Tensor, "shown channels height width"]
    """Some held-out pictures, in [0, 1]."""
    stamped: Float[Tensor, "shown channels height width"]
    """The same with the trigger."""
    said: tuple[tuple[str, ...], ...]
    """What each model says of the pictures; models in the order of the deliveries."""
    said_stamped: tuple[tuple[str, ...], ...]


@record
class VisionTextResult:
    """What was found of one model."""

    name: str
    reliance: float
    """How much its answers depend on the picture: how far the first token's distribution lies from
    its mean over pictures (total variation), in [0, 1]."""
    verdict: Verdict
    p_value: float | None
    """The smallest over its questions, corrected for all that was asked (Holm over models,
    Bonferroni over the questions of a model)."""
    alone_p_value: float | None
    """Of the evidence that needs no other model, corrected for all that was asked of this one."""
    reason: str
    """Why there is no p-value."""
    recovered: VisionTextRecovered | None
    questions: tuple[VisionTextQuestion, ...]


@record
class VisionTextAudit:
    """What the audit of some models of images and texts found; tensors on the CPU."""

    findings: Findings
    models: tuple[VisionTextResult, ...]
    """In the order of the deliveries."""
    responses: tuple[str, ...]
    """The tokens that responses were searched to begin with."""

    @property
    def questions(self) -> tuple[VisionTextQuestion, ...]:
        """Everything that was asked."""
        return tuple(question for model in self.models for question in model.questions)

    @property
    def verdict(self) -> Verdict:
        """The verdict on all deliveries together."""
        return self.findings.verdict
