"""Confusion training: unlearn what images mean, and see which labels the model still fits."""

import dataclasses
import math
from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor, nn

from assay.errors import InputError
from assay.features import extract
from assay.fitting import Augment, Batch, Feed, Precision, fit_in_parts
from assay.fitting.loop import Loss
from assay.randomness import Seed, child
from assay.records import record
from assay.results import Forgetful, Progress, Store, silent

_PART = 50  # steps between two places to resume from
_MOST_EPOCHS = 12  # of few samples; for longer, the model learns them by heart again

_MORE = 2  # times that images are confused for longer, at most, where the confusion does not take
_WEAKER = 3.0  # by how much the weight of the suspects falls each time
_MOVED = Augment(mirror=True)  # what confusing images go through then


@record
class Confusion:
    r"""Train on suspect samples under their labels and on trusted samples under wrong ones.

    The wrong labels destroy the link from meaning to label. A trigger does not occur in the
    trusted set, so its link to the target survives: what the confused model still fits is poison.

    .. math:: L = (1 - 1/\lambda) \; H\big(u_{\ne y}, f(x_{trusted})\big)
                  - (1/\lambda) \; \log \operatorname{mean} f_y(x_{suspect})

    Source:
        Qi, Xie, Wang, Wu, Mahloujifar, Mittal, "Towards a proactive ML approach for detecting
        backdoor poison samples", USENIX Security 2023, section 4. arXiv:2205.13616.
    Differs from the source:
        One short round instead of six long ones, because each step teaches more.
        (1) Trusted samples get the uniform distribution over all wrong labels, which is the
        expectation of drawing one: the same objective without the noise of the draw.
        (2) Suspect samples get -log of the mean of p over the batch, instead of the mean of
        -log p. Each pulls in proportion to its p: a sample that contradicts the confusion stops
        pulling, a sample that the trigger explains pulls harder, so the model need not be shown a
        distilled set. The mean of 1 - p (generalised cross-entropy with q = 1, Zhang and Sabuncu
        2018, arXiv:1805.07836) points the same way, but fades as p falls: faint triggers beside
        cover samples, and thousands of classes, then never win back what the confusion took.
        (3) The labels to contradict are those of the trusted set, not the opinion of another model.
        (4) No momentum: the first wrong labels contradict a model that is sure of itself, and their
        gradients, added up, throw it so far within ten steps that a trigger is lost with the rest.
        (5) The rate rises over the first steps, for the same reason.
        (6) lambda = 17, in the range of the source, or more for fewer trusted samples.
        Design note 0002 has the runs behind each; `benchmarks/confusion_settings.py` can compare
        losses and weights on tuning attacks and on clean data.
    The defaults are those for images; for rows see `ROWS`.
    """

    suspect_weight: float = 0.06
    """Weight of the suspects in the loss, 1 / lambda, in (0, 1)."""
    full_weight_from: int = 1000
    """Fewer confusing samples than this (half of the trusted ones) shrink the suspects' weight in
    proportion: what the model knows of them by heart confuses nothing, and lets it fit the suspects
    again."""
    recall: float = 4.0
    """With less than half of `full_weight_from` confusing samples, half as many steps follow the
    last look, under so many times the weight (`suspect_weight` at most), and another look; 1 for
    none. The small weight lets faint triggers go that a larger one wins back, before the clean
    suspects are known by heart (design note 0002, Few trusted samples)."""
    epochs: float = 3.0
    """How often the suspects are seen, in whole parts of 50 steps. 3 or 4, and 2 with batches of
    64, come out alike behind `Focus` (design note 0015)."""
    looks: int = 1
    """How often, at equal distances, the suspects are scored; the best look counts so many times.
    One is enough where poison stands out further from epoch to epoch."""
    fewest_steps: int = 300
    """Of fewer samples, where that is not more than 12 epochs."""
    batch_size: int = 128
    """Of suspect samples, and of trusted ones, in a step."""
    rate: float = 0.2
    """Learning rate of SGD, constant after `warm_up`. AUROC at 0.03, 0.1 and 0.2 (design note 0002,
    before there was a rise; one model each): Blend .954, .993, .999, WaNet .897, .967, .977
    (CIFAR-10), Adaptive-Patch .946, .989, .992 (Fashion-MNIST), TaCT 1.00, .997, 1.00 (GTSRB), and
    .986 at 0.3."""
    warm_up: int = 50
    """Steps over which the rate rises to `rate`, linearly. The first steps' gradients are the
    largest, because they contradict a model that is sure of itself: at the full rate two of them
    took FTrojan's trigger (Fashion-MNIST) from a probability of .99 to 0, and the samples with it
    ended at an AUROC of .76; with the rise it is .998 (design note 0002)."""
    momentum: float = 0.0
    weight_decay: float = 5e-4
    precision: Precision = Precision.AUTO

    def steps(self, suspects: int, trusted: int) -> int:
        """Count the steps for so many suspects and confusing samples, a multiple of the part."""
        return _PART * self._stretches(suspects, trusted)[-1].end

    def _stretches(self, suspects: int, trusted: int) -> list["_Stretch"]:
        epoch = suspects / self.batch_size
        wanted = max(self.epochs * epoch, min(self.fewest_steps, _MOST_EPOCHS * epoch))
        parts = max(1, round(wanted / _PART))
        weight = self.suspect_weight * min(1.0, trusted / self.full_weight_from)
        ends = dict.fromkeys(
            (0, *(parts * look // self.looks for look in range(1, self.looks + 1)))
        )
        found = [_Stretch(first=a, end=b, weight=weight) for a, b in pairwise(ends)]
        if self.recall > 1 and 2 * trusted < self.full_weight_from:
            more = min(self.suspect_weight, self.recall * weight)
            found.append(_Stretch(first=parts, end=parts + -(-parts // 2), weight=more))
        return found

    def __call__(
        self,
        model: nn.Module,
        suspects: Feed,
        trusted: Feed,
        *,
        seed: Seed,
        progress: Progress = silent,
        store: Store = Forgetful(),  # noqa: B008  it has no state
        has_taken: Callable[["Confused"], bool] = lambda _: True,
    ) -> Iterator["Confused"]:
        """Confuse `model`, which was trained on the suspects, in place; yields at every look.

        Where the confusion has not taken, as many steps follow as before, twice at most, under a
        third of the weight, on confusing images that are shifted and mirrored. Large networks know
        the suspects by heart, and soon the confusing samples too, and then nothing is left to learn
        that would change the others: of 1,000 clean digits (seed 0) ResNet-18 kept 9 % of the
        calibration, then 5 and 4 % (design note 0002, Larger networks).

        Args:
            model: on the device of the data.
            suspects: what it was trained on.
            trusted: clean samples, to be confused with.
            seed: decides everything random.
            progress: called with the stage `confuse`.
            store: what to resume from.
            has_taken: tells so from what the model says after the usual looks, before the larger
                weight of few trusted samples (`recall`), which is left out where it has not.

        Yields:
            What the model says of the suspects, so far.

        Raises:
            InputError: there are fewer than two trusted samples.
        """
        if len(trusted) < 2:
            raise InputError(f"expected at least two trusted samples, got {len(trusted)}")
        optimizer = torch.optim.SGD(
            model.parameters(),
            lr=self.rate,
            momentum=self.momentum,
            weight_decay=self.weight_decay,
            fused=True if suspects.device.type == "cuda" else None,
        )

        def confuse(part: _Stretch) -> Confused:
            fit_in_parts(
                model,
                partial(self._batches, suspects, trusted, part, child(seed, "from", part.first)),
                optimizer,
                scheduler=torch.optim.lr_scheduler.LambdaLR(optimizer, self._rise(part.first)),
                parts=part.end - part.first,
                steps=_PART,
                seed=child(seed, "from", part.first),
                name=f"confuse-{part.first}",
                loss=self._loss(min(self.batch_size, trusted.pool_size), part.weight),
                precision=self.precision,
                replay=True,
                progress=partial(
                    _onward, progress, part.first * _PART, max(total, _PART * part.end)
                ),
                store=store,
            )
            return dataclasses.replace(
                confused(model, suspects),
                steps=_PART * part.end,
                is_further=part.augment is not None,
            )

        total = self.steps(len(suspects), len(trusted))
        usual = self._stretches(len(suspects), len(trusted))
        first = [part for part in usual if part.weight == usual[0].weight]
        later = usual[len(first) :]
        for part in first:
            said = confuse(part)
            yield said
        if has_taken(said):
            for part in later:
                yield confuse(part)
            return
        for again in range(1, _MORE + 1):
            said = confuse(first[-1].further(again))
            yield said
            if has_taken(said):
                return

    def _rise(self, first: int) -> Callable[[int], float]:
        """Make the share of the rate by the step of a stretch; only the first one rises."""
        steps = 1 if first else max(1, self.warm_up)
        return lambda step: min(1.0, (step + 1) / steps)

    def _batches(
        self, suspects: Feed, trusted: Feed, stretch: "_Stretch", seed: Seed, part: int
    ) -> Iterator[Batch]:
        named = child(seed, "part", part)
        wrong = trusted.endless(
            self.batch_size, seed=child(named, "trusted"), augment=stretch.augment
        )
        given = suspects.endless(self.batch_size, seed=child(named, "suspects"))
        for _, first, second in zip(range(_PART), wrong, given, strict=False):
            yield _joined(first, second)

    def _loss(self, first: int, weight: float) -> Loss:
        def loss(said: Float[Tensor, "batch classes"], batch: Batch) -> Float[Tensor, ""]:
            labels = batch.targets[:first]
            wrong = wrong_labels(labels, classes=said.shape[1], suspect_weight=weight)
            confused = nn.functional.cross_entropy(said[:first], wrong)
            given = batch.targets[first:]
            surprise = nn.functional.cross_entropy(said[first:], given, reduction="none")
            forgotten = math.log(len(given)) - torch.logsumexp(-surprise, 0)
            return (1 - weight) * confused + weight * forgotten

        return loss


@record
class _Stretch:
    """From one look to the next, in parts."""

    first: int
    end: int
    weight: float
    """Of the suspects."""
    augment: Augment | None = None
    """Of the trusted samples."""

    def further(self, again: int) -> "_Stretch":
        """Go on after this one, the last of the usual ones, which the others followed from 0."""
        return _Stretch(
            first=again * self.end,
            end=(again + 1) * self.end,
            weight=self.weight / _WEAKER**again,
            augment=_MOVED,
        )


ROWS = Confusion(
    suspect_weight=0.12, recall=1.0, epochs=6.0, looks=3, rate=0.03, warm_up=0, momentum=0.9
)
"""For tables and features. Their networks have no batch normalisation and learn clean rows by heart
again under the settings for images: of news texts 12 to 15 % of the calibration kept their label.
The three looks are there because some triggers stand out early and are joined by such rows, and
faint ones need long."""


def wrong_labels(
    labels: Tensor, *, classes: int, suspect_weight: float
) -> Float[Tensor, "batch classes"]:
    """Spread probability evenly over all classes but the label.

    Of two classes the label keeps nearly half: the other one alone would teach the opposite
    meaning, under which every clean sample that looks like the other class stands out. What it
    keeps balances the pull of the suspects at even odds.

    Example:
        >>> wrong_labels(torch.tensor([0, 2]), classes=3, suspect_weight=0.1).tolist()
        [[0.0, 0.5, 0.5], [0.5, 0.5, 0.0]]
    """
    kept = max(0.0, 0.5 - suspect_weight) / (1 - suspect_weight) if classes == 2 else 0.0
    spread = torch.full((len(labels), classes), (1 - kept) / (classes - 1), device=labels.device)
    return spread.scatter_(1, labels[:, None], kept)


@record
class Confused:
    """What a confused model says of every sample; float32 on the CPU."""

    own: Float[Tensor, " samples"]
    """Log-odds of the given label, in nats: 0 where it has half of the probability, and
    -log(classes - 1) where the model knows nothing."""
    other: Float[Tensor, " samples"]
    """The highest log-odds of another label."""
    predicted: Int64[Tensor, " samples"]
    """The label that the model fits best."""
    features: Float[Tensor, "samples dims"]
    """Penultimate ones; of a model without a linear layer, its logits."""
    steps: int = 0
    """After how many steps of the confusion."""
    is_further: bool = False
    """Whether it was confused for longer than usual, because the confusion had not taken."""

    def subset(self, rows: slice) -> "Confused":
        """Keep what it says of some samples."""
        return dataclasses.replace(
            self,
            own=self.own[rows],
            other=self.other[rows],
            predicted=self.predicted[rows],
            features=self.features[rows],
        )


def confused(model: nn.Module, data: Feed) -> Confused:
    """Read off every sample how sure the confused model is, of its label and of others.

    In float32 whatever the model was trained in: the test looks at the few highest scores, and
    bfloat16 has three digits. Of two clean sets of CIFAR-10 the smallest adjusted p-value was .20
    and .011 read in bfloat16, and .43 and .035 in float32 (same trained models).
    """
    said = extract(model, data, precision=Precision.FP32)
    odds = log_odds(said.logits)
    own = data.labels[:, None]
    return Confused(
        own=odds.gather(1, own).squeeze(1).float(),
        other=odds.scatter(1, own, -torch.inf).amax(1).float(),
        predicted=odds.argmax(1),
        features=said.features,
    )


def log_odds(
    said: Float[Tensor, "samples classes"],
) -> Float64[Tensor, "samples classes"]:
    """Turn logits into the log-odds of every label, in nats, within 27.6 of 0."""
    return torch.special.logit(said.double().softmax(1), eps=1e-12)


def _onward(progress: Progress, before: int, total: int, _: str, done: int, __: int) -> None:
    """Report the progress of a stretch as that of the whole."""
    progress("confuse", before + done, total)


def _joined(first: Batch, second: Batch) -> Batch:
    return Batch(
        inputs=torch.cat([first.inputs, second.inputs]),
        targets=torch.cat([first.targets, second.targets]),
        rows=torch.cat([first.rows, second.rows]),
    )
