"""The one training loop."""

import enum
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType

import torch
from jaxtyping import Float
from torch import Tensor, nn

from assay.randomness import Seed, child, isolated
from assay.records import record
from assay.results import Forgetful, Progress, Store, silent

from .augment import Augment
from .feed import Batch, Feed
from .focus import EVERYTHING, Focus, Losses
from .step import Replayed, Take, may_replay

_SAVE_EVERY_S = 20.0


class Precision(enum.Enum):
    """The number format of the forward and backward pass; weights stay float32."""

    AUTO = "auto"
    """bfloat16 where an accelerator computes in it, float32 elsewhere. A CPU trains in float32,
    whether it has bfloat16 or not, so that a verdict does not depend on the model of the CPU: on
    one that has, BadNets at 3 % of the digits was missed in bfloat16 and found in float32."""
    BF16 = "bf16"
    FP32 = "fp32"


@record
class Recipe:
    """How an ordinary model is trained.

    The defaults train the default network on 12,000 images of CIFAR-10, Fashion-MNIST or GTSRB to
    within a point of what 40 epochs reach.
    """

    epochs: int = 12
    batch_size: int = 128
    """At least 2."""
    peak_rate: float = 0.2
    """Highest learning rate of the one-cycle schedule, for SGD with Nesterov momentum."""
    momentum: float = 0.9
    weight_decay: float = 5e-4
    augment: Augment | None = None
    """None by default: shifts and mirrorings hide position-bound triggers (FTrojan at 5 % of
    12,000 images: ASR 1.00 without shifts, 0.05 with), and what is not learnt is not found."""
    precision: Precision = Precision.AUTO


@record
class Step:
    """What a training step left behind."""

    index: int
    loss: Float[Tensor, ""]
    """On the device; reading it waits for the device."""


Loss = Callable[[Tensor, Batch], Float[Tensor, ""]]


def cross_entropy(logits: Float[Tensor, "batch classes"], batch: Batch) -> Float[Tensor, ""]:
    """Mean cross-entropy of a batch, in nats."""
    return nn.functional.cross_entropy(logits, batch.targets)


def fit(
    model: nn.Module,
    batches: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    *,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    loss: Loss = cross_entropy,
    precision: Precision = Precision.AUTO,
    replay: bool = False,
    on_step: Callable[[Step], None] = lambda _: None,
) -> None:
    """Train `model` in place, one optimizer step a batch.

    Order, augmentation and length are in `batches`; progress and probes hang on `on_step`.
    `replay` as for `fit_in_parts`.
    """
    take = _steps(model, optimizer, loss, precision, replay=replay)
    _fit(model, batches, take, scheduler, on_step)


def _fit(
    model: nn.Module,
    batches: Iterable[Batch],
    take: Take,
    scheduler: torch.optim.lr_scheduler.LRScheduler | None,
    on_step: Callable[[Step], None] = lambda _: None,
) -> None:
    model.train()
    for index, batch in enumerate(batches):
        value = take(batch)
        if scheduler is not None:
            scheduler.step()
        on_step(Step(index=index, loss=value))


def _steps(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    loss: Loss,
    precision: Precision,
    *,
    replay: bool,
) -> Take:
    """Make what takes the steps of a training."""

    def take(batch: Batch) -> Float[Tensor, ""]:
        optimizer.zero_grad(set_to_none=True)
        with autocast(batch.inputs.device, precision):
            logits = logits_of(model(batch.inputs))
        value = loss(logits.float(), batch)
        value.backward()
        optimizer.step()
        return value.detach()

    if replay and may_replay(model, optimizer):
        return Replayed(take, optimizer, next(model.parameters()).device)
    return take


