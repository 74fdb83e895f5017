"""Realigning: train an encoder until triggered images have the features of the clean ones."""

import copy
import dataclasses

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assay.fitting import (
    Batch,
    Behind,
    Precision,
    Preprocess,
    Step,
    answers,
    behind,
    fit,
    one_cycle,
)
from assay.randomness import Seed, child, isolated
from assay.records import record
from assay.results import Progress, silent
from assay.triggers import Pool, Respond

from .unlearn import Measured, Planted, Repaired, Stamp, check_pools, measured, stamped_batches


@record
class Realigning:
    r"""Fine-tune a copy of an encoder, on clean images of which some carry the recovered trigger.

    With f the encoder as it was delivered, g its copy, and T the trigger at a random strength (or
    not at all), the loss is :math:`1 - \cos(g(T(x)), f(x))`: the trigger stops telling anything,
    and clean images keep their features. No labels are needed. Layers that behave otherwise in
    training, such as batch normalisation, stay as they are in use.

    Source:
        The strengths and the share of stamped images are those of `Unlearning`. Pulling features
        of a student to those of a frozen teacher: Hinton, Vinyals, Dean, "Distilling the knowledge
        in a neural network", 2015.
    """

    steps: int = 300
    batch_size: int = 64
    rate: float = 0.001
    """Highest learning rate of Adam, in a cycle that starts and ends low."""
    stamped: float = 0.5
    """Chance of an image to be stamped, in [0, 1]."""
    weakest: float = 0.5
    strongest: float = 3.0
    """Above 1, because the search bounds what it recovers (`Unlearning.strongest`)."""

    def __call__(
        self,
        encoder: nn.Module,
        preprocess: Preprocess,
        stamp: Stamp,
        pool: Pool,
        *,
        seed: Seed,
        progress: Progress = silent,
    ) -> nn.Module:
        """Return the repaired copy, in evaluation mode where the images are.

        Args:
            encoder: gives features of length 1; it stays as it is.
            preprocess: what it wants.
            stamp: the recovered trigger.
            pool: clean images to train on; their groups are not used.
            seed: decides everything random.
            progress: called with the stage `repair`.
        """
        device = pool.images.device
        repaired = copy.deepcopy(encoder).to(device).eval().requires_grad_(requires_grad=True)
        wanted = answers(behind(repaired, preprocess, device), pool.images).to(device)
        optimizer = torch.optim.Adam(repaired.parameters(), lr=self.rate)

        def apart(features: Float[Tensor, "batch dims"], batch: Batch) -> Float[Tensor, ""]:
            return (1 - (features * wanted[batch.rows.to(device)]).sum(1)).mean()

        def tell(step: Step) -> None:
            progress("repair", step.index + 1, self.steps)

        with isolated(child(seed, "dropout"), device):
            fit(
                _Still(Behind(repaired, preprocess, device)),
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
                loss=apart,
                precision=Precision.FP32,
                on_step=tell,
            )
        return repaired.eval().requires_grad_(requires_grad=False)


class _Still(nn.Module):
    """A model that behaves in training as it does in use."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def train(self, mode: bool = True) -> "_Still":  # noqa: ARG002, FBT001, FBT002
        """Stay as it is."""
        return self

    def forward(self, images: Tensor) -> Tensor:
        """Give what the model gives."""
        return self.model(images)


def realign(
    encoder: nn.Module,
    preprocess: Preprocess,
    planted: Planted,
    middles: Float[Tensor, "groups dims"],
    *,
    searched: Pool,
    held: Pool,
    method: Realigning = Realigning(),  # noqa: B008  frozen
    seed: Seed,
    progress: Progress = silent,
) -> Repaired:
    """Repair a copy of an encoder, and measure both.

    Args:
        encoder: gives features of length 1, and answers to the trigger; it stays as it is.
        preprocess: what it wants.
        planted: the trigger that was recovered from it; classes are groups of clean images.
        middles: of the groups, in the features of the encoder as it was delivered.
        searched: clean images to train on, with their groups: those that the trigger was searched
            on.
        held: other clean images, to measure on.
        method: how the copy is trained.
        seed: decides everything random.
        progress: called with the stage `repair`.

    Returns:
        As `unlearn`: accuracy is how often the encoder finds the group of a clean image, by the
        nearest middle; and both cosines.

    Raises:
        InputError: there are no images to train or to measure on.
    """
    check_pools(searched, held)
    device = held.images.device
    before = behind(copy.deepcopy(encoder).to(device).eval(), preprocess, device)
    wanted = answers(before, held.images)
    first = _measured("before", before, wanted, middles, planted, held)
    repaired = method(encoder, preprocess, planted.stamp, searched, seed=seed, progress=progress)
    after = behind(repaired, preprocess, device)
    return Repaired(
        model=repaired,
        rows=(first, _measured("after", after, wanted, middles, planted, held)),
        unseen=len(held.labels),
        triggered=len(planted.victims(held)),
    )


def _measured(  # noqa: PLR0917
    name: str,
    features: Respond,
    wanted: Float[Tensor, "held dims"],
    middles: Float[Tensor, "groups dims"],
    planted: Planted,
    held: Pool,
) -> Measured:
    ready = middles.to(held.images.device)
    grouped = measured(name, lambda images: features(images) @ ready.T, planted, held)
    rows = planted.meant(held)
    triggered = None
    if rows.any():
        stamped = answers(lambda images: features(planted.stamp(images)), held.images[rows])
        triggered = _alike(stamped, wanted[rows.cpu()])
    return dataclasses.replace(
        grouped,
        clean_cosine=_alike(answers(features, held.images), wanted),
        triggered_cosine=triggered,
    )


def _alike(features: Float[Tensor, "some dims"], wanted: Float[Tensor, "some dims"]) -> float:
    return nn.functional.cosine_similarity(features, wanted).mean().item()
