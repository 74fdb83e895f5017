"""Compare settings and losses of the confusion, on the attacks that the defaults are tuned on."""

import argparse
import copy
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

import grid
from assay.audits.dataset import Confusion
from assay.audits.dataset.audit import standardised
from assay.audits.dataset.confusion import confused, wrong_labels
from assay.fitting import Augment, Batch, Feed, Preprocess, Recipe, fit, train
from assay.fitting.loop import Loss
from assay.randomness import Seed, child, generator, isolated
from assay.records import record
from assay.samples import Samples
from assay.stats import auroc, tpr_at_fpr
from assay_zoo.scenarios import SCENARIOS
from dataset_audit import SIZES
from experiment import CLEAN, Case, fed, prepare, untrained

RESULTS = grid.HERE / "results" / "confusion-settings"

VERSION = 1
"""To be raised when the code changes what is measured."""

UPPER = 0.01
"""Share of the calibration above the threshold at which classes are compared."""

TUNED = (*(name for name, scenario in SCENARIOS.items() if scenario.tuned), CLEAN)

FIRST = Recipe(epochs=10)


@record
class Variant:
    """A loss and its settings."""

    drawn: bool
    """Whether one wrong label is drawn, instead of spreading the probability over all of them."""
    bounded: bool
    """Whether the suspects' loss is 1 - p, instead of -log p."""
    trusted_weight: float
    """1 - 1 / lambda."""
    rate: float
    shifts: bool
    """Whether the images are shifted in the first training."""

    @property
    def name(self) -> str:
        """Readable, for file names and tables."""
        wrong, kept = "drawn" if self.drawn else "uniform", "1-p" if self.bounded else "log"
        shifts = "-shifts" if self.shifts else ""
        return f"{wrong}-{kept}-w{self.trusted_weight:.3f}-r{self.rate:g}{shifts}"


def variants() -> Iterator[Variant]:
    losses = [
        *((True, False, weight) for weight in (19 / 20, 4 / 5)),
        (False, False, 4 / 5),
        *((False, True, weight) for weight in (1 / 2, 0.6, 2 / 3)),
    ]
    for (drawn, bounded, weight), rate, shifts in itertools.product(
        losses, (0.03, 0.1), (False, True)
    ):
        yield Variant(drawn=drawn, bounded=bounded, trusted_weight=weight, rate=rate, shifts=shifts)


def main() -> int:
    asked = _parser().parse_args()
    torch.set_num_threads(asked.threads)
    groups = [
        _group(_case(asked, scenario, seed), shifts=shifts)
        for seed in asked.seeds
        for scenario in asked.scenario
        for shifts in (False, True)
    ]
    failed = grid.run(groups, RESULTS, device=asked.device, shard=(0, 1))
    cells = [cell.path(RESULTS) for group in groups for cell in group.cells]
    print(table([grid.read(path) for path in cells if path.exists()]))
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--data", choices=[name for name in SIZES if name != "breast-cancer"], default="cifar10")
    add("--scenario", nargs="+", choices=TUNED, default=TUNED)
    add("--seeds", nargs="+", type=int, default=[0])
    add("--device", type=torch.device, default=torch.device("cpu"))
    add("--threads", type=int, default=1)
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
        training=FIRST,
        device=asked.device,
    )


def _group(case: Case, *, shifts: bool) -> grid.Group:
    """List the variants that go on from the same first training."""
    cells = tuple(_cell(case, variant) for variant in variants() if variant.shifts == shifts)
    name = f"settings-{case.data}-{case.scenario}-s{case.seed}{'-shifts' if shifts else ''}"
    return grid.Group(name=f"{name}-{case.digest}", cells=cells)


def _cell(case: Case, variant: Variant) -> grid.Cell:
    recipe = {"kind": "confusion", "variant": repr(variant), "name": variant.name}
    return grid.Cell(
        name=f"{case.data}-{case.scenario}-s{case.seed}-{variant.name}",
        kind=f"{case.data} confusion",
        recipe={**case.recipe, **recipe, "confusion": repr(Confusion()), "version": VERSION},
        measure=lambda: _measure(case, variant, _first(case, shifts=variant.shifts)),
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
def _first(case: Case, *, shifts: bool) -> _First:
    prepared = prepare(case)
    calibration, held = _halves(prepared.split.trusted, case.part("halves"))
    inputs = torch.cat([prepared.suspects.inputs[:], calibration.inputs[:]])
    labels = torch.cat([prepared.suspects.labels, calibration.labels])
    ready = Preprocess.of(prepared.split.trusted.inputs)
    suspects = fed(case, inputs, labels, ready)
    with isolated(case.part("network"), torch.device("cpu")):
        model = untrained(case, prepared.suspects)
    recipe = Recipe(epochs=case.training.epochs, augment=Augment() if shifts else None)
    train(model, suspects, recipe, seed=case.part("first"))
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
    scores = standardised(said, slice(cut, None))
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
    settings = Confusion(rate=variant.rate, trusted_weight=variant.trusted_weight)
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=settings.rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    size, steps = settings.batch_size, settings.steps(len(first.suspects))
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
        loss = _loss(variant, min(size, len(first.trusted)), random)
        fit(model, batches(), optimizer, loss=loss)


def _loss(variant: Variant, trusted: int, random: torch.Generator) -> Loss:
    def loss(said: Float[Tensor, "batch classes"], batch: Batch) -> Float[Tensor, ""]:
        wrong = wrong_labels(batch.targets[:trusted], classes=said.shape[1])
        if variant.drawn:
            wrong = torch.multinomial(wrong, 1, generator=random).squeeze(1)
        confusion = nn.functional.cross_entropy(said[:trusted], wrong)
        kept = -nn.functional.cross_entropy(
            said[trusted:], batch.targets[trusted:], reduction="none"
        )
        suspects = 1 - kept.exp() if variant.bounded else -kept
        weight = variant.trusted_weight
        return weight * confusion + (1 - weight) * suspects.mean()

    return loss


def table(cells: Sequence[Mapping[str, Any]]) -> str:
    """Mean over attacks and seeds, the worst attack, and what clean samples do, by variant."""
    lines = [
        f"{'variant':<32} cells  AUROC (worst)  TPR at 0.5 % (worst)  odds (all, clean)  even odds"
    ]
    for name in dict.fromkeys(cell["recipe"]["name"] for cell in cells):
        own = [cell for cell in cells if cell["recipe"]["name"] == name]
        results = [cell["result"] for cell in own]
        unattacked = [c["result"] for c in own if c["recipe"]["scenario"] == CLEAN]
        lines.append(
            f"{name:<32} {len(own):>5}  {_spread(results, 'auroc'):>13}  "
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
