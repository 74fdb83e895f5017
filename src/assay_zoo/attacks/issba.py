"""ISSBA: a network hides a string of bits in each image, invisibly, and differently in each."""

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from assay.fitting import Batch, Feed
from assay.networks import default_network
from assay.randomness import Seed, child, generator, isolated
from assay.records import record
from assay_zoo.learned import UNet, in_pieces, minimise, some_of
from assay_zoo.poison import Poisoned, all_to_one
from assay_zoo.victims import Victims, choose, compose, require_images


class Encoder(nn.Module):
    """Hide bits in images.

    Source:
        Tancik, Mildenhall, Ng, "StegaStamp: invisible hyperlinks in physical photographs", CVPR
        2020, section 3.1. arXiv:1904.05343: the bits are spread over an image of their own by a
        dense layer, and a U-Net turns both images into a residual.
    Differs from the source:
        The residual is bounded, and the spread bits are added to it past the U-Net, which then
        learns within hundreds of steps what to change for each image.
    """

    def __init__(self, shape: torch.Size, *, bits: int, bound: float) -> None:
        super().__init__()
        self.shape = shape
        self.bound = bound
        self.spread = nn.Linear(bits, shape.numel())
        self.draw = UNet(2 * shape[0], shape[0], size=shape[1:])

    def forward(
        self,
        images: Float[Tensor, "batch channels height width"],
        bits: Float[Tensor, "#batch bits"],
    ) -> Float[Tensor, "batch channels height width"]:
        """Hide bits (0 or 1) in images in [0, 1]; the result is in [0, 1]."""
        spread = self.spread(2 * bits - 1).unflatten(1, self.shape).expand_as(images)
        residual = spread + self.draw(torch.cat([images - 0.5, spread], dim=1))
        return (images + self.bound * torch.tanh(residual.float())).clamp(0, 1)


@record
class HiddenString:
    """Hide one string in every image; the decoder reads it out again."""

    encoder: Encoder
    decoder: nn.Module
    """From images to one logit a bit."""
    secret: Float[Tensor, "1 bits"]

    def __call__(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Stamp images in [0, 1]; the result is in [0, 1]."""
        return self.encoder(images, self.secret)


@record
class Issba:
    """Hide the attacker's string in victims by steganography.

    Encoder and decoder are trained together on the images: the decoder reads random strings from
    the encoder's output, which is to stay close to its input.

    Source:
        Li, Li, Wu, Li, He, Lyu, "Invisible backdoor attack with sample-specific triggers", ICCV
        2021. arXiv:2012.03816. They train a StegaStamp on the training set and poison 10 %.
        Confusion training and backdoor-toolbox: a string of 20 bits in 32x32, 2 % of CIFAR-10.
    Differs from the source:
        Small networks, hundreds of steps on a part of the data; the change is bounded and its
        mean square is penalised, with a weight that grows from zero, in place of a perceptual
        and an adversarial loss. Victims are drawn from the classes that are not the target.
    """

    target: int = 0
    """Class that the attacker wants."""
    poison_rate: float = 0.02
    """Share of the training set that is poisoned, in (0, 1)."""
    bits: int = 20
    """Length of the string."""
    bound: float = 24 / 255
    """Largest change of a pixel, in (0, 1]."""
    fidelity: float = 0.3
    """Weight of the mean square of the change, in units of the bound, at the end of training."""
    steps: int = 200
    """Steps of training."""
    images: int = 4_000
    """How many images the networks are trained on, at most."""

    def __call__(
        self,
        inputs: UInt8[Tensor, "samples channels height width"],
        labels: Int64[Tensor, " samples"],
        *,
        classes: int,
        seed: Seed,
    ) -> Poisoned:
        """Poison a copy; the seed alone decides.

        Raises:
            InputError: no images, no such target, or too few victims for the rate.
        """
        goal = all_to_one(self.target, classes)
        require_images(inputs)
        rows = choose(labels != self.target, self.poison_rate, child(seed, "poison"))
        data = some_of(inputs, labels, most=self.images, seed=child(seed, "some"))
        stamp = in_pieces(self._learn(data, seed))
        return compose(
            inputs,
            labels,
            poison=Victims(rows=rows, stamp=stamp),
            trigger=stamp,
            goal=goal,
        )

    def _learn(self, data: Feed, seed: Seed) -> HiddenString:
        """Train the encoder and the decoder, and draw the secret."""
        with isolated(child(seed, "encoder"), torch.device("cpu")):
            encoder = Encoder(data.inputs.shape[1:], bits=self.bits, bound=self.bound)
        decoder = default_network(data.inputs.shape, classes=self.bits, seed=child(seed, "decoder"))
        networks = nn.ModuleList([encoder, decoder]).to(data.device)
        random = generator(child(seed, "bits"), data.device)

        def strings(count: int) -> Float[Tensor, "count bits"]:
            size = (count, self.bits)
            return torch.randint(0, 2, size, generator=random, device=data.device).float()

        def readable_and_faint(batch: Batch, done: float) -> Float[Tensor, ""]:
            bits = strings(len(batch.inputs))
            stamped = encoder(batch.inputs, bits)
            unread = nn.functional.binary_cross_entropy_with_logits(decoder(stamped).float(), bits)
            change = ((stamped - batch.inputs) / self.bound).square().mean()
            return unread + self.fidelity * done * change

        minimise(networks, data, readable_and_faint, steps=self.steps, seed=child(seed, "training"))
        return HiddenString(encoder=encoder, decoder=decoder, secret=strings(1))
