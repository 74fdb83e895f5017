"""SIG: a sine wave over samples of the target class; no label is wrong."""

from jaxtyping import Int64, UInt8
from torch import Tensor

from assay.randomness import Seed
from assay.records import record
from assay.triggers import Additive
from assay.triggers.additive import sinusoid
from assay_zoo.poison import Poisoned, all_to_one
from assay_zoo.victims import Victims, choose, compose, require_images


@record
class Sig:
    """Add a horizontal sine wave to a part of the target class.

    Source:
        Barni, Kallas, Tondi, "A new backdoor attack in CNNs by training set corruption without
        label poisoning", ICIP 2019. arXiv:1902.11237. They stamp 20 to 40 % of the target class,
        with 6 waves over the width and an amplitude of 20/255 to 60/255. Confusion training and
        backdoor-toolbox: 6 waves, amplitude 30/255 in training and at test, 2 % of the whole set
        (CIFAR-10: a fifth of the class).
    """

    target: int = 0
    """Class that the attacker wants, and that the stamped samples are of."""
    poison_rate: float = 0.02
    """Share of the whole training set that is stamped, in (0, 1)."""
    amplitude: float = 30 / 255
    """Largest change of a pixel, in (0, 1]."""
    cycles: int = 6
    """Whole waves over the width."""

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
        _, height, width = require_images(inputs)
        wave = Additive(
            signal=sinusoid(
                height, width, amplitude=self.amplitude, cycles=self.cycles, device=inputs.device
            )
        )
        rows = choose(labels == self.target, self.poison_rate, seed)
        return compose(
            inputs,
            labels,
            poison=Victims(rows=rows, stamp=wave),
            trigger=wave,
            goal=goal,
        )
