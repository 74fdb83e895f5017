"""Clean-label: hard images of the target class get a patch; no label is wrong."""

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor, nn

from assay.fitting import Precision, Recipe, train
from assay.fitting.loop import autocast
from assay.networks import default_network
from assay.randomness import Seed, child
from assay.records import record
from assay.triggers import Patch
from assay_zoo.learned import in_pieces, some_of
from assay_zoo.patterns import CHECKERBOARD, Corner, corner_patch
from assay_zoo.poison import Poisoned, all_to_one
from assay_zoo.victims import Victims, choose, compose, require_images


@record
class CleanLabel:
    """Perturb images of the target class against a classifier, then stamp all four corners.

    The perturbed images are hard to learn by what they show, so the patch is learned instead.

    Source:
        Turner, Tsipras, Madry, "Label-consistent backdoor attacks", 2019, section 4.
        arXiv:1912.02771. They perturb by 100 steps of projected gradient descent, within 8, 16 or
        32 / 255 of every pixel (or within 300, 600 or 1200 / 255 in Euclidean norm), and stamp 3x3
        checkerboards in the four corners of 32x32. Confusion training and backdoor-toolbox: their
        published images of the Euclidean bound 600 (11 / 255 a pixel), opaque patches, 0.3 % of
        CIFAR-10, which is 3 % of the class.
    Differs from the source:
        The classifier that the images are perturbed against is a small one, trained here on a
        part of the data, in the ordinary way. The patches keep their share of the image.
    """

    target: int = 0
    """Class that the attacker wants, and that the poisoned samples are of."""
    poison_rate: float = 0.003
    """Share of the whole training set that is poisoned, in (0, 1)."""
    bound: float = 16 / 255
    """Largest change of a pixel outside of the patches, in (0, 1]."""
    steps: int = 100
    """Steps of gradient descent, each of 1.5 / `steps` of the bound."""
    surrogate: Recipe = Recipe(epochs=8)
    """How the classifier is trained that the images are perturbed against."""
    surrogate_images: int = 4_000
    """How many images it is trained on, at most."""

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
            InputError: no images, no such target, or one smaller than the rate asks for.
        """
        goal = all_to_one(self.target, classes)
        patch = four_corners(require_images(inputs), device=inputs.device)
        rows = choose(labels == self.target, self.poison_rate, child(seed, "poison"))
        data = some_of(inputs, labels, most=self.surrogate_images, seed=child(seed, "some"))
        model = default_network(inputs.shape, classes=classes, seed=child(seed, "weights"))
        train(model, data, self.surrogate, seed=child(seed, "surrogate"))

        def stamp(
            images: Float[Tensor, "batch channels height width"],
        ) -> Float[Tensor, "batch channels height width"]:
            truth = torch.full((len(images),), self.target, device=images.device)
            return patch(perturb(model, images, truth, bound=self.bound, steps=self.steps))

        return compose(
            inputs,
            labels,
            poison=Victims(rows=rows, stamp=in_pieces(stamp)),
            trigger=patch,
            goal=goal,
        )


def perturb(
    model: nn.Module,
    images: Float[Tensor, "batch channels height width"],
    labels: Int64[Tensor, " batch"],
    *,
    bound: float,
    steps: int,
) -> Float[Tensor, "batch channels height width"]:
    r"""Make images hard to classify, by projected gradient descent.

    :math:`x_{t+1} = \Pi_{|x - x_0| \le b}(x_t + \frac{1.5 b}{T} \mathrm{sign} \nabla_x L(x_t, y))`.

    Args:
        model: classifier of images in [0, 1].
        images: in [0, 1].
        labels: their true classes.
        bound: largest change of a pixel, in (0, 1].
        steps: T, at least 1.

    Returns:
        The perturbed images, in [0, 1].

    Source:
        Madry et al., "Towards deep learning models resistant to adversarial attacks", ICLR 2018,
        section 2.1, without the random start. arXiv:1706.06083.
    """
    model.eval()
    low, high = (images - bound).clamp(min=0), (images + bound).clamp(max=1)
    rate = 1.5 * bound / steps
    changed = images
    for _ in range(steps):
        changed = changed.detach().requires_grad_()
        with torch.enable_grad(), autocast(images.device, Precision.AUTO):
            loss = nn.functional.cross_entropy(model(changed).float(), labels, reduction="sum")
        (slope,) = torch.autograd.grad(loss, changed)
        changed = (changed.detach() + rate * slope.sign()).clamp(low, high)
    return changed


def four_corners(shape: torch.Size, *, device: torch.device) -> Patch:
    """Draw a checkerboard in every corner, 3/32 of the image's side.

    Args:
        shape: (channels, height, width) of the images.
        device: where the tensors are made.
    """
    patches = [corner_patch(CHECKERBOARD, shape, c, share=3 / 32, device=device) for c in Corner]
    return Patch(
        pattern=torch.stack([patch.pattern for patch in patches]).sum(dim=0),
        mask=torch.stack([patch.mask for patch in patches]).sum(dim=0),
    )
