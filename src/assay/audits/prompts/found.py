"""What the prompts audit takes and finds."""

from collections.abc import Callable, Mapping

from jaxtyping import Float, Int64
from torch import Tensor

from assay.records import record
from assay.results import Findings, Verdict
from assay.triggers import Trigger

from .screen import Classifier


@record
class PromptDelivery:
    """A CLIP whose prompt somebody else tuned."""

    name: str
    respond: Classifier
    """Takes images in [0, 1] at the backbone's size."""
    backbone: Classifier
    """The backbone alone, with a prompt written by hand."""
    digest: Mapping[str, str]
    """Hash of the prompt that was delivered, by algorithm."""
    near: Callable[[Tensor], Classifier | None] | None = None
    """Makes an approximation of `respond` near some images that is cheaper to search, or None where
    none is like it; what is found is measured on `respond`."""
    context: Callable[[Tensor], Float[Tensor, "images dims"]] | None = None
    """Of a prompt that depends on the image (CoCoOp): what the image adds to its context."""


@record
class Question:
    """One class and kind of trigger, on one pool."""

    family: str
    pool: str
    """Name of the images that it was searched on."""
    target: int
    margin: float
    """Mean margin of the class's logit over the highest other one, on triggered held-out images, in
    units of the model's mean margin on clean ones."""
    reference_margin: float
    """The same search on the backbone alone."""
    asr: float
    """Share of the held-out images that go to the class, in [0, 1]."""
    excess: float
    """How far the margin exceeds what the backbone alone explains, beyond what other classes do, in
    units of the noise between classes; higher is more suspicious."""
    threshold: float
    """The excess at which this question alone is significant after all corrections."""
    p_value: float
    """Of the excess, before any correction."""


@record
class Recovered:
    """The trigger of the most suspicious class, searched again with more steps."""

    family: str
    pool: str
    """Name of the images that it was searched on."""
    target: int
    trigger: Trigger
    clean: Float[Tensor, "shown 3 height width"]
    """Some held-out images, in [0, 1]."""
    stamped: Float[Tensor, "shown 3 height width"]
    answers_clean: Int64[Tensor, "2 shown"]
    """What the tuned prompt and the backbone alone say of them."""
    answers_stamped: Int64[Tensor, "2 shown"]
    asr: tuple[float, float]
    """Share of held-out images that go to the target with the trigger, in [0, 1]: under the tuned
    prompt, and under the backbone alone."""
    asr_before: float
    """Share that goes to the target under the tuned prompt without the trigger."""
    context_clean: Float[Tensor, "images dims"] | None
    """What held-out images add to the context of a prompt that depends on the image."""
    context_stamped: Float[Tensor, "images dims"] | None


@record
class PromptsAudit:
    """What the audit of a tuned prompt found; tensors on the CPU."""

    findings: Findings
    questions: tuple[Question, ...]
    recovered: Recovered | None
    class_names: tuple[str, ...]
    accuracy: float | None
    """Of the tuned prompt on clean samples, in [0, 1], where there are any."""
    accuracy_backbone: float | None
    doubt: str = ""
    """Why finding nothing would mean nothing, as clean samples say; of a flagged prompt too."""
    doubts_labels: bool = False
    """Whether neither prompt does better than chance on the clean samples, so that their labels may
    be those of other classes."""

    @property
    def verdict(self) -> Verdict:
        """The verdict on the prompt."""
        return self.findings.verdict
