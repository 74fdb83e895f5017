"""Keep what the search found on every model, and judge every poisoned one beside every honest one.

What is found on a model of up to 24 classes does not depend on the models beside it. Stored as
cells, it outlives the models: the table is judged anew, by the decision as it is, whenever it is
rendered. `models_audit.py --table` does that.
"""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch

import grid
from ablation import Variant, p_values
from assay.audits.models import ModelsSettings
from assay.audits.models.halves import halves
from assay.audits.models.respond import examined
from assay.audits.models.survey import Survey, candidates, survey
from assay.randomness import Seed, child
from assay.samples import Samples
from assay.stats import auroc, wilson
from assay.triggers import Candidates, Pool
from experiment import Case
from models_audit import (
    SEARCHES,
    Named,
    Shared,
    case_of,
    delivered,
    parser_of,
    partner_of,
    setting_of,
    targets_of,
    trusted_of,
)

RESULTS = grid.HERE / "results" / "models-surveys"
ALPHA = 0.05
CPU = torch.device("cpu")
"""Can read what an accelerator has found elsewhere."""


def main() -> int:
    asked = parser_of(__doc__).parse_args()
    torch.set_num_threads(asked.threads)
    groups = [
        _group(case_of(asked, data, named))
        for data in asked.data
        for named in _models(asked.scenario, asked.seeds, asked.honest)
    ]
    here = asked.device if asked.device.type != "cuda" or torch.accelerator.is_available() else CPU
    return 1 if grid.run(groups, RESULTS, device=here, shard=asked.shard) else 0


def _models(scenarios: Sequence[str], seeds: int, honest: int) -> list[Named]:
    poisoned = [(name, seed) for seed in range(seeds) for name in scenarios]
    partners = dict.fromkeys(map(partner_of, scenarios))
    return [*poisoned, *((name, seed) for name in partners for seed in range(honest))]


def _group(case: Case) -> grid.Group:
    settings = ModelsSettings()
    cell = grid.Cell(
        name=f"{case.data}-{case.scenario}-s{case.seed}-survey",
        kind=f"{case.data} survey",
        recipe={**case.recipe, "searches": _searches(settings), "version": SEARCHES},
        measure=lambda: _measure(case, settings),
    )
    return grid.Group(name=f"models-{cell.name}-{case.digest}", cells=(cell,))


def _searches(settings: ModelsSettings) -> list[str]:
    return [repr((kind.family, kind.search, kind.by_source)) for kind in settings.kinds]


def _measure(case: Case, settings: ModelsSettings) -> grid.Result:
    clean = trusted_of(case)
    store = Shared([case], settings, clean.classes)
    if clean.classes > settings.elimination.most:
        raise ValueError(f"of {clean.classes} classes, what is searched depends on other models")
    seed = child(Seed(0), "survey")
    found = {kind.key: store.load(f"{kind.key}-0") for kind in settings.kinds}
    if None in found.values():
        searched, held = _halves(clean, settings, case.device)
        images = torch.cat([searched.images, held.images])
        model = examined(delivered([case])[0], images)
        for kind in settings.kinds:
            survey(
                kind, [model], searched, held, clean.classes, elimination=settings.elimination,
                seed=seed, store=store, done=lambda: None,
            )  # fmt: skip
            found[kind.key] = store.load(f"{kind.key}-0")
    searched, held = _halves(clean, settings, CPU)
    listed = {
        kind.key: candidates(kind, searched, held, clean.classes, seed=child(seed, "candidates"))
        for kind in settings.kinds
    }
    return {
        "targets": targets_of(dataclasses.replace(case, device=CPU)),
        "kinds": {
            key: {
                "sources": listed[key].sources.tolist(),
                "targets": listed[key].targets.tolist(),
                "margins": _rounded(kept["margins"]),
                "asr": _rounded(kept["asr"]),
            }
            for key, kept in found.items()
            if kept is not None
        },
    }


def _halves(clean: Samples, settings: ModelsSettings, device: torch.device) -> tuple[Pool, Pool]:
    return halves(clean, most=settings.most_samples, seed=Seed(0), device=device)


def _rounded(values: torch.Tensor) -> list[float]:
    return [float(f"{value:.6g}") for value in values.tolist()]


