"""CoCoOp: context vectors that are shifted by the image."""

from collections import OrderedDict

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assay.randomness import Seed, child, isolated

from .backbone import Backbone
from .learner import Learner, check_shape, drawn, embedded_words
from .wording import Wording


class CoCoOp(Learner):
    """Context vectors, and a small network that adds a vector of the image to each of them.

    Source:
        Zhou, Yang, Loy, Liu, "Conditional prompt learning for vision-language models", CVPR 2022,
        section 3.2. arXiv:2203.05557. Reference code: KaiyangZhou/CoOp, trainers/cocoop.py.
    """

    static_text = False

    def __init__(self, ctx: Float[Tensor, "context width"], *, dims: int, hidden: int) -> None:
        """Make a learner whose network has weights from torch's global generator.

        Args:
            ctx: the vectors.
            dims: of the features of images.
            hidden: width of the network.
        """
        super().__init__()
        self.ctx = nn.Parameter(ctx)
        self.meta_net = nn.Sequential(
            OrderedDict(
                linear1=nn.Linear(dims, hidden),
                relu=nn.ReLU(inplace=True),
                linear2=nn.Linear(hidden, ctx.shape[-1]),
            )
        )

    @staticmethod
    def fresh(
        backbone: Backbone, *, seed: Seed, context: int = 4, words: str | None = None
    ) -> "CoCoOp":
        """Start from noise, or from words; the network is a sixteenth as wide as the features."""
        shape = (context, backbone.text_width)
        ctx = drawn(*shape, seed=seed) if words is None else embedded_words(backbone, words)
        with isolated(child(seed, "network"), torch.device("cpu")):
            learner = CoCoOp(ctx.cpu(), dims=backbone.dims, hidden=max(1, backbone.dims // 16))
        return learner.to(backbone.device)

    @property
    def wording(self) -> Wording:
        """Context, a name and a full stop."""
        return Wording(context=self.ctx.shape[0])

    def check(self, backbone: Backbone, classes: int) -> None:  # noqa: ARG002
        """Check the widths of the vectors and of the network."""
        first, second = (
            self.meta_net.get_parameter("linear1.weight"),
            self.meta_net.get_parameter("linear2.weight"),
        )
        check_shape("ctx", self.ctx, (None, backbone.text_width))
        check_shape("meta_net.linear1.weight", first, (None, backbone.dims))
        check_shape("meta_net.linear2.weight", second, (backbone.text_width, len(first)))

    def shift(self, features: Float[Tensor, "batch dims"]) -> Float[Tensor, "batch width"]:
        """Compute what an image adds to every context vector."""
        return self.meta_net(features)

    def context(
        self, features: Float[Tensor, "batch dims"] | None
    ) -> Float[Tensor, "any context width"]:
        """Give the vectors of each image."""
        assert features is not None, "the prompts depend on the images"
        return self.ctx + self.shift(features)[:, None]
