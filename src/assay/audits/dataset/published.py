"""Confusion training as it was published: six long rounds, for comparison."""

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor, nn

from assay.errors import InputError
from assay.features import Outputs, extract, logits
from assay.fitting import Augment, Batch, Feed, Preprocess, Recipe, feed, fit_in_parts, train
from assay.fitting.loop import Loss, cross_entropy
from assay.networks import fresh_network
from assay.randomness import Seed, child
from assay.records import record
from assay.results import Forgetful, Progress, SampleScores, Store, silent
from assay.samples import Rows, Samples

from .confusion import _joined

_PART = 500  # steps between two places to resume from


@record
class PublishedConfusionTraining:
    r"""Pretrain, confuse and distil in rounds; then ask which samples the last model still fits.

    A round pretrains on the distilled set S (at first all suspects), trains on with wrong labels
    for the trusted samples, and distils S anew from the suspects of low loss.

    .. math:: L = \frac{1}{\lambda} \Big( (\lambda - 1) \; H\big(f_0(x) + o \bmod K, f(x)\big)
                  + \frac{\sum_j w_{y_j} H(y_j, f(x_j))}{\sum_j w_{y_j}} \Big),
              \quad w_c = (\mathrm{freq}_c(S) + 0.001)^{-1/2}

    where f0 is an ordinary model and the offset o goes round in 1..K-1. The second term, over a
    batch of S, is there in every `batch_factor`-th step only, with equal weights in the last round.

    Source:
        Qi, Xie, Wang, Wu, Mahloujifar, Mittal, "Towards a proactive ML approach for detecting
        backdoor poison samples", USENIX Security 2023, algorithm 1. arXiv:2205.13616. Reference
        code: Unispac/Fight-Poison-With-Poison, commit f2f02c2; defaults are its for CIFAR-10.
    Differs from the source:
        Everything random is seeded. One code path serves every data set. 0.001 is added to the
        diagonal of a covariance, not to every entry. The principal components are exact, not
        randomised. Nothing is flagged by a fixed share. No loops over single samples.
        f0 has this package's recipe, with the source's epochs, batch size, highest rate and weight
        decay: one cycle instead of steps, Nesterov momentum, shifts without mirroring. The passes
        are in mixed precision where the device has it. Batches are drawn anew every 500 steps.
        A class of fewer than four samples is never suspicious, instead of ending the audit.
        The largest ratio suffices at 1.5, as in the source, also on clean data.
    """

    ratios: tuple[float, ...] = (1 / 2, 1 / 5, 1 / 25, 1 / 50, 1 / 100)
    """Share of the suspects that is distilled after each round but the last, in (0, 1]."""
    floors: tuple[float, ...] = (1 / 50, 1 / 50, 1 / 50, 1 / 50, 1 / 100)
    """Share of every class that is distilled at least, in [0, 1]."""
    lambdas: tuple[float, ...] = (20.0, 20.0, 20.0, 30.0, 30.0, 15.0)
    """One a round, as are the following; at least 1."""
    rates: tuple[float, ...] = (0.001, 0.001, 0.001, 0.01, 0.01, 0.01)
    """Learning rate of the confusion."""
    iterations: tuple[int, ...] = (6000, 6000, 6000, 6000, 2000, 2000)
    """Steps of the confusion."""
    pretrain_epochs: tuple[int, ...] = (100, 100, 40, 40, 40, 40)
    batch_size: int = 32
    """Of suspect samples, and of trusted ones, in a step."""
    batch_factor: int = 2
    """Every so many steps of the confusion, suspects are shown."""
    momentum: float = 0.7
    """Of the confusion."""
    pretrain_rate: float = 0.01
    pretrain_momentum: float = 0.9
    weight_decay: float = 1e-4
    first: Recipe = Recipe(peak_rate=0.1, weight_decay=1e-4, augment=Augment(), epochs=100)
    """How f0 is trained."""
    threshold: float = 2.0
    """A class with a higher likelihood ratio is suspicious."""
    threshold_of_largest: float = 1.5
    """The same for the class with the largest ratio."""
    scale: float = 1.0
    """Share of all epochs and iterations that is run, in (0, 1]: below 1 for small runs, whose
    results are not those of the published method."""

    def __post_init__(self) -> None:
        """Check that there is one setting a round."""
        rounds = {len(self.lambdas), len(self.rates), len(self.iterations)}
        if rounds | {len(self.pretrain_epochs)} != {len(self.ratios) + 1}:
            raise InputError(f"expected {len(self.ratios) + 1} of each, one a round, got {self}")
        if len(self.floors) != len(self.ratios):
            raise InputError(f"expected as many floors as ratios, got {self}")
        if not 0 < self.scale <= 1:
            raise InputError(f"expected a scale in (0, 1], got {self.scale}")

    def __call__(
        self,
        samples: Samples,
        trusted: Samples,
        *,
        network: Callable[[], nn.Module] | None = None,
        preprocess: Preprocess | None = None,
        seed: Seed,
        device: torch.device,
        memory_mb: float = 4096,
        progress: Progress = silent,
        store: Store = Forgetful(),  # noqa: B008  it has no state
    ) -> SampleScores:
        """Score every sample by the log-probability of its label under the last confused model.

        Args:
            samples: the data set to audit.
            trusted: clean samples of the same task, classes in the same order.
            network: builds an untrained classifier; None for `default_network`.
            preprocess: what the network wants; None to measure it on the trusted samples.
            seed: decides everything random.
            device: where to compute.
            memory_mb: how much of the suspects may lie on the device at once; main memory holds the
                distilled ones.
            progress: called with the stages `first`, `pretrain-0`, `confuse-0`, `pretrain-1`, ...
            store: what to resume from.

        Returns:
            Scores in nats, at most 0; flagged are the samples of suspicious classes that the model
            classifies as labelled.

        Raises:
            InputError: there are too few samples to distil, or fewer than two trusted ones.
        """
        if len(samples) * min(self.ratios) < 2 or len(trusted) < 2:
            raise InputError(
                f"expected at least {math.ceil(2 / min(self.ratios))} samples and 2 trusted ones, "
                f"got {len(samples)} and {len(trusted)}"
            )
        ready = preprocess or Preprocess.of(trusted.inputs)

        def fed(inputs: Rows, labels: Int64[Tensor, " some"]) -> Feed:  # all suspects, and some
            return feed(inputs, labels, preprocess=ready, device=device, memory_mb=memory_mb / 2)

        def fresh(name: str) -> nn.Module:
            model = fresh_network(samples, network, child(seed, "network", name))
            return model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]

        run = _Run(classes=samples.classes, seed=seed, progress=progress, store=store)
        suspects, clean = fed(samples.inputs, samples.labels), fed(trusted.inputs, trusted.labels)
        clean = clean.relabelled(self._opinion(fresh("first"), suspects, clean, run))
        pretrained, rows = fresh("rounds"), torch.arange(len(samples))
        for index in range(len(self.lambdas)):
            chosen = samples.subset(rows)
            given = fed(chosen.inputs, chosen.labels)
            last = index == len(self.ratios)
            taught = fed(*_with_wrong(chosen, trusted)) if last else given
            self._pretrain(pretrained, taught, index, run)
            model = copy.deepcopy(pretrained)
            self._confuse(model, given, clean, index, run)
            if not last:
                fits = _fits(logits(model, suspects).cpu(), samples.labels)
                rows = distilled(fits, samples.labels, self.ratios[index], floor=self.floors[index])
        return self._judged(extract(model, suspects), samples)

    def sample_passes(self, samples: Samples, trusted: Samples) -> int:
        """Count forward and backward passes of one sample; what floors add is left out."""
        suspects, clean = len(samples), min(self.batch_size, len(trusted))
        passes = self._scaled(self.first.epochs) * suspects
        for index, epochs in enumerate(self.pretrain_epochs):
            chosen = int((1.0, *self.ratios)[index] * suspects)
            last = index == len(self.ratios)
            passes += self._scaled(epochs) * (chosen + last * len(trusted))
            steps = math.prod(self._parts(index))
            shown = math.ceil(steps / self.batch_factor)
            passes += steps * clean + shown * min(self.batch_size, chosen)
        return passes

    def _opinion(
        self, model: nn.Module, suspects: Feed, clean: Feed, run: "_Run"
    ) -> Int64[Tensor, " trusted"]:
        """Train f0; its labels of the trusted samples are those to contradict."""
        recipe = dataclasses.replace(self.first, epochs=self._scaled(self.first.epochs))
        seed = child(run.seed, "first")
        train(
            model, suspects, recipe, seed=seed, name="first", progress=run.progress, store=run.store
        )
        return logits(model, clean).argmax(1).cpu()

    def _pretrain(self, model: nn.Module, data: Feed, index: int, run: "_Run") -> None:
        seed = child(run.seed, "pretrain", index)
        run.fit(
            model,
            lambda epoch: data.shuffled(self.batch_size, seed=child(seed, "epoch", epoch)),
            self._sgd(model, self.pretrain_rate, self.pretrain_momentum),
            parts=self._scaled(self.pretrain_epochs[index]),
            steps=data.steps(self.batch_size),
            name=f"pretrain-{index}",
        )

    def _confuse(self, model: nn.Module, given: Feed, clean: Feed, index: int, run: "_Run") -> None:
        parts, steps = self._parts(index)
        seed = child(run.seed, "confuse", index)

        def batches(part: int) -> Iterator[Batch]:
            named = child(seed, "part", part)
            wrong = clean.endless(self.batch_size, seed=child(named, "trusted"))
            shown = given.endless(self.batch_size, seed=child(named, "suspects"))
            for step, batch in zip(range(part * steps, (part + 1) * steps), wrong, strict=False):
                offset = 1 + step % (run.classes - 1)
                contradicted = dataclasses.replace(
                    batch, targets=(batch.targets + offset) % run.classes
                )
                with_suspects = step % self.batch_factor == 0
                yield _joined(contradicted, next(shown)) if with_suspects else contradicted

        weights = class_weights(given.labels, run.classes).to(given.device)
        if index == len(self.ratios):
            weights = torch.ones_like(weights)
        run.fit(
            model,
            batches,
            self._sgd(model, self.rates[index], self.momentum),
            parts=parts,
            steps=steps,
            name=f"confuse-{index}",
            loss=_loss(min(self.batch_size, len(clean)), self.lambdas[index], weights),
        )

    def _judged(self, said: Outputs, samples: Samples) -> SampleScores:
        """Flag the kept samples of suspicious classes."""
        labels, classes = samples.labels, range(samples.classes)
        kept = said.logits.argmax(1) == labels
        found = [likelihood_ratio(said.features[labels == c], kept[labels == c]) for c in classes]
        ratios = torch.tensor(found, dtype=torch.float64)
        suspicious = ratios > self.threshold
        suspicious |= (ratios == ratios.max()) & (ratios > self.threshold_of_largest)
        return SampleScores(
            scores=_fits(said.logits, labels), flagged=kept & suspicious[labels], method=repr(self)
        )

    def _sgd(self, model: nn.Module, rate: float, momentum: float) -> torch.optim.Optimizer:
        return torch.optim.SGD(
            model.parameters(), lr=rate, momentum=momentum, weight_decay=self.weight_decay
        )

    def _parts(self, index: int) -> tuple[int, int]:
        """Split the confusion of a round into resumable parts: how many, of how many steps."""
        wanted = self._scaled(self.iterations[index])
        steps = min(_PART, wanted)
        return round(wanted / steps), steps

    def _scaled(self, count: int) -> int:
        return max(1, round(self.scale * count))


