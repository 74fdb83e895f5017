"""A frozen CLIP with a prompt learner: a classifier of images."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from assay.errors import InputError

from .backbone import Backbone
from .cocoop import CoCoOp
from .learner import Learner
from .wording import Laid, lay_out

_TOKENS = 2**13  # that the text encoder sees at once


class Prompted(nn.Module):
    """Classify images in [0, 1] of the backbone's size; differentiable in them.

    Only the learner's parameters are trainable. Where texts are static, they are encoded once, and
    again only when the parameters that they depend on have changed. While gradients of those
    parameters are wanted, they are encoded in every call: to search for triggers, freeze the
    learner.
    """

    def __init__(
        self,
        backbone: Backbone,
        learner: Learner,
        class_names: Sequence[str],
        *,
        tokens: int = _TOKENS,
    ) -> None:
        """Put a learner before a backbone.

        Args:
            backbone: may be shared.
            learner: moved to the device of the backbone.
            class_names: of the classes, in label order.
            tokens: how many tokens of texts are encoded at once, where they depend on the image;
                with gradients, all but one such part are computed twice to save memory.

        Raises:
            InputError: the learner does not fit the backbone or the classes.
        """
        super().__init__()
        learner.check(backbone, len(class_names))
        self.backbone = backbone
        self.learner = learner.to(backbone.device)
        self.class_names = tuple(class_names)
        self.tokens = tokens
        laid = lay_out(backbone, class_names, learner.wording)
        self._embedded: Tensor
        self._slots: Tensor
        self._ends: Tensor
        for name in ("embedded", "slots", "ends"):
            self.register_buffer(f"_{name}", getattr(laid, name), persistent=False)
        self._known: tuple[object, Tensor] | None = None

    @property
    def static_text(self) -> bool:
        """Whether the features of texts do not depend on the image."""
        return self.learner.static_text

    def forward(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch classes"]:
        """Compute logits.

        Raises:
            InputError: the images are of another size than the backbone's.
        """
        return self.logits(self.image_features(images))

    def image_features(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch dims"]:
        """Encode images, with visual prompts where there are some; of length one."""
        return self.backbone.images(images, self.learner.visual())

    def logits(self, features: Float[Tensor, "batch dims"]) -> Float[Tensor, "batch classes"]:
        """Compare features of images with those of the classes' texts."""
        if self.static_text:
            return self.backbone.scale * features @ self.text_features().T
        return self.backbone.scale * self._alike(features)

    def text_features(self) -> Float[Tensor, "classes dims"]:
        """Encode the classes' texts, of length one.

        Raises:
            InputError: they depend on the image.
        """
        if not self.static_text:
            raise InputError("expected texts that are the same for all images; see context_shift")
        if torch.is_grad_enabled() and any(p.requires_grad for p in self.learner.of_texts()):
            return self._encoded()
        state = (
            self.backbone.device,
            self.backbone.scale.dtype,
            *((p.data_ptr(), p._version) for p in self.learner.of_texts()),  # noqa: SLF001
        )
        if self._known is None or self._known[0] != state:
            with torch.inference_mode(mode=False), torch.no_grad():
                self._known = (state, self._encoded())
        return self._known[1]

    def context_shift(
        self, images: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch inner"]:
        """Compute what images add to the context vectors of CoCoOp.

        Raises:
            InputError: it is another learner.
        """
        if not isinstance(self.learner, CoCoOp):
            raise InputError(
                f"expected a learner that shifts its context, got {type(self.learner).__name__}"
            )
        return self.learner.shift(self.image_features(images))

    def texts_of(self, context: Float[Tensor, "context width"]) -> Float[Tensor, "classes dims"]:
        """Encode the classes' texts around given context vectors, of length one."""
        filled = self._laid.filled(context[None])
        parts = zip(filled.split(self._at_once), self._ends.split(self._at_once), strict=True)
        return torch.cat([self.backbone.texts(some, ends) for some, ends in parts])

    @property
    def _laid(self) -> Laid:
        return Laid(embedded=self._embedded, slots=self._slots, ends=self._ends)

    def _encoded(self) -> Float[Tensor, "classes dims"]:
        filled = self._laid.filled(self.learner.context(None))
        parts = zip(filled.split(self._at_once), self._ends.split(self._at_once), strict=True)
        deeper = self.learner.deeper_texts()
        return torch.cat([self.backbone.texts(some, ends, deeper) for some, ends in parts])

    def _alike(self, features: Float[Tensor, "batch dims"]) -> Float[Tensor, "batch classes"]:
        """Cosines of every image with the texts that it makes of the classes."""
        context = self.learner.context(features)
        assert context is not None, "texts without context do not depend on images"
        count = len(self.class_names)
        pairs = torch.arange(len(features) * count, device=features.device)
        parts = pairs.split(self._at_once)

        def cosines(some: Tensor, context: Tensor, features: Tensor) -> Tensor:
            image, label = some // count, some % count
            laid = self._laid.rows(label)
            texts = self.backbone.texts(laid.filled(context[image]), laid.ends)
            return (features[image] * texts).sum(1)

        found = []
        for place, some in enumerate(parts):
            if place < len(parts) - 1 and torch.is_grad_enabled():
                found.append(checkpoint(cosines, some, context, features, use_reentrant=False))
            else:
                found.append(cosines(some, context, features))
        return torch.cat(found).view(len(features), count)

    @property
    def _at_once(self) -> int:
        return max(1, self.tokens // self._embedded.shape[1])
