"""Measure the training audit: engagements drawn from a bank of sub-runs, honest and not.

Settings were chosen on the sub-runs of `TUNED` of the images, with the attacks that `scenarios.py`
marks as tuned; profiles are calibrated on those sub-runs too. What is reported is drawn from the
other sub-runs, and from the texts, which only `Decision.drift` was chosen in view of.
"""

import argparse
import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from scipy.stats import ks_2samp
from torch import Tensor

import grid
import training_bank as bank
import training_table
from assay.audits.training import (
    Comparison,
    Decision,
    Delivery,
    Profile,
    TrainingSettings,
    compare,
    judge_training,
    make_profile,
)
from assay.randomness import Seed, child, generator
from assay.records import record
from assay.results import Verdict
from assay_zoo.scenarios import SCENARIOS
from dataset_audit import shard

RESULTS = grid.HERE / "results" / "training-audit"
VERSION = 2
"""Of engagements; to be raised when the code of the judgement changes what it measures."""
TUNED = {"vision": (4, 20), "language": (2, 11)}
"""Sub-runs that settings were chosen on (images) and that profiles are calibrated on (both)."""
ENGAGEMENTS = 200
FUNCTIONAL = ("vision",)
"""Where distances of answers are measured too; they cost more than the training."""
DISTANCES = ("update", "layers", "outputs", "cka", "zest")
HIDDEN = ("thin", "steps-97", "matching-0.05", "matching-0.1", "matching-0.2")
"""Deviations made to stay unseen."""
COLLUDING = ("colluding-a", "colluding-b")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", choices=bank.TASKS, default=list(bank.TASKS))
    parser.add_argument("--orders", nargs="+", choices=(bank.FIXED, bank.FREE))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shard", type=shard, default=(0, 1))
    parser.add_argument(
        "--tune", action="store_true", help="print the tuned sub-runs, store nothing"
    )
    parser.add_argument("--table", action="store_true", help="render TRAINING.md, measure nothing")
    asked = parser.parse_args()
    if asked.table:
        training_table.main()
        return 0
    torch.set_num_threads(asked.threads)
    cpu, orders = torch.device("cpu"), asked.orders or (bank.FIXED, bank.FREE)
    pairs = list(itertools.product(asked.tasks, orders))
    cells = [_distances(*pair, index) for pair in pairs for index in bank.STARTS[pair[0]]]
    groups = [grid.Group(name=cell.name, cells=(cell,)) for cell in cells]
    if grid.run(groups, RESULTS, device=cpu, shard=asked.shard):
        return 1
    if asked.tune:
        for question in questions("vision", bank.FIXED) + questions("vision", bank.FREE):
            print(question.name, grid.brief(measure(question, tuning=True)))
        return 0
    engaged = [_engaged(question) for pair in pairs for question in questions(*pair)]
    groups = [grid.Group(name=cell.name, cells=(cell,)) for cell in engaged]
    return 1 if grid.run(groups, RESULTS, device=cpu, shard=asked.shard) else 0


def _distances(task: str, kind: str, index: int) -> grid.Cell:
    """Distances between all variants of one sub-run."""
    return grid.Cell(
        name=f"distances-{task}-{kind}-{index}",
        kind=f"distances {task}",
        recipe={
            "data": task,
            "order": kind,
            "sub_run": index,
            "variants": [v.name for v in bank.variants(task, kind)],
            "environments": [v.environment for v in bank.variants(task, kind)],
            "functional": task in FUNCTIONAL,
            "samples": bank.SAMPLES,
            "steps": bank.STEPS,
            "bank": bank.VERSION,
        },
        measure=lambda: _measured(task, kind, index),
    )


def _measured(task: str, kind: str, index: int) -> grid.Result:
    ends = {v.name: bank.end(task, index, v) for v in bank.variants(task, kind)}
    found = compare(
        bank.start(task, index),
        ends,
        sub_run=index,
        network=functools.partial(bank.network, task) if task in FUNCTIONAL else None,
        probes=bank.data(task)[2] if task in FUNCTIONAL else None,
    )
    rounded = {
        name: [[float(f"{value:.5g}") for value in row] for row in matrix.tolist()]
        for name, matrix in found.distances.items()
    }
    return {"providers": list(found.providers), "distances": rounded}


@functools.cache
def stored(task: str, kind: str, index: int) -> Comparison:
    """Read the distances of a sub-run."""
    found = grid.read(_distances(task, kind, index).path(RESULTS))["result"]
    return Comparison(
        sub_run=index,
        providers=tuple(found["providers"]),
        distances={
            name: _mirrored(torch.tensor(rows, dtype=torch.float64))
            for name, rows in found["distances"].items()
        },
    )


def _mirrored(matrix: Tensor) -> Tensor:
    """Make a matrix symmetric that is so but for the rounding of its last stored digit."""
    return torch.maximum(matrix, matrix.T)