def class_weights(labels: Int64[Tensor, " distilled"], classes: int) -> Float[Tensor, " classes"]:
    """Weigh a class by (its share + 0.001) ** -0.5."""
    return (labels.bincount(minlength=classes) / len(labels) + 0.001) ** -0.5


def distilled(
    fits: Float[Tensor, " samples"],
    labels: Int64[Tensor, " samples"],
    share: float,
    *,
    floor: float,
) -> Int64[Tensor, " distilled"]:
    """Choose the share of all samples that fits best, and of each class at least its `floor`.

    Returns:
        Their indices, ascending.
    """
    order = fits.argsort(descending=True, stable=True)
    chosen = torch.zeros_like(labels, dtype=torch.bool)
    chosen[order[: int(share * len(labels))]] = True
    for label in labels.unique():
        own = order[labels[order] == label]
        chosen[own[: int(floor * len(own))]] = True
    return chosen.nonzero().squeeze(1)


def likelihood_ratio(
    features: Float[Tensor, "samples dims"], kept: Bool[Tensor, " samples"]
) -> float:
    """Compare two normal distributions, of the kept and of the others, with that of the others.

    Args:
        features: of the samples of one class.
        kept: those that the confused model classifies as labelled.

    Returns:
        exp of the mean gain in log-likelihood over the class, in two principal components; 1 where
        one of the groups has fewer than two samples.
    """
    if min(int(kept.sum()), int((~kept).sum())) < 2:
        return 1.0
    centred = (features - features.mean(0)).double()
    axes = torch.linalg.eigh(centred.T @ centred).eigenvectors[:, -2:]
    points = centred @ axes
    alone, others = points[kept], points[~kept]
    gain = _normal(alone).log_prob(alone) - _normal(others).log_prob(alone)
    return (gain.sum() / len(points)).exp().item()


