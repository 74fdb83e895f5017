"""VPT: learnt tokens among those of the image."""

from collections.abc import Iterable, Sequence

from jaxtyping import Float
from torch import Tensor, nn

from assay.errors import InputError
from assay.randomness import Seed, child

from .backbone import Backbone
from .learner import Learner, check_shape, drawn
from .wording import PHOTO, Wording


class VPT(Learner):
    """Prompts of the image encoder: before its first layer (shallow), or before more (deep).

    Texts are fixed: "a photo of a NAME.".

    Source:
        Jia et al., "Visual prompt tuning", ECCV 2022, section 3.2. arXiv:2203.12119. For CLIP:
        Khattak et al., "MaPLe", CVPR 2023, reference code muzairkhattak/multimodal-prompt-learning,
        trainers/vpt.py; prompts stand behind the image's own tokens, and those of a layer replace
        what the layer before made of them.
    """

    def __init__(self, prompts: Sequence[Tensor]) -> None:
        """Take the prompts, one set a layer from the first on."""
        super().__init__()
        self.prompts = nn.ParameterList(prompts)

    @staticmethod
    def fresh(backbone: Backbone, *, seed: Seed, context: int = 8, depth: int = 1) -> "VPT":
        """Start from noise, in the first `depth` layers."""
        shape = (context, backbone.image_width)
        sets = [drawn(*shape, seed=child(seed, layer)) for layer in range(depth)]
        return VPT([each.to(backbone.device) for each in sets])

    @property
    def wording(self) -> Wording:
        """Words alone."""
        return Wording(template=PHOTO)

    def check(self, backbone: Backbone, classes: int) -> None:  # noqa: ARG002
        """Check the width, and that no prompts are for layers that there are not."""
        if not 1 <= len(self.prompts) <= backbone.image_layers:
            raise InputError(
                f"expected visual prompts for 1 to {backbone.image_layers} layers, as the backbone "
                f"has them, got {len(self.prompts)}"
            )
        context = self.prompts[0].shape[0]
        for layer, prompt in enumerate(self.prompts):
            known = None if layer == 0 else context
            check_shape(f"visual prompt {layer}", prompt, (known, backbone.image_width))

    def visual(self) -> tuple[Float[Tensor, "context width"], ...]:
        """Give the prompts."""
        return tuple(self.prompts)

    def of_texts(self) -> Iterable[nn.Parameter]:
        """Depend on nothing."""
        return ()
