"""Measure what each part of the models audit's decision earns, on the pairs of `models_audit.py`.

What the searches found is taken from the cache where it is there; the search without noise is made
for this. Rendered by `models_audit.py --table`.
"""

import argparse
import dataclasses
from collections.abc import Sequence

import torch

import grid
from ablation import VARIANTS, p_values
from assay.audits.models import Delivery, ModelResult, ModelsSettings, audit_models
from assay.audits.models.halves import halves
from assay.audits.models.respond import examined
from assay.audits.models.survey import Survey, survey
from assay.randomness import Seed, child
from assay.samples import Samples
from experiment import CLEAN, Case
from models_audit import (
    VERSION,
    Named,
    Shared,
    case_of,
    delivered,
    pairs,
    parser_of,
    trusted_of,
)

RESULTS = grid.HERE / "results" / "models-ablation"


def main() -> int:
    parser = parser_of(__doc__)
    parser.add_argument(
        "--same-searches", action="store_true", help="leave out what has to be searched anew"
    )
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    groups = [
        _group(asked, data, pair)
        for data in asked.data
        for pair in pairs(asked.scenario, asked.seeds, asked.honest)
        if pair[1][0].startswith(CLEAN)
    ]
    return 1 if grid.run(groups, RESULTS, device=asked.device, shard=asked.shard) else 0


def _group(asked: argparse.Namespace, data: str, pair: tuple[Named, Named]) -> grid.Group:
    cases = [case_of(asked, data, named) for named in pair]
    variants = [n for n, each in VARIANTS.items() if each.noise or not asked.same_searches]
    settings = ModelsSettings()
    name = f"{data}-{'-vs-'.join(f'{s}-s{seed}' for s, seed in pair)}"
    cell = grid.Cell(
        name=name,
        kind=f"{data} ablation",
        recipe={
            "data": data,
            "first": cases[0].recipe,
            "second": cases[1].recipe,
            "method": repr(settings),
            "variants": variants,
            "version": VERSION,
        },
        measure=lambda: _measure(cases, settings, variants),
    )
    return grid.Group(name=f"ablation-{name}", cells=(cell,))


def _measure(
    cases: Sequence[Case], settings: ModelsSettings, variants: Sequence[str]
) -> grid.Result:
    clean, deliveries = trusted_of(cases[0]), delivered(cases)
    still = dataclasses.replace(
        settings,
        kinds=tuple(
            dataclasses.replace(kind, search=dataclasses.replace(kind.search, noise=0.0))
            for kind in settings.kinds
        ),
    )
    needed = {VARIANTS[name].noise for name in variants}
    found = {
        noise: _surveys(cases, deliveries, clean, settings if noise else still) for noise in needed
    }
    audit = audit_models(
        deliveries,
        clean,
        settings=settings,
        seed=Seed(0),
        device=cases[0].device,
        store=Shared(cases, settings, clean.classes),
    )
    return {
        "poisoned": [case.attack is not None for case in cases],
        "p_values": {n: p_values(found[VARIANTS[n].noise], VARIANTS[n]) for n in variants},
        "evidence": _evidence(audit.models),
    }


def _surveys(
    cases: Sequence[Case],
    deliveries: Sequence[Delivery],
    clean: Samples,
    settings: ModelsSettings,
) -> list[Survey]:
    """Search as the audit does, or take from the cache what it found."""
    searched, held = halves(clean, most=settings.most_samples, seed=Seed(0), device=cases[0].device)
    images = torch.cat([searched.images, held.images])
    models = [examined(delivery, images) for delivery in deliveries]
    found = [
        survey(
            kind,
            models,
            searched,
            held,
            clean.classes,
            elimination=settings.elimination,
            seed=child(Seed(0), "survey"),
            store=Shared(cases, settings, clean.classes),
            done=lambda: None,
        )
        for kind in settings.kinds
    ]
    return [each for each in found if each is not None]


def _evidence(models: Sequence[ModelResult]) -> dict[str, list[float | None]]:
    """Take what the audit shows of each model's most suspicious trigger."""
    shown: dict[str, list[float | None]] = {"asr": [], "asr_gap": [], "kept": [], "cka_fall": []}
    for place, model in enumerate(models):
        found = model.recovered
        asr = None if found is None else found.asr[place]
        tuned = None if found is None else found.asr_tuned
        last = None if found is None else list(found.cka.values())[-1:]
        shown["asr"].append(asr)
        shown["asr_gap"].append(None if found is None else found.asr[place] - found.asr[1 - place])
        shown["kept"].append(None if not asr or tuned is None else min(1.0, tuned / asr))
        shown["cka_fall"].append(last[0][0] - last[0][1] if last else None)
    return shown


if __name__ == "__main__":
    raise SystemExit(main())