def _normal(points: Float[Tensor, "some 2"]) -> torch.distributions.MultivariateNormal:
    ridge = 0.001 * torch.eye(2, dtype=points.dtype)
    return torch.distributions.MultivariateNormal(points.mean(0), points.T.cov() + ridge)


def _fits(
    said: Float[Tensor, "samples classes"], labels: Int64[Tensor, " samples"]
) -> Float[Tensor, " samples"]:
    return -nn.functional.cross_entropy(said, labels, reduction="none")


def _loss(trusted: int, weight: float, class_weights: Float[Tensor, " classes"]) -> Loss:
    def loss(said: Float[Tensor, "batch classes"], batch: Batch) -> Float[Tensor, ""]:
        confused = nn.functional.cross_entropy(said[:trusted], batch.targets[:trusted])
        if len(said) == trusted:
            return confused
        kept = nn.functional.cross_entropy(
            said[trusted:], batch.targets[trusted:], weight=class_weights
        )
        return ((weight - 1) * confused + kept) / weight

    return loss


@record
class _Run:
    """What all stages need."""

    classes: int
    seed: Seed
    progress: Progress
    store: Store

    def fit(
        self,
        model: nn.Module,
        batches: Callable[[int], Iterator[Batch]],
        optimizer: torch.optim.Optimizer,
        *,
        parts: int,
        steps: int,
        name: str,
        loss: Loss = cross_entropy,
    ) -> None:
        """Run a stage at a constant rate."""
        fit_in_parts(
            model,
            batches,
            optimizer,
            scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0),
            parts=parts,
            steps=steps,
            seed=child(self.seed, name),
            name=name,
            loss=loss,
            progress=self.progress,
            store=self.store,
        )


def _with_wrong(chosen: Samples, trusted: Samples) -> tuple[Tensor, Int64[Tensor, " samples"]]:
    """Add the trusted samples, each under the label after its own."""
    wrong = (trusted.labels + 1) % trusted.classes
    inputs = torch.cat([chosen.inputs[:], trusted.inputs[:]])
    return inputs, torch.cat([chosen.labels, wrong])
