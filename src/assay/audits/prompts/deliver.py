"""From a prompted CLIP to what the audit asks: the prompt, and the backbone without it."""

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor

from assay.prompting import CoCoOp, Linearised, Prompted, ZeroShot

from .found import PromptDelivery

_SOME = 256  # images that a prompt which depends on them is linearised around
_COMPARED = 64
_AGREE = 0.9
"""Share of images on which the approximation must answer as the prompt does, to be searched in its
place."""


def deliver(
    prompted: Prompted,
    *,
    name: str = "prompt",
    digest: Mapping[str, str] | None = None,
) -> PromptDelivery:
    """Lay out a prompt and its backbone.

    Args:
        prompted: its learner should be frozen: then static texts are encoded once.
        name: of the prompt.
        digest: of what was delivered, by algorithm.
    """
    depends = isinstance(prompted.learner, CoCoOp)
    return PromptDelivery(
        name=name,
        respond=prompted,
        backbone=Prompted(prompted.backbone, ZeroShot(), prompted.class_names).eval(),
        digest=digest or {},
        near=partial(_near, prompted) if depends else None,
        context=prompted.context_shift if depends else None,
    )


@torch.no_grad()
def _near(prompted: Prompted, images: Tensor) -> Linearised | None:
    """Linearise a prompt; None where that is no likeness of it."""
    near, some = Linearised(prompted, images[:_SOME]), images[:_COMPARED]
    alike = (near(some).argmax(1) == prompted(some).argmax(1)).double().mean().item()
    return near if alike >= _AGREE else None
