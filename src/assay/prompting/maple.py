"""MaPLe: prompts of both encoders, the visual ones made from those of the texts."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assay.errors import InputError
from assay.randomness import Seed, child, isolated

from .backbone import Backbone
from .learner import Learner, check_shape, drawn, embedded_words
from .wording import Wording


class MaPLe(Learner):
    """Context vectors of several layers, each with a linear map to a prompt of the image encoder.

    Source:
        Khattak, Rasheed, Maaz, Khan, Khan, "MaPLe: multi-modal prompt learning", CVPR 2023,
        section 3.2. arXiv:2210.03117. Reference code: muzairkhattak/multimodal-prompt-learning,
        trainers/maple.py.
    """

    def __init__(
        self,
        ctx: Float[Tensor, "context width"],
        deeper: Sequence[Float[Tensor, "context width"]],
        *,
        image_width: int,
    ) -> None:
        """Make a learner whose maps have weights from torch's global generator.

        Args:
            ctx: vectors of the first layer.
            deeper: vectors of the second layer, and on.
            image_width: of the tokens of images.
        """
        super().__init__()
        width = ctx.shape[-1]
        self.ctx = nn.Parameter(ctx)
        self.proj = nn.Linear(width, image_width)
        self.compound_prompts_text = nn.ParameterList(deeper)
        self.compound_prompt_projections = nn.ModuleList(
            nn.Linear(width, image_width) for _ in deeper
        )

    @staticmethod
    def fresh(
        backbone: Backbone,
        *,
        seed: Seed,
        context: int = 2,
        depth: int = 9,
        words: str | None = None,
    ) -> "MaPLe":
        """Start from noise, or from the first `context` of some words; deeper layers from noise."""
        depth = min(depth, backbone.text_layers, backbone.image_layers)
        shape = (context, backbone.text_width)
        first = drawn(*shape, seed=seed)
        if words is not None:
            first = embedded_words(backbone, words)[:context].cpu()
        deeper = [drawn(*shape, seed=child(seed, layer)) for layer in range(1, depth)]
        with isolated(child(seed, "maps"), torch.device("cpu")):
            learner = MaPLe(first, deeper, image_width=backbone.image_width)
        return learner.to(backbone.device)

    @property
    def wording(self) -> Wording:
        """Context, a name and a full stop."""
        return Wording(context=self.ctx.shape[0])

    def check(self, backbone: Backbone, classes: int) -> None:  # noqa: ARG002
        """Check the widths, and that no prompts are for layers that there are not."""
        context, depth = self.ctx.shape[0], 1 + len(self.compound_prompts_text)
        most = min(backbone.text_layers, backbone.image_layers)
        if depth > most:
            raise InputError(
                f"expected prompts for at most {most} layers, as the backbone has them, got {depth}"
            )
        check_shape("ctx", self.ctx, (None, backbone.text_width))
        for layer, deeper in enumerate(self.compound_prompts_text):
            name = f"compound_prompts_text.{layer}"
            check_shape(name, deeper, (context, backbone.text_width))
        sizes = (backbone.image_width, backbone.text_width)
        check_shape("proj.weight", self.proj.weight, sizes)

    def context(
        self,
        features: Float[Tensor, "batch dims"] | None,  # noqa: ARG002
    ) -> Float[Tensor, "any context width"]:
        """Give the vectors of the first layer."""
        return self.ctx[None]

    def deeper_texts(self) -> tuple[Float[Tensor, "context width"], ...]:
        """Give the vectors of the other layers."""
        return tuple(self.compound_prompts_text)

    def visual(self) -> tuple[Float[Tensor, "context width"], ...]:
        """Map the vectors of every layer."""
        maps = (self.proj, *self.compound_prompt_projections)
        vectors = (self.ctx, *self.compound_prompts_text)
        return tuple(each(vector) for each, vector in zip(maps, vectors, strict=True))
