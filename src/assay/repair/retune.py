"""Re-alignment of a prompt: tune it until the recovered trigger means nothing to it."""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn

from assay.errors import InputError
from assay.fitting import Precision, Step, fit, one_cycle
from assay.randomness import Seed, child, isolated
from assay.records import record
from assay.results import Progress, silent
from assay.triggers import Pool

from .unlearn import Measured, Planted, Stamp, check_pools, measured, stamped_batches


@record
class Retuning:
    """Tune the prompt on clean samples, half of which carry the recovered trigger.

    All keep their true labels. Only the prompt learner moves; the encoders stay frozen.

    Source:
        Jindal et al., "CLIP-Inspector", CVPR 2026 Findings, arXiv:2604.09101: the reconstructed
        trigger is added to clean labelled images, and the prompt learner is fine-tuned on them
        under their true labels.
    Differs from the source:
        Half of a batch stays as it is, so that clean accuracy is kept, and the trigger is put on at
        a random strength, as the one that was planted may be stronger than the one recovered.
    """

    steps: int = 300
    batch_size: int = 32
    rate: float = 0.01
    """Highest learning rate of AdamW, in a cycle that starts and ends low."""
    stamped: float = 0.5
    """Chance of a sample to be stamped, in [0, 1]."""
    weakest: float = 0.5
    strongest: float = 2.0

    def __call__(
        self,
        model: nn.Module,
        stamp: Stamp,
        pool: Pool,
        *,
        seed: Seed,
        progress: Progress = silent,
    ) -> dict[str, Tensor]:
        """Return the tuned values of the parameters that can be trained; the model keeps its own.

        Args:
            model: gives logits of images in [0, 1]; what is frozen stays as it is.
            stamp: the recovered trigger.
            pool: clean samples to train on.
            seed: decides everything random.
            progress: called with the stage `repair`.
        """
        moving = {n: p for n, p in model.named_parameters() if p.requires_grad}
        if not moving:
            raise InputError("expected a prompt with parameters to tune, it has none")
        with _restored(moving), isolated(child(seed, "dropout"), pool.images.device):
            optimizer = torch.optim.AdamW(moving.values(), lr=self.rate, weight_decay=0.0)

            def tell(step: Step) -> None:
                progress("repair", step.index + 1, self.steps)

            fit(
                model,
                stamped_batches(
                    stamp,
                    pool,
                    steps=self.steps,
                    batch_size=self.batch_size,
                    stamped=self.stamped,
                    strengths=(self.weakest, self.strongest),
                    seed=child(seed, "batches"),
                ),
                optimizer,
                scheduler=one_cycle(optimizer, steps=self.steps),
                precision=Precision.FP32,
                on_step=tell,
            )
            model.eval()
            return {name: value.detach().clone() for name, value in moving.items()}


@record
class Retuned:
    """A repaired prompt, with the proof."""

    values: Mapping[str, Tensor]
    """The parameters that were tuned, by name."""
    rows: tuple[Measured, ...]
    """Before, then after."""
    unseen: int
    """How many samples both were measured on."""

    @property
    def is_finite(self) -> bool:
        """Whether training went well: no value is NaN or infinite."""
        return all(bool(value.isfinite().all()) for value in self.values.values())


def retune(
    model: nn.Module,
    planted: Planted,
    *,
    searched: Pool,
    held: Pool,
    method: Retuning = Retuning(),  # noqa: B008  frozen
    seed: Seed,
    progress: Progress = silent,
) -> Retuned:
    """Tune the prompt on some clean samples, and measure it before and after on others.

    Args:
        model: gives logits of images in [0, 1]; it stays as it is.
        planted: the trigger that was recovered from it.
        searched: clean samples to train on, on the device.
        held: other clean samples, to measure on.
        method: how the prompt is tuned.
        seed: decides everything random.
        progress: called with the stage `repair`.

    Raises:
        InputError: there are no samples to train or to measure on, or nothing can be tuned.
    """
    check_pools(searched, held)
    before = measured("before", model, planted, held)
    values = method(model, planted.stamp, searched, seed=seed, progress=progress)
    with filled(model, values):
        after = measured("after", model, planted, held)
    return Retuned(values=values, rows=(before, after), unseen=len(held.labels))


@contextlib.contextmanager
def filled(model: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Give parameters other values inside the block, and their own back after it."""
    moving = {name: p for name, p in model.named_parameters() if name in values}
    with _restored(moving):
        with torch.no_grad():
            for name, parameter in moving.items():
                parameter.copy_(values[name])
        yield


@contextlib.contextmanager
def _restored(parameters: Mapping[str, nn.Parameter]) -> Iterator[None]:
    held = {name: value.detach().clone() for name, value in parameters.items()}
    try:
        yield
    finally:
        with torch.no_grad():
            for name, value in held.items():
                parameters[name].copy_(value)