def train(
    model: nn.Module,
    data: Feed,
    recipe: Recipe,
    *,
    seed: Seed,
    focus: Focus = EVERYTHING,
    name: str = "train",
    progress: Progress = silent,
    store: Store = Forgetful(),  # noqa: B008  it has no state
) -> None:
    """Train `model` in place by `recipe`; goes on from the last epoch that `store` kept.

    Later epochs may show the samples of `focus` alone. The result depends on the seed alone, not
    on whether it was interrupted.
    """
    model.to(data.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    sizes = focus.sizes(len(data), recipe.epochs)
    steps = [data.steps(recipe.batch_size, samples=size) for size in sizes]
    optimizer = sgd(model, recipe)
    chooses = min(sizes, default=len(data)) < len(data)
    losses = Losses(len(data), recipe.batch_size, data.device) if chooses else None

    def epoch(index: int) -> Iterator[Batch]:
        part, among = child(seed, "epoch", index), None
        if losses is None:
            return data.shuffled(recipe.batch_size, seed=part, augment=recipe.augment)
        if sizes[index] < len(data):
            among = focus.among(losses.last, sizes[index], seed=child(part, "among"))
        return losses.noted(
            data.shuffled(recipe.batch_size, seed=part, augment=recipe.augment, among=among)
        )

    fit_in_parts(
        model,
        epoch,
        optimizer,
        scheduler=one_cycle(optimizer, steps=sum(steps)),
        parts=recipe.epochs,
        steps=steps,
        seed=seed,
        name=name,
        loss=losses or cross_entropy,
        precision=recipe.precision,
        replay=True,
        progress=progress,
        store=store,
        beside={"losses": losses.last} if losses else {},
    )


def fit_in_parts(
    model: nn.Module,
    batches: Callable[[int], Iterator[Batch]],
    optimizer: torch.optim.Optimizer,
    *,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    parts: int,
    steps: int | Sequence[int],
    seed: Seed,
    name: str,
    loss: Loss = cross_entropy,
    precision: Precision = Precision.AUTO,
    replay: bool = False,
    progress: Progress = silent,
    store: Store = Forgetful(),  # noqa: B008  it has no state
    beside: Mapping[str, Tensor] = MappingProxyType({}),
) -> None:
    """Run `fit` on `parts` parts of `steps` batches each; goes on from the last part kept.

    Args:
        model: trained in place, on the device where it is.
        batches: makes the batches of a part, from its index, `beside`, and what it closes over.
        optimizer: of the model's parameters; SGD with momentum, whose state is kept.
        scheduler: sets the rates, from the number of steps alone.
        parts: how many parts there are.
        steps: batches in a part, or in each of them, for the progress.
        seed: for what the model draws while it trains (dropout).
        name: of the work, in `store` and for `progress`.
        loss: what is minimised.
        precision: the number format of the passes.
        replay: whether the loss depends on logits and targets alone, and reads no value of them: on
            CUDA the step of a plain network is then recorded once and replayed (`step.py`).
        progress: told after every step.
        store: keeps the last finished part, at most every 20 seconds and at the end.
        beside: what else changes in place from part to part; kept and restored with the model.
    """
    each = [steps] * parts if isinstance(steps, int) else steps
    saved = time.monotonic()
    device = next(model.parameters()).device
    take = _steps(model, optimizer, loss, precision, replay=replay)
    for part in range(_restore(store.load(name), model, optimizer, scheduler, beside), parts):
        with isolated(child(seed, "dropout", part), device):
            reported = _reported(batches(part), name, sum(each[:part]), sum(each), progress)
            _fit(model, reported, take, scheduler)
        if part + 1 == parts or time.monotonic() - saved > _SAVE_EVERY_S:
            store.save(name, _snapshot(model, optimizer, scheduler, beside, part + 1))
            saved = time.monotonic()


def sgd(model: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """Make SGD with Nesterov momentum; no weight decay on biases and normalisation.

    On CUDA it is the fused one, whose steps can be replayed.
    """
    matrices = [p for p in model.parameters() if p.requires_grad and p.ndim > 1]
    vectors = [p for p in model.parameters() if p.requires_grad and p.ndim <= 1]
    return torch.optim.SGD(
        [
            {"params": matrices, "weight_decay": recipe.weight_decay},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=recipe.peak_rate,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        fused=True if next(model.parameters()).is_cuda else None,
    )


def one_cycle(
    optimizer: torch.optim.Optimizer, *, steps: int
) -> torch.optim.lr_scheduler.LRScheduler:
    """Warm up over a fifth of `steps` to the optimizer's own rate, then anneal linearly to zero.

    Source:
        Smith, "Super-convergence", 2018, arXiv:1708.07120, in the triangular form of Jordan,
        "94% on CIFAR-10 in 3.29 seconds", 2024, arXiv:2404.00498.
    """
    rise = max(1, steps // 5)

    def share(step: int) -> float:
        return min((step + 1) / rise, max(0.0, (steps - step) / max(1, steps - rise)))

    return torch.optim.lr_scheduler.LambdaLR(optimizer, share)


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Make the mixed-precision context of `precision` on `device`."""
    lower = precision is Precision.BF16 or (precision is Precision.AUTO and _has_bf16(device))
    return torch.autocast(device.type, torch.bfloat16, enabled=lower)


def logits_of(output: object) -> Tensor:
    """Take the logits out of what a model returns: a tensor, or a Hugging Face output."""
    return output if isinstance(output, Tensor) else output.logits  # type: ignore[attr-defined]


def _has_bf16(device: torch.device) -> bool:
    if device.type == "cpu":
        return False
    return torch.get_device_module(device).is_bf16_supported()


def _reported(
    batches: Iterator[Batch], name: str, before: int, total: int, progress: Progress
) -> Iterator[Batch]:
    for done, batch in enumerate(batches, start=1):
        yield batch
        progress(name, before + done, total)


def _snapshot(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    beside: Mapping[str, Tensor],
    parts: int,
) -> dict[str, Tensor]:
    momenta = optimizer.state_dict()["state"]
    return {
        **{f"model/{key}": value for key, value in model.state_dict().items()},
        **{f"momentum/{key}": value["momentum_buffer"] for key, value in momenta.items()},
        **{f"beside/{key}": value for key, value in beside.items()},
        "steps": torch.tensor(scheduler.last_epoch),
        "parts": torch.tensor(parts),
    }


def _restore(
    kept: dict[str, Tensor] | None,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    scheduler: torch.optim.lr_scheduler.LRScheduler,
    beside: Mapping[str, Tensor],
) -> int:
    if kept is None:
        return 0
    model.load_state_dict(_under(kept, "model/"))
    momenta = {int(k): {"momentum_buffer": v} for k, v in _under(kept, "momentum/").items()}
    optimizer.load_state_dict({**optimizer.state_dict(), "state": momenta})
    for key, value in beside.items():
        value.copy_(kept[f"beside/{key}"])
    steps = int(kept["steps"])
    scheduler.load_state_dict({**scheduler.state_dict(), "last_epoch": steps})
    for group, rate in zip(optimizer.param_groups, _rates(scheduler, steps), strict=True):
        group["lr"] = rate
    return int(kept["parts"])


def _rates(scheduler: torch.optim.lr_scheduler.LRScheduler, step: int) -> list[float]:
    shares = scheduler.lr_lambdas  # type: ignore[attr-defined]
    return [base * share(step) for base, share in zip(scheduler.base_lrs, shares, strict=True)]


def _under(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
