"""Sub-runs of a training as honest providers execute them, in environments of their own."""

import contextlib
import dataclasses
import warnings
from collections.abc import Callable, Iterator, Mapping

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from assay.fitting import Precision, logits_of
from assay.fitting.loop import autocast
from assay.randomness import Seed, child, generator, isolated
from assay.records import record

Weights = Mapping[str, Tensor]


@record
class Work:
    """One sub-run, as the client hands it to a provider."""

    network: Callable[[], nn.Module]
    optimizer: Callable[[nn.Module], torch.optim.Optimizer]
    start: Weights
    inputs: Tensor
    """Of the whole training set: uint8 images, or tokens, one row a window."""
    labels: Int64[Tensor, "samples ..."]
    """A class an image, or the next token at every place."""
    classes: int
    order: Int64[Tensor, "steps batch"]
    """Which samples each step takes."""
    index: int
    """Of the sub-run, from 0."""
    seed: Seed = Seed(0)
    """Of the recipe; with the index, it decides what networks draw in training, such as dropout."""


Execute = Callable[[Work, Seed], Weights]
"""What a provider does with its work; the seed is the provider's own."""


_FLAGS = ("channels_last", "other_kernels", "turned")


@record
class Environment:
    """What honest providers may differ in, and what they say of it."""

    threads: int = 1
    precision: Precision = Precision.FP32
    channels_last: bool = False
    other_kernels: bool = False
    """Convolutions without oneDNN."""
    turned: bool = False
    """Sums over a batch run in the other direction."""
    parts: int = 1
    """Gradients are summed over so many parts of a batch; with batch normalisation, that is another
    recipe."""

    @property
    def name(self) -> str:
        """What a provider writes on its deliveries."""
        said = [f"threads={self.threads}", self.precision.value]
        said += [flag for flag in _FLAGS if getattr(self, flag)]
        return " ".join(said + ([f"parts={self.parts}"] if self.parts > 1 else []))


_BF16 = Precision.BF16

ENVIRONMENTS = (
    Environment(),
    Environment(threads=2),
    Environment(channels_last=True),
    Environment(turned=True),
    Environment(other_kernels=True),
    Environment(threads=2, turned=True),
    Environment(channels_last=True, turned=True),
    Environment(precision=_BF16),
    Environment(precision=_BF16, turned=True),
    Environment(precision=_BF16, channels_last=True, threads=2),
)
"""For images."""

TEXT_ENVIRONMENTS = (
    Environment(),
    Environment(threads=2),
    Environment(turned=True),
    Environment(parts=2),
    Environment(parts=4),
    Environment(parts=2, turned=True),
    Environment(threads=2, turned=True),
    Environment(precision=_BF16),
    Environment(precision=_BF16, turned=True),
    Environment(precision=_BF16, parts=2),
)
"""For sequences."""


@record
class Honest:
    """Do what the client asked, on one's own machine."""

    environment: Environment = Environment()
    free_order: bool = False
    """Whether the samples of the sub-run come in an order of the provider's own, as where the
    client leaves it open."""

    def __call__(self, work: Work, seed: Seed) -> Weights:
        """Train; with a free order, the seed decides."""
        if self.free_order:
            work = dataclasses.replace(work, order=shuffled(work.order, child(seed, work.index)))
        return train(work, self.environment)


def shuffled(order: Int64[Tensor, "steps batch"], seed: Seed) -> Int64[Tensor, "steps batch"]:
    """Take the same samples in another order."""
    random = generator(seed, torch.device("cpu"))
    flat = order.flatten()
    return flat[torch.randperm(len(flat), generator=random)].reshape(order.shape)


Loss = Callable[[Tensor, Tensor, int], Tensor]
"""From logits, labels and the step."""


def cross_entropy(logits: Tensor, labels: Tensor, step: int) -> Tensor:  # noqa: ARG001
    """Mean cross-entropy over samples and places."""
    return nn.functional.cross_entropy(logits.flatten(0, -2), labels.flatten())


def train(work: Work, environment: Environment, *, loss: Loss = cross_entropy) -> Weights:
    """Execute a sub-run; what `environment` says and nothing else changes the result."""
    with isolated(Seed(0), torch.device("cpu")):  # its first weights are replaced
        model = work.network()
    model.load_state_dict(dict(work.start))
    model.train()
    if environment.channels_last:
        model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = work.optimizer(model)
    with (
        isolated(child(work.seed, "sub-run", work.index), work.inputs.device),
        _inside(environment),
    ):
        for step, rows in enumerate(work.order):
            optimizer.zero_grad(set_to_none=True)
            for chosen in (rows.flip(0) if environment.turned else rows).chunk(environment.parts):
                inputs = prepared(work.inputs[chosen])
                if environment.channels_last:
                    inputs = inputs.contiguous(memory_format=torch.channels_last)
                with autocast(inputs.device, environment.precision):
                    logits = logits_of(model(inputs))
                part = loss(logits.float(), work.labels[chosen], step) * (len(chosen) / len(rows))
                part.backward()
            optimizer.step()
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def prepared(inputs: Tensor) -> Tensor:
    """Standardise images; leave the rest."""
    return inputs.float().div(255).sub(0.5).div(0.25) if inputs.ndim == 4 else inputs


@contextlib.contextmanager
def _inside(environment: Environment) -> Iterator[None]:
    """Set what torch keeps for the whole process, and set it back."""
    threads = torch.get_num_threads()
    torch.set_num_threads(environment.threads)
    try:
        with _without_onednn() if environment.other_kernels else contextlib.nullcontext():
            yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def _without_onednn() -> Iterator[None]:
    with warnings.catch_warnings():  # setting the flags warns of what this build cannot do
        warnings.filterwarnings("ignore", "TF32 acceleration", UserWarning)
        with torch.backends.mkldnn.flags(enabled=False):
            yield