@record
class Question:
    """Engagements of one kind, judged in one way."""

    name: str
    task: str
    order: str
    scenario: str
    """`usual`, `held-out`, `hidden`, `minority`, `colluding`, or `colluding-half`."""
    profile: bool = False
    distances: tuple[str, ...] = TrainingSettings().distances
    trusted: bool = False
    published: bool = False
    """By a Kolmogorov-Smirnov test, as published."""


def questions(task: str, order: str) -> list[Question]:
    """List what is asked of a task."""
    ways: list[dict[str, Any]] = [{}]
    if order == bank.FIXED:
        ways = [{"profile": True}, {}]
    made: list[dict[str, Any]] = []
    scenarios = ["usual", *(["held-out"] if task == "vision" else [])]
    if order == bank.FIXED:
        scenarios += ["hidden", "minority", "colluding", "colluding-half"]
    made += [{"scenario": s, **way} for s, way in itertools.product(scenarios, ways)]
    if task in FUNCTIONAL:
        made.append({"scenario": "usual", "published": True})
        made += [{"scenario": "usual", "distances": (name,), **ways[0]} for name in DISTANCES]
    else:
        made.append({"scenario": "usual", "published": True})
    if order == bank.FIXED:
        for scenario in ("minority", "colluding-half"):
            made.append({"scenario": scenario, "profile": True, "trusted": True})
    return [Question(name=_name(each), task=task, order=order, **each) for each in made]


def _name(asked: Mapping[str, Any]) -> str:
    flags = [flag for flag in ("profile", "trusted", "published") if asked.get(flag)]
    return "-".join([asked["scenario"], *flags, *asked.get("distances", ())])


def _engaged(question: Question) -> grid.Cell:
    sources = [
        _distances(question.task, question.order, index).digest
        for index in bank.STARTS[question.task]
    ]
    return grid.Cell(
        name=f"engagements-{question.task}-{question.order}-{question.name}",
        kind="engagements",
        recipe={
            "data": question.task,
            "order": question.order,
            "question": question.name,
            "scenario": question.scenario,
            "profile": question.profile,
            "trusted": question.trusted,
            "published": question.published,
            "published_distance": _published_distance(question),
            "distances": list(question.distances),
            "usual_distances": list(TrainingSettings().distances),
            "settings": repr(_settings(question)),
            "engagements": ENGAGEMENTS,
            "sources": sources,
            "version": VERSION,
        },
        measure=lambda: measure(question, tuning=False),
    )


def _published_distance(question: Question) -> str:
    return "zest" if question.task in FUNCTIONAL else "update"


def _settings(question: Question) -> TrainingSettings:
    decision = Decision(free_order=question.order == bank.FREE)
    return TrainingSettings(decision=decision, distances=question.distances)


@record
class Engagement:
    """Who delivers what: the variants of some sub-runs."""

    sub_runs: tuple[int, ...]
    honest: tuple[str, ...]
    malicious: tuple[str, ...]

    @property
    def providers(self) -> tuple[str, ...]:
        """All of them."""
        return (*self.honest, *self.malicious)


def measure(question: Question, *, tuning: bool) -> grid.Result:
    """Judge engagements, and count."""
    counts = dict.fromkeys(
        ("malicious", "named", "malicious_unjudged", "honest", "accused", "honest_unjudged"), 0
    )
    tiers: dict[str, int] = {}
    missed: dict[str, int] = {}
    met: dict[str, int] = {}
    perfect = 0
    for engagement in _drawn(question, tuning=tuning):
        verdicts = _verdicts(question, engagement, tiers)
        wrong = False
        for name, verdict in verdicts.items():
            is_bad = name in engagement.malicious
            kind = "malicious" if is_bad else "honest"
            counts[kind] += 1
            counts[f"{kind}_unjudged"] += verdict is Verdict.INCONCLUSIVE
            flagged = verdict is Verdict.FLAGGED
            counts["named" if is_bad else "accused"] += flagged
            wrong |= flagged is not is_bad
            if is_bad:
                met[name] = met.get(name, 0) + 1
                missed[name] = missed.get(name, 0) + (not flagged)
        perfect += not wrong
    return {
        **counts,
        "engagements": ENGAGEMENTS,
        "perfect": perfect,
        "tiers": tiers,
        "missed": {name: [missed[name], met[name]] for name in sorted(met) if missed[name]},
    }


def _drawn(question: Question, *, tuning: bool) -> Iterator[Engagement]:
    seed = child(Seed(11 if tuning else 12), question.task, question.order, question.scenario)
    tuned = TUNED[question.task]
    pool = [i for i in bank.STARTS[question.task] if (i in tuned) == tuning]
    for number in range(ENGAGEMENTS):
        random = generator(child(seed, number), torch.device("cpu"))
        yield _engagement(question, pool, random, tuning=tuning)


