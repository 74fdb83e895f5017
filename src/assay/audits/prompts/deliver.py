"""From a prompted CLIP to what the audit asks: the prompt, and the backbone without it."""

from collections.abc import Mapping

from jaxtyping import Float
from torch import Tensor

from assay.prompting import CoCoOp, Linearised, Prompted, ZeroShot

from .found import PromptDelivery

_SOME = 256  # images that a prompt which depends on them is linearised around


def deliver(
    prompted: Prompted,
    images: Float[Tensor, "images 3 height width"],
    *,
    name: str = "prompt",
    digest: Mapping[str, str] | None = None,
) -> PromptDelivery:
    """Lay out a prompt and its backbone.

    Args:
        prompted: its learner should be frozen: then static texts are encoded once.
        images: of the pool, on the prompt's device; CoCoOp is linearised around them.
        name: of the prompt.
        digest: of what was delivered, by algorithm.
    """
    depends = isinstance(prompted.learner, CoCoOp)
    return PromptDelivery(
        name=name,
        respond=prompted,
        backbone=Prompted(prompted.backbone, ZeroShot(), prompted.class_names).eval(),
        digest=digest or {},
        quick=Linearised(prompted, images[:_SOME]) if depends else None,
        context=prompted.context_shift if depends else None,
    )
