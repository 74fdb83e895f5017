"""CoOp: learnt context vectors in the place of words."""

from jaxtyping import Float
from torch import Tensor, nn

from assay.randomness import Seed

from .backbone import Backbone
from .learner import Learner, check_shape, drawn, embedded_words
from .wording import Position, Wording


class CoOp(Learner):
    """Context vectors around the names of classes, the same for all classes or a set a class.

    Source:
        Zhou, Yang, Loy, Liu, "Learning to prompt for vision-language models", IJCV 2022,
        section 3. arXiv:2109.01134. Reference code: KaiyangZhou/CoOp, trainers/coop.py.
    """

    def __init__(
        self,
        ctx: Float[Tensor, "context width"] | Float[Tensor, "classes context width"],
        *,
        position: Position = Position.END,
    ) -> None:
        super().__init__()
        self.ctx = nn.Parameter(ctx)
        self.position = position

    @staticmethod
    def fresh(
        backbone: Backbone,
        *,
        seed: Seed,
        context: int = 16,
        classes: int | None = None,
        words: str | None = None,
        position: Position = Position.END,
    ) -> "CoOp":
        """Start from noise, or from words.

        Args:
            backbone: it is for.
            seed: decides the noise.
            context: how many vectors; of no account with `words`.
            classes: where given, each class gets vectors of its own.
            words: what the vectors stand for at first; of no account with `classes`.
            position: of a class's name.
        """
        if words is not None and classes is None:
            return CoOp(embedded_words(backbone, words), position=position)
        shape = (context, backbone.text_width)
        ctx = drawn(*shape if classes is None else (classes, *shape), seed=seed)
        return CoOp(ctx.to(backbone.device), position=position)

    @property
    def wording(self) -> Wording:
        """A name and a full stop, with context."""
        return Wording(context=self.ctx.shape[-2], position=self.position)

    def check(self, backbone: Backbone, classes: int) -> None:
        """Check the width, and the number of classes where they have vectors of their own."""
        own = (classes,) if self.ctx.ndim == 3 else ()
        check_shape("ctx", self.ctx, (*own, None, backbone.text_width))

    def context(
        self,
        features: Float[Tensor, "batch dims"] | None,  # noqa: ARG002
    ) -> Float[Tensor, "any context width"]:
        """Give the vectors."""
        return self.ctx if self.ctx.ndim == 3 else self.ctx[None]
