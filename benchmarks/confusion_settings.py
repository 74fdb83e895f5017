"""Compare settings and losses of the confusion, on the attacks that the defaults are tuned on."""

import argparse
import copy
import dataclasses
import enum
import functools
import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

import grid
from assay.audits.dataset import Confusion, DatasetSettings
from assay.audits.dataset.confusion import confused, log_odds, wrong_labels
from assay.audits.dataset.scoring import standardised
from assay.features import extract
from assay.fitting import Batch, Feed, Precision, Preprocess, Recipe, fit, train
from assay.fitting.loop import Loss
from assay.randomness import Seed, child, generator, isolated
from assay.records import record
from assay.samples import Samples
from assay.stats import auroc, tpr_at_fpr
from assay_zoo.data import TABLES
from assay_zoo.scenarios import SCENARIOS
from dataset_audit import SIZES, shard
from experiment import CLEAN, Case, fed, prepare, untrained

RESULTS = grid.HERE / "results" / "confusion-settings"

VERSION = 3
"""To be raised when the code changes what is measured."""

UPPER = 0.01
"""Share of the calibration above the threshold at which classes are compared."""

TUNED = (*(name for name, scenario in SCENARIOS.items() if scenario.tuned), CLEAN)

FIRST = (10, 15)
"""Epochs of the first training that are compared, unless the command says otherwise."""


class Pull(enum.StrEnum):
    """The suspects' loss, of the probability p of the label."""

    LOG = "log"
    """The mean of -log p."""
    ONE_LESS = "1-p"
    """The mean of 1 - p."""
    LOG_MEAN = "log-mean"
    """-log of the mean of p."""


@record
class Variant:
    """A loss and its weights."""

    drawn: bool
    """Whether one wrong label is drawn, instead of spreading the probability over all of them."""
    pull: Pull
    suspect_weight: float
    """1 / lambda."""
    first: int
    """Epochs of the first training."""
    momentum: float = 0.9
    rate: float = 0.03
    epochs: float = 6.0
    warm_up: int = 0
    """Steps over which the rate rises."""

    @property
    def name(self) -> str:
        """Readable, for file names and tables."""
        wrong = "drawn" if self.drawn else "uniform"
        rise = f"-rise-{self.warm_up}" if self.warm_up else ""
        pace = f"{self.momentum:g}-{self.rate:g}-{self.epochs:g}{rise}"
        return f"{wrong}-{self.pull.value}-{self.suspect_weight:g}-{pace}-after-{self.first}"


PACES = (
    (0.0, 0.03, 3.0, 0.12, 0),
    (0.0, 0.1, 4.0, 0.06, 0),
    (0.0, 0.2, 4.0, 0.06, 0),
    (0.0, 0.2, 4.0, 0.06, 50),
    (0.0, 0.2, 2.0, 0.06, 50),
    (0.0, 0.2, 4.0, 0.03, 0),
    (0.0, 0.3, 6.0, 0.06, 0),
)
"""Momentum, rate, epochs, weight of the suspects and steps of the rise, for the audit's loss."""


def variants(first: Sequence[int]) -> Iterator[Variant]:
    losses = [
        (True, Pull.LOG, 0.05),
        (False, Pull.LOG, 0.05),
        (False, Pull.LOG, 0.2),
        *((False, Pull.ONE_LESS, weight) for weight in (0.4, 0.5)),
        *((False, Pull.LOG_MEAN, weight) for weight in (0.06, 0.12, 0.2)),
    ]
    for after, (drawn, pull, weight) in itertools.product(first, losses):
        yield Variant(drawn=drawn, pull=pull, suspect_weight=weight, first=after)
    for after, (momentum, rate, epochs, weight, warm_up) in itertools.product(first, PACES):
        yield Variant(
            drawn=False,
            pull=Pull.LOG_MEAN,
            suspect_weight=weight,
            first=after,
            momentum=momentum,
            rate=rate,
            epochs=epochs,
            warm_up=warm_up,
        )


