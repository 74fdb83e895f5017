"""Every poisoned model is judged beside every honest one, from what the searches found."""

from typing import Any

import torch

from assay.audits.models import KINDS, ModelsSettings
from models_surveys import _searches, section

CLASSES = 10


def cell(scenario: str, seed: int, *, target: int | None = None) -> dict[str, Any]:
    """What searches would find, with a target that stands out by 20 spreads in every kind."""
    kinds = {}
    for place, kind in enumerate(KINDS):
        random = torch.Generator().manual_seed(1000 * seed + place)
        margins = 0.2 * kind.between * torch.randn(CLASSES, generator=random)
        if target is not None:
            margins[target] += 20 * kind.between
        kinds[kind.key] = {
            "sources": [-1] * CLASSES,
            "targets": list(range(CLASSES)),
            "margins": margins.tolist(),
            "asr": margins.sigmoid().tolist(),
        }
    return {
        "recipe": {
            "data": "digits",
            "scenario": scenario,
            "seed": seed,
            "searches": _searches(ModelsSettings()),
        },
        "result": {"targets": [] if target is None else [target], "kinds": kinds},
    }


def test_all_pairs_are_judged_and_former_searches_left_out() -> None:
    cells = [cell("clean", seed) for seed in range(3)]
    cells += [
        cell("badnets", 5, target=4),
        cell("badnets", 6, target=2),
        cell("blend", 7, target=1),
    ]
    former = cell("blend", 8, target=1)
    former["recipe"]["searches"] = ["of another day"]
    text = "\n".join(section([*cells, former]))
    assert "Judged from 6 cells" in text
    assert "| badnets | 2 | 6 of 6 | 0 |" in text
    assert "| blend | 1 | 3 of 3 | 0 |" in text
    assert "Right model: 9 of 9; honest partners flagged: 0." in text
    assert "Honest pairs flagged: 0 of 3" in text


def test_a_backdoor_that_no_search_sees_is_not_counted_as_right() -> None:
    cells = [cell("clean", seed) for seed in range(2)]
    hidden = cell("sig", 5)
    hidden["result"]["targets"] = [3]
    text = "\n".join(section([*cells, hidden]))
    assert "| sig | 1 | 0 of 2 | 0 |" in text
