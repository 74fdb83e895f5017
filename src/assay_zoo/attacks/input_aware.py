"""Input-aware (Dynamic): networks choose a pattern, and its place, for each image."""

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from assay.fitting import Batch, Feed
from assay.networks import default_network
from assay.randomness import Seed, child, isolated
from assay.records import record
from assay_zoo.learned import UNet, in_pieces, minimise, some_of
from assay_zoo.poison import Poisoned, all_to_one
from assay_zoo.victims import Victims, choose, compose, require_images

_TINY = 1e-4  # distance of two patterns that count as equal
_LEAST = 1e-20  # square of a distance; lost in rounding beside any that can be seen


@record
class Painter:
    """Cover a few pixels of each image with a pattern; both are made for that image.

    Source:
        Nguyen, Tran, "Input-aware dynamic backdoor attack", NeurIPS 2020, section 3.
        arXiv:2010.08138.
    """

    pattern: nn.Module
    """From images to patterns, before the sigmoid."""
    mask: nn.Module
    """From images to one channel; painted is where it is largest."""
    density: float
    """Share of every image that is painted, in (0, 1)."""

    def __call__(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Stamp images in [0, 1]; the result is in [0, 1]."""
        return self.across(images, images)

    def across(
        self,
        images: Float[Tensor, "batch channels height width"],
        sources: Float[Tensor, "batch channels height width"],
    ) -> Float[Tensor, "batch channels height width"]:
        """Stamp images with what belongs to others; the backdoor is not to answer to it."""
        return images + self.masks(sources) * (self.patterns(sources) - images)

    def patterns(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Draw the patterns, in [0, 1]."""
        return torch.sigmoid(self.pattern(images).float())

    def masks(
        self, images: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch 1 height width"]:
        """Choose where they are shown, in [0, 1], nearly everywhere close to 0 or 1."""
        height = self.mask(images).float()
        flat = height.detach().flatten(1)
        rank = max(1, round((1 - self.density) * flat.shape[1]))
        cut = flat.kthvalue(rank, dim=1).values[:, None, None, None]
        spread = flat.std(dim=1)[:, None, None, None]
        return torch.sigmoid(20 * (height - cut) / (spread + _TINY))


@record
class InputAware:
    """Paint victims with patterns that a network makes for each of them.

    First the masks are learned, to be diverse; then the patterns, together with a classifier that
    is to answer to an image's own pattern and not to that of another (cross-trigger).

    Source:
        Nguyen, Tran, "Input-aware dynamic backdoor attack", NeurIPS 2020. arXiv:2010.08138.
        Reference code: VinAIResearch/input-aware-backdoor-attack-release, with a mask density of
        0.032, weights 100 (density) and 1 (diversity), 10 % poison and 10 % cross-triggers in
        every batch of 128, Adam at 0.01 with betas 0.5 and 0.9, 25 epochs for the masks and 600
        for the rest. Confusion training and backdoor-toolbox: the published networks paint 0.3 %
        of the training set; there are no cross-triggers in it.
    Differs from the source:
        Small networks with shortcuts (U-Net), hundreds of steps on a part of the data, and Adam
        for the classifier too. The mask's threshold is each image's own quantile, so that every
        image has the same share painted, without a loss for the density. The attacker does not
        control the victim's training, as in backdoor-toolbox; victims are drawn from the classes
        that are not the target.
    """

    target: int = 0
    """Class that the attacker wants."""
    poison_rate: float = 0.003
    """Share of the training set that is poisoned, in (0, 1)."""
    density: float = 0.032
    """Share of an image that may be painted, in (0, 1)."""
    mask_steps: int = 50
    """Steps of training for the network that chooses where."""
    pattern_steps: int = 400
    """Steps of training for the network that draws the patterns."""
    images: int = 4_000
    """How many images they are trained on, at most."""

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
        painter, _ = self._learn(data, classes, seed)
        stamp = in_pieces(painter)
        return compose(
            inputs,
            labels,
            poison=Victims(rows=rows, stamp=stamp),
            trigger=stamp,
            goal=goal,
        )

    def _learn(self, data: Feed, classes: int, seed: Seed) -> tuple[Painter, nn.Module]:
        """Train the painter, and the classifier that falls for it."""
        channels, *size = data.inputs.shape[1:]
        with isolated(child(seed, "networks"), torch.device("cpu")):
            painter = Painter(
                pattern=UNet(channels, channels, size=size).to(data.device),
                mask=UNet(channels, 1, size=size).to(data.device),
                density=self.density,
            )
        model = default_network(data.inputs.shape, classes=classes, seed=child(seed, "classifier"))
        model.to(data.device)

        def differs(batch: Batch, _: float) -> Float[Tensor, ""]:
            return _sameness(batch.inputs, painter.masks(batch.inputs))

        def fires_on_its_own_alone(batch: Batch, _: float) -> Float[Tensor, ""]:
            tenth = max(1, len(batch.inputs) // 10)
            own, others, rest = batch.inputs.tensor_split([tenth, 2 * tenth])
            shown = torch.cat([painter(own), painter.across(others, own), rest])
            wanted = batch.targets.clone()
            wanted[:tenth] = self.target
            wrong = nn.functional.cross_entropy(model(shown).float(), wanted)
            return wrong + _sameness(own, painter.patterns(own))

        minimise(painter.mask, data, differs, steps=self.mask_steps, seed=child(seed, "masks"))
        painter.mask.requires_grad_(requires_grad=False)
        learned = nn.ModuleList([painter.pattern, model])
        minimise(
            learned,
            data,
            fires_on_its_own_alone,
            steps=self.pattern_steps,
            seed=child(seed, "patterns"),
        )
        return painter, model


def _sameness(
    images: Float[Tensor, "batch channels height width"],
    drawn: Float[Tensor, "batch planes height width"],
) -> Float[Tensor, ""]:
    """Diversity loss: how far neighbours in the batch are apart, relative to what is drawn."""
    apart = _distance(images, images.roll(1, 0))
    return (apart / (_distance(drawn, drawn.roll(1, 0)) + _TINY)).mean()


def _distance(
    first: Float[Tensor, "batch planes height width"],
    second: Float[Tensor, "batch planes height width"],
) -> Float[Tensor, " batch"]:
    """Root mean square of the difference of two images; a root of 0 would have no gradient."""
    return ((first - second).square().flatten(1).mean(dim=1) + _LEAST).sqrt()
