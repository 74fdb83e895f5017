from typing import Any

import dataset_settings
from assay.audits.dataset import DatasetSettings


def cell(variant: str, scenario: str, tpr: float, verdict: str = "flagged") -> dict[str, Any]:
    attacked = scenario != "clean"
    result = {
        "tpr": tpr if attacked else None,
        "fpr": 0.01,
        "auroc": 0.9 if attacked else None,
        "verdict": verdict,
        "passes_ratio": 1.5,
    }
    recipe = {"data": "digits", "scenario": scenario, "seed": 0, "device": "cpu"}
    return {"recipe": {**recipe, "variant": variant}, "result": result}


def test_variants_are_compared_on_the_cases_that_all_have() -> None:
    rows = dataset_settings.table(
        [
            cell("usual", "blend", 1.0),
            cell("usual", "badnets", 0.0),
            cell("usual", "clean", 0.0, "no_indicator"),
            cell("whole-15", "blend", 0.5, "no_indicator"),
            cell("whole-15", "clean", 0.0),
        ]
    ).splitlines()
    assert rows[0].startswith("| on 1 attacked sets, 1 clean ones |")
    assert rows[2:] == [
        "| usual | 1.0000 | 0.0100 | 0.9000 | 1 | 0 | 1.50 |",
        "| whole-15 | 0.5000 | 0.0100 | 0.9000 | 0 | 1 | 1.50 |",
    ]


def test_without_shared_cases_there_is_no_table() -> None:
    cells = [cell("usual", "blend", 1.0), cell("whole-15", "badnets", 1.0)]
    assert dataset_settings.table(cells) == "no case was measured under all variants"


def test_every_variant_changes_what_it_says() -> None:
    usual = DatasetSettings()
    changed = {name: make(usual) for name, make in dataset_settings.VARIANTS.items()}
    assert changed["usual"] == usual
    assert len({repr(settings) for settings in changed.values()}) == len(changed)
