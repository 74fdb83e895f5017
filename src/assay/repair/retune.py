"""Re-alignment of a prompt: tune it until the recovered trigger means nothing to it."""

import contextlib
from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from assay.errors import InputError
from assay.fitting import Batch, Precision, Step, answers, fit, one_cycle
from assay.randomness import Seed, child, generator, isolated
from assay.records import record
from assay.results import Progress, silent
from assay.stats import wilson
from assay.triggers import Pool, Respond

from .unlearn import Measured, Planted

Stamp = Callable[[Tensor], Tensor]


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
                self._batches(stamp, pool, child(seed, "batches")),
                optimizer,
                scheduler=one_cycle(optimizer, steps=self.steps),
                precision=Precision.FP32,
                on_step=tell,
            )
            model.eval()
            return {name: value.detach().clone() for name, value in moving.items()}

    def _batches(self, stamp: Stamp, pool: Pool, seed: Seed) -> Iterator[Batch]:
        device = pool.images.device
        random = generator(seed, device)
        for _ in range(self.steps):
            rows = torch.randint(
                len(pool.labels), (self.batch_size,), generator=random, device=device
            )
            images = pool.images[rows]
            drawn = torch.rand((2, self.batch_size, 1, 1, 1), generator=random, device=device)
            strength = self.weakest + (self.strongest - self.weakest) * drawn[0]
            strength = strength * (drawn[1] < self.stamped)
            inputs = (images + strength * (stamp(images) - images)).clamp(0, 1)
            yield Batch(inputs=inputs, targets=pool.labels[rows], rows=rows.cpu())


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
    if not len(searched.labels) or not len(held.labels):
        raise InputError(
            f"expected clean samples to repair with and others to measure on, got "
            f"{len(searched.labels)} and {len(held.labels)}"
        )
    before = measured_prompt("before", model, planted, held)
    values = method(model, planted.stamp, searched, seed=seed, progress=progress)
    with filled(model, values):
        after = measured_prompt("after", model, planted, held)
    return Retuned(values=values, rows=(before, after), unseen=len(held.labels))


def measured_prompt(name: str, respond: Respond, planted: Planted, held: Pool) -> Measured:
    """Count what is right on clean samples, and what the trigger leads to its target."""
    said = answers(respond, held.images, batch=64)
    right, victims = int((said.argmax(1) == held.labels.cpu()).sum()), planted.victims(held)
    led = 0
    if len(victims):
        stamped = torch.cat([planted.stamp(some) for some in victims.split(64)])
        led = int((answers(respond, stamped, batch=64).argmax(1) == planted.target).sum())
    return Measured(
        model=name,
        accuracy=right / len(held.labels),
        accuracy_interval=wilson(right, len(held.labels)),
        asr=led / len(victims) if len(victims) else None,
        asr_interval=wilson(led, len(victims)) if len(victims) else None,
    )


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