def main() -> int:
    asked = _parser().parse_args()
    torch.set_num_threads(asked.threads)
    groups = [
        _group(_case(asked, scenario, seed), first)
        for seed in asked.seeds
        for first in sorted(asked.first, reverse=True)
        for scenario in asked.scenario
    ]
    failed = grid.run(groups, RESULTS, device=asked.device, shard=asked.shard)
    cells = [cell.path(RESULTS) for group in groups for cell in group.cells]
    print(table([grid.read(path) for path in cells if path.exists()]))
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--data", choices=[name for name in SIZES if name not in TABLES], default="cifar10")
    add("--scenario", nargs="+", choices=TUNED, default=TUNED)
    add("--seeds", nargs="+", type=int, default=[0])
    add("--first", nargs="+", type=int, default=FIRST, help="epochs of the first training")
    add("--device", type=torch.device, default=torch.device("cpu"))
    add("--threads", type=int, default=1)
    add("--shard", type=shard, default=(0, 1), help="such as 0/2: the first of two processes")
    return parser


def _case(asked: argparse.Namespace, scenario: str, seed: int) -> Case:
    size, trusted, test = SIZES[asked.data]
    return Case(
        data=asked.data,
        train=size,
        trusted=trusted,
        test=test,
        scenario=scenario,
        seed=seed,
        network="default",
        training=Recipe(),
        device=asked.device,
    )


def _group(case: Case, first: int) -> grid.Group:
    """List the variants that go on from the same first training."""
    cells = tuple(_cell(case, variant) for variant in variants([first]))
    name = f"settings-{case.data}-{case.scenario}-s{case.seed}-after-{first}"
    return grid.Group(name=f"{name}-{case.digest}", cells=cells)


def _cell(case: Case, variant: Variant) -> grid.Cell:
    recipe = {"kind": "confusion", "variant": repr(variant), "name": variant.name}
    return grid.Cell(
        name=f"{case.data}-{case.scenario}-s{case.seed}-{variant.name}",
        kind=f"{case.data} confusion",
        recipe={**case.recipe, **recipe, "confusion": repr(Confusion()), "version": VERSION},
        measure=lambda: _measure(case, variant, _first(case, variant.first)),
    )


@record
class _First:
    """A model of the suspects and of half of the trusted samples, and what it was trained on."""

    model: nn.Module
    suspects: Feed
    """The calibration is at the end."""
    trusted: Feed
    """The other half, to be confused with."""


@functools.lru_cache(maxsize=1)
def _first(case: Case, epochs: int) -> _First:
    prepared = prepare(case)
    calibration, held = _halves(prepared.split.trusted, case.part("halves"))
    inputs = torch.cat([prepared.suspects.inputs[:], calibration.inputs[:]])
    labels = torch.cat([prepared.suspects.labels, calibration.labels])
    ready = Preprocess.of(prepared.split.trusted.inputs)
    suspects = fed(case, inputs, labels, ready)
    with isolated(case.part("network"), torch.device("cpu")):
        model = untrained(case, prepared.suspects)
    train(model, suspects, Recipe(epochs=epochs), seed=case.part("first"))
    return _First(
        model=model, suspects=suspects, trusted=fed(case, held.inputs, held.labels, ready)
    )


def _halves(trusted: Samples, seed: Seed) -> tuple[Samples, Samples]:
    random = generator(seed, torch.device("cpu"))
    order = torch.randperm(len(trusted), generator=random)
    half = len(trusted) // 2
    return trusted.subset(order[:half]), trusted.subset(order[half:])


def _measure(case: Case, variant: Variant, first: _First) -> grid.Result:
    model = copy.deepcopy(first.model)
    _confuse(model, first, variant, case.part("confuse"))
    said = confused(model, first.suspects)
    poisoned = prepare(case).poisoned
    cut = len(poisoned.labels)
    settings, labels = DatasetSettings(), first.suspects.labels[:, None]
    before = extract(first.model, first.suspects, precision=Precision.FP32)
    known = log_odds(before.logits).gather(1, labels).squeeze(1).float()
    scores = standardised(
        said, known, slice(cut, None), other_from=settings.other_from, doubt=settings.doubt
    )
    judged = ~poisoned.is_cover
    own, truth = scores[:cut][judged], poisoned.is_poison[judged]
    attacked = bool(truth.any())
    clean = ~poisoned.is_poison & ~poisoned.is_cover
    return {
        "auroc": auroc(own, truth) if attacked else None,
        "tpr_at_half_percent": tpr_at_fpr(own, truth, max_fpr=0.005) if attacked else None,
        "largest_odds": largest_odds(scores[:cut], poisoned.labels, clean, scores[cut:]),
        "even": (said.own[cut:] > 0).double().mean().item(),
    }


