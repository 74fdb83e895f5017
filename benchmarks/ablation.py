"""What each part of the models audit's decision earns: the same searches, judged without it."""

import dataclasses
import statistics
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from assay.audits.models.decision import USUAL, Decision
from assay.audits.models.survey import Kind, Survey
from assay.records import record
from assay.stats import auroc, holm
from assay.triggers import Canvases, Patches, Signals, Warps

ALPHA = 0.05
_NEARLY = 1e-9
_FREEDOM = 10.0  # of all kinds, where none has a tail of its own

Keep = Callable[[Kind], bool]


@record
class Variant:
    """A decision that lacks a part."""

    keep: Keep = lambda _: True
    """Kinds that are asked about; the others' shares of the error budget go to them."""
    decision: Decision = Decision()
    learns_width: bool = True
    has_tails: bool = True
    """Whether every kind has a tail of its own."""
    noise: bool = True
    """Whether triggers are searched under noise: without, on other searches."""


def _without(*families: type) -> Keep:
    return lambda kind: kind.by_source or not isinstance(kind.family, families)


VARIANTS: dict[str, Variant] = {
    "everything": Variant(),
    "without the other models": Variant(decision=Decision(alone_share=1 - _NEARLY)),
    "without the evidence of a model alone": Variant(decision=Decision(alone_share=_NEARLY)),
    "without all kinds together": Variant(decision=Decision(together_share=0.0)),
    "without a tail for each kind": Variant(has_tails=False),
    "without either": Variant(decision=Decision(together_share=0.0), has_tails=False),
    "without signals": Variant(keep=_without(Signals)),
    "without patches": Variant(keep=_without(Patches)),
    "without warps": Variant(keep=_without(Warps)),
    "without whole images": Variant(keep=_without(Canvases)),
    "without single source classes": Variant(keep=lambda kind: not kind.by_source),
    "without the width of the task": Variant(learns_width=False),
    "without the usual spread": Variant(decision=Decision(prior=_NEARLY)),
    "with the usual spread alone": Variant(decision=Decision(prior=1 / _NEARLY)),
    "without noise": Variant(noise=False),
}


def p_values(surveys: Sequence[Survey], variant: Variant) -> list[float]:
    """Judge all models of some surveys; corrected for all that was asked, and for the models.

    The last check of the audit, that a recovered trigger works, is left out.
    """
    kept = [found for found in surveys if variant.keep(found.kind)]
    total = sum(found.kind.weight for found in kept)
    tails = [found.kind.freedom if variant.has_tails else _FREEDOM for found in kept]
    weighed = [
        dataclasses.replace(
            found,
            kind=dataclasses.replace(found.kind, weight=found.kind.weight / total, freedom=freedom),
        )
        for found, freedom in zip(kept, tails, strict=True)
    ]
    smallest = [_smallest(weighed, model, variant) for model in range(len(surveys[0].margins))]
    return holm(torch.tensor(smallest).double()).tolist()


def _smallest(surveys: Sequence[Survey], model: int, variant: Variant) -> float:
    decision = variant.decision
    width = decision.width(surveys, model) if variant.learns_width else USUAL
    joint = decision.together(surveys, model, width)
    return min(
        1.0 if joint is None else decision.corrected_together(joint),
        *(
            decision.corrected(standing, found, alone=alone)
            for found in surveys
            for alone, standing in (
                (False, decision.against_others(found, model, width)),
                (True, decision.alone(found, model, width)),
            )
        ),
    )


def section(cells: Sequence[Mapping[str, Any]], said: Mapping[str, str]) -> list[str]:
    """Render the stored cells of `models_ablation.py` as Markdown.

    Args:
        cells: all of them.
        said: what has been looked at while the audit was built, by data set.
    """
    lines = [
        "# What each part of the decision earns",
        "",
        f"Rendered from {len(cells)} cells in `results/models-ablation/` "
        "(`benchmarks/models_ablation.py`). The same pairs and searches, judged by p-values "
        "without one part; the share of the error budget that it had goes to the others. The "
        "audit's last check, that the recovered trigger works on half of the samples, is left out.",
        "",
    ]
    for data in sorted({cell["recipe"]["data"] for cell in cells}):
        results = [cell["result"] for cell in cells if cell["recipe"]["data"] == data]
        lines += [f"## Ablation, {data}", "", f"{said.get(data, 'Held out')}.", ""]
        lines += [*_judged(results), "", *_evidence(results), ""]
    return lines


def _judged(results: Sequence[Mapping[str, Any]]) -> list[str]:
    mixed = [r for r in results if r["poisoned"] == [True, False]]
    honest = [r for r in results if not any(r["poisoned"])]
    lines = [
        "| Decision | Right model | Honest partners flagged | Honest pairs flagged | AUROC | "
        "Median p, poisoned | Smallest p, honest pairs |",
        "|---|---|---|---|---|---|---|",
    ]
    for name in VARIANTS:
        found = [r["p_values"].get(name) for r in mixed]
        null = [r["p_values"].get(name) for r in honest]
        if not found or None in found + null:
            continue
        right = sum(p[0] <= ALPHA < p[1] for p in found)
        lines.append(
            f"| {name} | {right} of {len(found)} | {sum(p[1] <= ALPHA for p in found)} of "
            f"{len(found)} | {sum(min(p) <= ALPHA for p in null)} of {len(null)} | "
            f"{_ranked([-p[0] for p in found], [-one for p in null for one in p])} | "
            f"{statistics.median(p[0] for p in found):.2g} | "
            f"{min((min(p) for p in null), default=1.0):.2g} |"
        )
    return lines


def _evidence(results: Sequence[Mapping[str, Any]]) -> list[str]:
    """Show how well what is only shown parts poisoned models from honest ones by itself."""
    lines = [
        "What is shown and does not decide, by itself: AUROC, poisoned models against those of "
        "honest pairs (0.5 is chance; below it, the other direction is the better one).",
        "",
        "| Evidence on the recovered trigger | AUROC |",
        "|---|---|",
    ]
    for name, said in EVIDENCE.items():
        poisoned, honest = (
            [
                value
                for r in results
                for value, is_poisoned in zip(r["evidence"][name], r["poisoned"], strict=True)
                if value is not None
                and is_poisoned == wanted
                and (wanted or not any(r["poisoned"]))
            ]
            for wanted in (True, False)
        )
        lines.append(f"| {said} | {_ranked(poisoned, honest)} |")
    return lines


EVIDENCE = {
    "asr": "its success",
    "asr_gap": "its success, less that on the other model",
    "kept": "what is left of its success after fine-tuning (a part, in [0, 1])",
    "cka_fall": "fall of CKA with the other model on triggered samples, at the last depth",
}
"""Higher is more suspicious, as a reader would expect it."""


def _ranked(poisoned: Sequence[float], honest: Sequence[float]) -> str:
    if not poisoned or not honest:
        return "—"
    positive = torch.tensor([True] * len(poisoned) + [False] * len(honest))
    return f"{auroc(torch.tensor([*poisoned, *honest]).double(), positive):.3f}"
