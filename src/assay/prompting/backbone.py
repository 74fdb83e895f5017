"""A frozen CLIP, taken apart where prompts go in."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from assay.errors import InputError

if TYPE_CHECKING:
    from transformers import CLIPModel

Encode = Callable[[str], Sequence[int]]
"""Splits a text into tokens, without a beginning and an end."""


class Backbone(nn.Module):
    """A `transformers.CLIPModel` whose encoders take prompts; frozen, and left as it is otherwise.

    Source:
        Radford et al., "Learning transferable visual models from natural language supervision",
        ICML 2021. arXiv:2103.00020. Where prompts go in: the reference code of the learners, see
        the classes beside this one.
    """

    def __init__(
        self,
        model: "CLIPModel",
        encode: Encode,
        *,
        start: int,
        end: int,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        """Freeze a model, in place.

        Args:
            model: any size of patches, images, texts and layers.
            encode: its tokenizer.
            start: token that begins a text.
            end: token that ends a text, at which the text's features are taken.
            mean: of images in [0, 1], one a channel.
            std: likewise.

        Raises:
            InputError: the parts do not fit each other.
        """
        super().__init__()
        config: Any = model.config
        texts, images = config.text_config, config.vision_config
        for name, token in {"start": start, "end": end}.items():
            if not 0 <= token < texts.vocab_size:
                raise InputError(
                    f"expected a {name} token in [0, {texts.vocab_size}), as the model has them, "
                    f"got {token}"
                )
        if not len(mean) == len(std) == images.num_channels == 3:
            raise InputError(
                f"expected a model of three channels, and a mean and a deviation for each, got "
                f"{images.num_channels} channels, {len(mean)} and {len(std)}"
            )
        self.model = model.requires_grad_(requires_grad=False).eval()
        self.encode, self.start, self.end = encode, start, end
        self.size: int = images.image_size
        self.longest: int = texts.max_position_embeddings
        self.text_width: int = texts.hidden_size
        self.image_width: int = images.hidden_size
        self.text_layers: int = texts.num_hidden_layers
        self.image_layers: int = images.num_hidden_layers
        self.dims: int = config.projection_dim
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1), persistent=False)

    def train(self, mode: bool = True) -> "Backbone":  # noqa: ARG002, FBT001, FBT002
        """Stay in evaluation mode."""
        return super().train(mode=False)

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.mean.device

    @property
    def scale(self) -> Float[Tensor, ""]:
        """What cosines are multiplied by to give logits."""
        return self.model.logit_scale.exp()

    def embed(self, tokens: Int64[Tensor, "*texts tokens"]) -> Float[Tensor, "*texts tokens width"]:
        """Look tokens up; without their positions."""
        return self.model.text_model.embeddings.token_embedding(tokens)

    def texts(
        self,
        embedded: Float[Tensor, "texts tokens width"],
        ends: Int64[Tensor, " texts"],
        deeper: Sequence[Float[Tensor, "context width"]] = (),
    ) -> Float[Tensor, "texts dims"]:
        """Encode texts that are embedded already.

        Args:
            embedded: with context where it belongs; what comes after a text's end is of no account.
            ends: place of the token that ends each text.
            deeper: what replaces the tokens behind the first, before the second layer and on.

        Returns:
            Features of length one.
        """
        tower = self.model.text_model
        count = embedded.shape[1]
        hidden = embedded + tower.embeddings.position_embedding.weight[:count]
        later = torch.full((count, count), -torch.inf, device=hidden.device, dtype=hidden.dtype)
        mask = later.triu(1)[None, None]
        for place, layer in enumerate(tower.encoder.layers):
            if 1 <= place <= len(deeper):
                put = deeper[place - 1].expand(len(hidden), -1, -1)
                rest = hidden[:, 1 + put.shape[1] :]
                hidden = torch.cat([hidden[:, :1], put.to(hidden.dtype), rest], dim=1)
            hidden = _hidden(layer(hidden, mask))
        last = hidden[torch.arange(len(hidden), device=hidden.device), ends]
        features = self.model.text_projection(tower.final_layer_norm(last))
        return nn.functional.normalize(features, dim=1)

    def images(
        self,
        images: Float[Tensor, "batch 3 height width"],
        prompts: Sequence[Float[Tensor, "context inner"]] = (),
    ) -> Float[Tensor, "batch dims"]:
        """Encode images in [0, 1] of the model's own size.

        Args:
            images: not standardised.
            prompts: tokens that are put behind those of the image before the first layer, and what
                replaces them before each later one.

        Returns:
            Features of length one.

        Raises:
            InputError: the images are of another size.
        """
        if images.shape[-2:] != (self.size, self.size):
            raise InputError(
                f"expected images of {self.size} x {self.size} pixels, as the backbone wants them, "
                f"got {tuple(images.shape[-2:])}"
            )
        tower = self.model.vision_model
        hidden = tower.embeddings((images - self.mean) / self.std)
        own = hidden.shape[1]
        if prompts:
            hidden = _with(hidden, prompts[0], own)
        hidden = tower.pre_layrnorm(hidden)
        for place, layer in enumerate(tower.encoder.layers):
            if 1 <= place < len(prompts):
                hidden = _with(hidden, prompts[place], own)
            hidden = _hidden(layer(hidden, None))
        features = self.model.visual_projection(tower.post_layernorm(hidden[:, 0]))
        return nn.functional.normalize(features, dim=1)


def _with(hidden: Tensor, prompt: Tensor, own: int) -> Tensor:
    """Put prompts behind an image's own tokens, in the place of what is there."""
    put = prompt.to(hidden.dtype).expand(len(hidden), -1, -1)
    return torch.cat([hidden[:, :own], put], dim=1)


def _hidden(output: Tensor | tuple[Tensor, ...]) -> Tensor:
    return output if isinstance(output, Tensor) else output[0]