def largest_odds(
    scores: Float[Tensor, " samples"],
    labels: Tensor,
    clean: Bool[Tensor, " samples"],
    calibration: Float[Tensor, " calibration"],
) -> float:
    """How many times as often as the calibration the worst class of clean samples exceeds.

    At the threshold that the upper 1 % of the calibration, all classes together, exceeds.
    """
    high = torch.quantile(calibration.double(), 1 - UPPER).item()
    shared = (calibration > high).double().mean().item()
    shares = [
        (scores[clean & (labels == label)] > high).double().mean().item()
        for label in labels[clean].unique().tolist()
    ]
    return max(shares) / shared


def _confuse(model: nn.Module, first: _First, variant: Variant, seed: Seed) -> None:
    settings = dataclasses.replace(Confusion(), epochs=variant.epochs, recall=1.0)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=variant.rate,
        momentum=variant.momentum,
        weight_decay=settings.weight_decay,
    )
    rise = max(1, variant.warm_up)
    scheduler = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, (step + 1) / rise)
    )
    size = settings.batch_size
    steps = settings.steps(len(first.suspects), len(first.trusted))
    wrong = first.trusted.endless(size, seed=child(seed, "trusted"))
    given = first.suspects.endless(size, seed=child(seed, "suspects"))

    def batches() -> Iterator[Batch]:
        for _, one, two in zip(range(steps), wrong, given, strict=False):
            yield Batch(
                inputs=torch.cat([one.inputs, two.inputs]),
                targets=torch.cat([one.targets, two.targets]),
                rows=torch.cat([one.rows, two.rows]),
            )

    random = generator(child(seed, "labels"), first.trusted.device)
    with isolated(child(seed, "dropout"), first.trusted.device):
        weight = variant.suspect_weight * min(1.0, len(first.trusted) / settings.full_weight_from)
        loss = _loss(variant, weight, min(size, len(first.trusted)), random)
        fit(model, batches(), optimizer, scheduler=scheduler, loss=loss)


def _loss(variant: Variant, weight: float, trusted: int, random: torch.Generator) -> Loss:
    def loss(said: Float[Tensor, "batch classes"], batch: Batch) -> Float[Tensor, ""]:
        labels = batch.targets[:trusted]
        wrong = wrong_labels(labels, classes=said.shape[1], suspect_weight=weight)
        if variant.drawn:
            wrong = torch.multinomial(wrong, 1, generator=random).squeeze(1)
        confusion = nn.functional.cross_entropy(said[:trusted], wrong)
        given = batch.targets[trusted:]
        log_p = -nn.functional.cross_entropy(said[trusted:], given, reduction="none")
        return (1 - weight) * confusion + weight * _pull(variant.pull, log_p)

    return loss


def _pull(pull: Pull, log_p: Float[Tensor, " suspects"]) -> Float[Tensor, ""]:
    if pull is Pull.LOG:
        return -log_p.mean()
    if pull is Pull.ONE_LESS:
        return (1 - log_p.exp()).mean()
    return math.log(len(log_p)) - torch.logsumexp(log_p, 0)


def table(cells: Sequence[Mapping[str, Any]]) -> str:
    """Mean over attacks and seeds, the worst attack, and what clean samples do, by variant."""
    lines = [
        f"{'variant':<42} cells  AUROC (worst)  TPR at 0.5 % (worst)  odds (all, clean)  even odds"
    ]
    for name in dict.fromkeys(cell["recipe"]["name"] for cell in cells):
        own = [cell for cell in cells if cell["recipe"]["name"] == name]
        results = [cell["result"] for cell in own]
        unattacked = [c["result"] for c in own if c["recipe"]["scenario"] == CLEAN]
        lines.append(
            f"{name:<42} {len(own):>5}  {_spread(results, 'auroc'):>13}  "
            f"{_spread(results, 'tpr_at_half_percent'):>20}  "
            f"{_most(results, 'largest_odds'):>9} {_most(unattacked, 'largest_odds'):>7}  "
            f"{_most(results, 'even'):>9}"
        )
    return "\n".join(lines)


def _spread(results: Sequence[Mapping[str, Any]], key: str) -> str:
    known = [result[key] for result in results if result[key] is not None]
    return f"{sum(known) / len(known):.3f} ({min(known):.3f})" if known else "-"


def _most(results: Sequence[Mapping[str, Any]], key: str) -> str:
    known = [result[key] for result in results]
    return f"{max(known):.3g}" if known else "-"


if __name__ == "__main__":
    raise SystemExit(main())