def section(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Render the stored cells as Markdown: every pair judged by p-values alone."""
    settings = ModelsSettings()
    now = [c for c in cells if c["recipe"]["searches"] == _searches(settings)]
    lines = [
        "# Every poisoned model beside every honest one",
        "",
        f"Judged from {len(now)} cells in `results/models-surveys/` (`benchmarks/"
        "models_surveys.py`), each what the search found on one model, by the decision as it is. "
        "By p-values alone: the audit's last check, that the recovered trigger works, is left out. "
        "Pairs share models, so these are no independent trials. What has been looked at while the "
        "audit was built is said above; how kinds of one sort are taken together was looked at on "
        "the models of `cifar10, cuda` here.",
        "",
    ]
    for setting in sorted({setting_of(cell["recipe"]) for cell in now}):
        own = [cell for cell in now if setting_of(cell["recipe"]) == setting]
        lines += _judged(setting, own, settings)
    return lines


def _judged(
    setting: str, cells: Sequence[Mapping[str, Any]], settings: ModelsSettings
) -> list[str]:
    poisoned = [cell for cell in cells if cell["result"]["targets"]]
    honest = [cell for cell in cells if not cell["result"]["targets"]]
    null = [
        p_values(_beside(pair, settings), Variant()) for pair in itertools.combinations(honest, 2)
    ]
    mixed = {
        name: [
            p_values(_beside((one, other), settings), Variant())
            for one in poisoned
            if one["recipe"]["scenario"] == name
            for other in honest
            if partner_of(name) == _scenario(other)
        ]
        for name in dict.fromkeys(cell["recipe"]["scenario"] for cell in poisoned)
    }
    lines = [
        f"## Every pair, {setting}",
        "",
        "| Attack | Models | Right model | Honest partner flagged | Median p-value |",
        "|---|---|---|---|---|",
    ]
    for name, pairs in mixed.items():
        models = sum(cell["recipe"]["scenario"] == name for cell in poisoned)
        middle = f"{sorted(p for p, _ in pairs)[len(pairs) // 2]:.2g}" if pairs else "—"
        lines.append(
            f"| {name} | {models} | {_right(pairs)} of {len(pairs)} | {_wrong(pairs)} | {middle} |"
        )
    everything = [pair for pairs in mixed.values() for pair in pairs]
    false = sum(min(pair) <= ALPHA for pair in null)
    scores = torch.tensor([-p for p, _ in everything] + [-p for pair in null for p in pair])
    positive = torch.arange(len(scores)) < len(everything)
    ranked = f"{auroc(scores.double(), positive):.3f}" if everything and null else "—"
    interval = wilson(false, len(null)) if null else None
    spread = (
        f" (95 % Wilson interval {interval.low:.0%} to {interval.high:.0%})" if interval else ""
    )
    return [
        *lines,
        "",
        f"- Right model: {_right(everything)} of {len(everything)}; honest partners flagged: "
        f"{_wrong(everything)}.",
        f"- Honest pairs flagged: {false} of {len(null)}{spread}.",
        f"- AUROC of the p-value, poisoned models against those of honest pairs: {ranked}.",
        "",
    ]


def _scenario(cell: Mapping[str, Any]) -> str:
    recipe = cell["recipe"]
    return f"{recipe['scenario']}{'+fixmatch' * ('labelled' in recipe)}"


def _right(pairs: Sequence[Sequence[float]]) -> int:
    return sum(p <= ALPHA < q for p, q in pairs)


def _wrong(pairs: Sequence[Sequence[float]]) -> int:
    return sum(q <= ALPHA for _, q in pairs)


def _beside(pair: Sequence[Mapping[str, Any]], settings: ModelsSettings) -> list[Survey]:
    surveys = []
    for kind in settings.kinds:
        both = [cell["result"]["kinds"][kind.key] for cell in pair]
        surveys.append(
            Survey(
                kind=kind,
                asked=len(both[0]["targets"]),
                candidates=Candidates(
                    sources=torch.tensor(both[0]["sources"]),
                    targets=torch.tensor(both[0]["targets"]),
                ),
                margins=torch.tensor([each["margins"] for each in both]),
                asr=torch.tensor([each["asr"] for each in both]),
                typical=torch.ones(len(both[0]["targets"]), dtype=torch.bool),
            )
        )
    return surveys


if __name__ == "__main__":
    raise SystemExit(main())
