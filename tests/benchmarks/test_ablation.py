"""What the ablation leaves out is what it says."""

import pytest
import torch

from ablation import ALPHA, VARIANTS, p_values, section
from assay.audits.models import KINDS
from assay.audits.models.survey import Survey
from assay.triggers import ANY, Candidates, Canvases, Patches, Signals, Warps

CLASSES = 10
UNSURE = {"without the usual spread"}
"""A spread estimated from ten candidates is often too small: false alarms are what it shows."""


def surveys(*, planted: type | None) -> list[Survey]:
    """Two models that differ by chance; the first has a backdoor to class 4 in one family."""
    found = []
    for place, kind in enumerate(KINDS):
        random = torch.Generator().manual_seed(place)
        classes = kind.within / 4 * torch.randn(CLASSES, generator=random)
        noise = kind.between / 2 * torch.randn(2, CLASSES, generator=random)
        margins = classes + noise
        if planted is not None and isinstance(kind.family, planted) and not kind.by_source:
            margins[0, 4] += 8 * kind.within
        found.append(
            Survey(
                kind=kind,
                asked=CLASSES,
                candidates=Candidates(
                    sources=torch.full((CLASSES,), ANY), targets=torch.arange(CLASSES)
                ),
                margins=margins,
                asr=margins.sigmoid(),
                typical=torch.ones(CLASSES, dtype=torch.bool),
            )
        )
    return found


@pytest.mark.parametrize(
    ("family", "name"),
    [
        (Signals, "without signals"),
        (Patches, "without patches"),
        (Warps, "without warps"),
        (Canvases, "without whole images"),
    ],
)
def test_a_backdoor_of_one_family_is_found_by_that_family_alone(family, name) -> None:
    for variant in VARIANTS:
        first, second = p_values(surveys(planted=family), VARIANTS[variant])
        assert (first <= ALPHA) == (variant != name), variant
        assert second > ALPHA or variant in UNSURE, variant


def test_honest_models_are_left_alone() -> None:
    for name, variant in VARIANTS.items():
        assert min(p_values(surveys(planted=None), variant)) > ALPHA or name in UNSURE, name


def cell(poisoned: list[bool], p: list[float], data: str = "digits") -> dict[str, object]:
    return {
        "recipe": {"data": data},
        "result": {
            "poisoned": poisoned,
            "p_values": {"everything": p, "without warps": [1.0, 1.0]},
            "evidence": {
                "asr": [0.9, None],
                "asr_gap": [0.8 if poisoned[0] else 0.1, 0.2],
                "kept": [0.5, 0.5],
                "cka_fall": [None, None],
            },
        },
    }


def test_the_table_counts_what_is_stored() -> None:
    cells = [
        cell([True, False], [0.01, 0.5]),
        cell([True, False], [0.01, 0.02]),
        cell([False, False], [0.6, 0.7]),
    ]
    text = "\n".join(section(cells, {"digits": "Held out, mostly"}))
    assert "Held out, mostly." in text
    assert "| everything | 1 of 2 | 1 of 2 | 0 of 1 | 1.000 | 0.01 | 0.6 |" in text
    assert "| without warps | 0 of 2 | 0 of 2 | 0 of 1 | 0.500 | 1 | 1 |" in text
    assert "without patches" not in text, "it was not measured"
    assert "| its success, less that on the other model | 1.000 |" in text
    assert "at the last depth | — |" in text