def _engagement(
    question: Question, pool: Sequence[int], random: torch.Generator, *, tuning: bool
) -> Engagement:
    kinds = bank.variants(question.task, question.order)
    honest = [v.name for v in kinds if not v.malicious]
    bad = _malicious(question, [v.name for v in kinds if v.malicious], tuning=tuning)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=random))

    def some(names: Sequence[str], count: int) -> tuple[str, ...]:
        return tuple(names[i] for i in torch.randperm(len(names), generator=random)[:count])

    match question.scenario:
        case "minority":
            good, count = (1, 2) if draw(0, 1) else (2, 3)
        case "colluding":
            good, count = draw(3, 6), 2
        case "colluding-half":
            good, count = 2, 2
        case _:
            everyone = draw(4, 10)
            count = min(len(bad), draw(0, everyone // 2))
            good = everyone - count
    return Engagement(
        sub_runs=tuple(sorted(pool[i] for i in torch.randperm(len(pool), generator=random)[:3])),
        honest=some(honest, good),
        malicious=some(bad, count),
    )


def _malicious(question: Question, names: Sequence[str], *, tuning: bool) -> list[str]:
    """Which variants a scenario draws from."""
    short = {name.split(" ", 1)[1]: name for name in names}
    if question.scenario.startswith("colluding"):
        return [short[name] for name in COLLUDING]
    if question.scenario == "hidden":
        return [short[name] for name in HIDDEN]
    usual = [name for name in short if name not in HIDDEN + COLLUDING]
    tuned = [name for name in usual if name not in SCENARIOS or SCENARIOS[name].tuned]
    if question.scenario == "held-out":
        return [short[name] for name in usual if name not in tuned]
    return [short[name] for name in (tuned if tuning else usual)]


def _verdicts(
    question: Question, engagement: Engagement, tiers: dict[str, int]
) -> Mapping[str, Verdict]:
    environment = {v.name: v.environment for v in bank.variants(question.task, question.order)}
    comparisons = [
        _cut(stored(question.task, question.order, index), engagement.providers)
        for index in engagement.sub_runs
    ]
    if question.published:
        return published(comparisons, alpha=0.05, distance=_published_distance(question))
    deliveries = [
        Delivery(
            provider=name,
            sub_run=index,
            replicated=True,
            environment=environment[name],
            digest=f"{name}{index}",
            fault=None,
        )
        for name, index in itertools.product(engagement.providers, engagement.sub_runs)
    ]
    trusted = frozenset(engagement.honest[:1] if question.trusted else ())
    audit = judge_training(
        deliveries,
        comparisons,
        profile=_profile(question.task) if question.profile else None,
        settings=_settings(question),
        trusted=trusted,
    )
    for provider in audit.providers:
        if provider.tier is not None and not provider.trusted:
            tiers[provider.tier.value] = tiers.get(provider.tier.value, 0) + 1
    return {p.name: p.verdict for p in audit.providers if not p.trusted}


def _cut(comparison: Comparison, providers: Sequence[str]) -> Comparison:
    rows = torch.tensor([comparison.providers.index(name) for name in providers])
    return Comparison(
        sub_run=comparison.sub_run,
        providers=tuple(providers),
        distances={n: d[rows[:, None], rows] for n, d in comparison.distances.items()},
    )


@functools.cache
def _profile(task: str) -> Profile:
    """Calibrate on the honest executions of the tuned sub-runs."""
    variants = bank.variants(task, bank.FIXED)
    honest = {v.name: v.environment for v in variants if not v.malicious}
    twins = [_cut(stored(task, bank.FIXED, i), tuple(honest)) for i in TUNED[task]]
    return make_profile(twins, honest)


def published(
    comparisons: Sequence[Comparison], *, alpha: float, distance: str
) -> Mapping[str, Verdict]:
    """Judge by a two-sample Kolmogorov-Smirnov test, as the method was published.

    The benign set starts from the closest pair and grows by whoever is nearest, while the test
    does not tell his distances to the set from those within it, pooled over sub-runs after division
    by each one's median; Bonferroni over the other providers.
    """
    names = comparisons[0].providers
    count = len(names)
    upper = torch.triu_indices(count, count, 1)
    scaled = torch.stack(
        [d / d[upper[0], upper[1]].median().clamp(min=1e-12) for d in _of(comparisons, distance)]
    )
    mean = scaled.mean(0)
    first = min(itertools.combinations(range(count), 2), key=lambda pair: mean[pair].item())
    group = list(first)
    while left := [i for i in range(count) if i not in group]:
        nearest = min(left, key=lambda i: mean[i, group].mean().item())
        within = [scaled[:, i, j] for i, j in itertools.combinations(group, 2)]
        found = ks_2samp(scaled[:, nearest, group].flatten().numpy(), torch.cat(within).numpy())
        if found.pvalue <= alpha / max(1, count - 2):
            break
        group.append(nearest)
    return {
        name: Verdict.NO_INDICATOR if place in group else Verdict.FLAGGED
        for place, name in enumerate(names)
    }


def _of(comparisons: Sequence[Comparison], distance: str) -> Iterator[Tensor]:
    return (comparison.distances[distance] for comparison in comparisons)


if __name__ == "__main__":
    raise SystemExit(main())
