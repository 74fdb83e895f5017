"""What the models audit takes and finds."""

from collections.abc import Mapping

from jaxtyping import Float, Int64
from torch import Tensor, nn

from assay.fitting import Preprocess
from assay.records import record
from assay.results import Findings, Verdict
from assay.triggers import Trigger


@record
class Delivery:
    """A model that a provider delivered."""

    name: str
    model: nn.Module
    """A classifier; its outputs are logits, or an object with `logits`."""
    preprocess: Preprocess
    digest: Mapping[str, str]
    """Hash of what was delivered, by algorithm."""


@record
class Question:
    """One candidate trigger of one model, beside the same search on the others."""

    model: str
    family: str
    """Kind of trigger and its budget; or that all kinds are taken together, and then the margins
    and `asr` are those of the kind whose trigger works on most samples."""
    source: int | None
    """Class of the images that it is put on; None for all but the target."""
    target: int
    margin: float
    """Mean margin of the target's logit over the highest other one, on triggered held-out samples,
    in units of the model's own mean margin on clean ones. Of encoders: how much less triggered
    samples differ in what the model sees than clean ones do (`assay.triggers.search.alike`), times
    `asr`."""
    asr: float
    """Share of those samples that go to the target, in [0, 1]."""
    reference_margin: float
    """The same of the trigger that was searched on the other models (their median)."""
    excess: float
    """How far the margin exceeds the reference's, beyond what other candidates of the same kind do,
    in units of the noise between honest models; higher is more suspicious."""
    threshold: float
    """The excess at which this question alone is significant after all corrections."""
    p_value: float
    """Of the excess, before any correction."""
    alone: float | None
    """The same without a reference: how far the margin exceeds those of the model's own other
    candidates, in units of the noise within honest models. None where kinds are taken together."""
    alone_p_value: float | None


@record
class Recovered:
    """The most suspicious trigger of a model, searched again with more steps."""

    family: str
    source: int | None
    target: int
    trigger: Trigger
    clean: Float[Tensor, "shown channels height width"]
    """Some held-out samples, in [0, 1]."""
    stamped: Float[Tensor, "shown channels height width"]
    """The same with the trigger."""
    labels: Int64[Tensor, " shown"]
    answers_clean: Int64[Tensor, "models shown"]
    """What each model says of them; models in the order of the deliveries."""
    answers_stamped: Int64[Tensor, "models shown"]
    asr: tuple[float, ...]
    """Share of held-out samples that the trigger leads to the target, one a model, in [0, 1]."""
    asr_tuned: float | None
    """Of this model after a short fine-tuning on clean samples, in [0, 1]; None where it cannot be
    trained."""
    cka: Mapping[str, tuple[float, float]]
    """By relative depth: linear CKA between this model and its reference on clean and on triggered
    samples, in [0, 1]."""


@record
class ModelResult:
    """What was found of one model."""

    name: str
    accuracy: float
    """On the clean samples, in [0, 1]."""
    verdict: Verdict
    p_value: float | None
    """The smallest over its questions, corrected for all that was asked (Holm over models,
    Bonferroni over the questions of a model)."""
    alone_p_value: float | None
    """Of the evidence that needs no other model, corrected for all that was asked of this one."""
    reason: str
    """Why there is no p-value."""
    recovered: Recovered | None
    """None where nothing could be searched."""
    questions: tuple[Question, ...]
    """Everything that was asked about it."""


@record
class ModelsAudit:
    """What the audit of some deliveries found; tensors on the CPU."""

    findings: Findings
    models: tuple[ModelResult, ...]
    """In the order of the deliveries."""
    class_names: tuple[str, ...]

    @property
    def questions(self) -> tuple[Question, ...]:
        """Everything that was asked."""
        return tuple(question for model in self.models for question in model.questions)

    @property
    def verdict(self) -> Verdict:
        """The verdict on all deliveries together."""
        return self.findings.verdict
