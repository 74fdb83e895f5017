"""Before and after: what the network learns from the data as they came, and once cleansed."""

from collections.abc import Callable

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from assay.errors import InputError
from assay.features import logits
from assay.fitting import Feed, Preprocess, Recipe, feed, train
from assay.networks import fresh_network
from assay.randomness import Seed, child
from assay.records import record
from assay.results import Forgetful, Interval, Progress, Store, silent
from assay.samples import Rows, Samples, row_digests
from assay.stats import wilson


@record
class Trigger:
    """What is known of an attack."""

    stamp: Callable[[Tensor], Tensor]
    """Puts the trigger on inputs, in the form of `Samples.inputs`."""
    target: int
    """The class that the attacker wants."""


@record
class Retrained:
    """One of the two networks, and how it does on unseen samples."""

    model: str
    """`before` or `after` cleansing."""
    samples: int
    """How many samples it was trained on."""
    accuracy: float
    """In [0, 1]."""
    accuracy_interval: Interval
    """Wilson's, at 95 %."""
    asr: float | None
    """Attack success rate, in [0, 1]: the share of the unseen samples of other classes that go
    to the target once they are triggered. None where no trigger is known."""


@record
class Proof:
    """The same network from the same seed, retrained before and after cleansing."""

    rows: tuple[Retrained, ...]
    """Before, then after."""
    unseen: int
    """How many samples both were measured on."""


def held_out(trusted: Samples, data: Samples) -> Samples:
    """Keep the trusted samples that do not stand in the data: what to measure on.

    Raises:
        InputError: all of them do.
    """
    known = set(row_digests(data.inputs))
    absent = [i for i, digest in enumerate(row_digests(trusted.inputs)) if digest not in known]
    if not absent:
        raise InputError(
            f"expected trusted samples that do not stand in the data, got {len(trusted)} that all "
            "do; hold some out to measure on"
        )
    return trusted.subset(torch.tensor(absent))


def prove(
    before: Samples,
    after: Samples,
    unseen: Samples,
    *,
    recipe: Recipe,
    network: Callable[[], nn.Module] | None = None,
    preprocess: Preprocess | None = None,
    trigger: Trigger | None = None,
    seed: Seed,
    device: torch.device,
    memory_mb: float = 4096.0,
    progress: Progress = silent,
    store: Store = Forgetful(),  # noqa: B008  it has no state
) -> Proof:
    """Retrain on the data before and after cleansing, and measure both on unseen samples.

    Args:
        before: the data as they came.
        after: the data without the flagged samples.
        unseen: what to measure on: samples with true labels, in neither training set.
        recipe: how both are trained.
        network: builds a fresh classifier; the default network where None.
        preprocess: what the network wants; measured on `before` where None.
        trigger: what is known of the attack.
        seed: decides everything.
        device: where both are trained.
        memory_mb: most memory that inputs may take on the device.
        progress: told of the steps of `retrain-before` and `retrain-after`.
        store: makes it resumable.
    """
    ready = preprocess or Preprocess.of(before.inputs)

    def fed(inputs: Rows, labels: Int64[Tensor, " samples"]) -> Feed:
        return feed(inputs, labels, preprocess=ready, device=device, memory_mb=memory_mb)

    def retrained(name: str, data: Samples) -> Retrained:
        model = fresh_network(before, network, child(seed, "network"))
        train(
            model,
            fed(data.inputs, data.labels),
            recipe,
            seed=child(seed, "train"),
            name=f"retrain-{name}",
            progress=progress,
            store=store,
        )
        correct = _predicted(model, fed(unseen.inputs, unseen.labels)) == unseen.labels
        return Retrained(
            model=name,
            samples=len(data),
            accuracy=correct.double().mean().item(),
            accuracy_interval=wilson(int(correct.sum()), len(correct)),
            asr=None if trigger is None else _success(model, unseen, trigger, fed),
        )

    rows = (retrained("before", before), retrained("after", after))
    return Proof(rows=rows, unseen=len(unseen))


def _success(
    model: nn.Module, unseen: Samples, trigger: Trigger, fed: Callable[[Rows, Tensor], Feed]
) -> float | None:
    others = unseen.subset((unseen.labels != trigger.target).nonzero().squeeze(1))
    if not len(others):
        return None
    predicted = _predicted(model, fed(trigger.stamp(others.inputs[:]), others.labels))
    return (predicted == trigger.target).double().mean().item()


def _predicted(model: nn.Module, data: Feed) -> Int64[Tensor, " samples"]:
    return logits(model, data).argmax(1).cpu()
