"""Which models stand beside each other, and what their table says."""

import argparse

import pytest
import torch

from assay_zoo.scenarios import SCENARIOS, Learner
from models_audit import VERSION, case_of, pairs, parser_of, table

CPU = torch.device("cpu")


def test_models_stand_beside_honest_ones_that_learn_as_they_do() -> None:
    mixed = pairs(["badnets", "unlabelled-grid"], 1, 2)[:2]
    assert mixed == [
        (("badnets", 0), ("clean", 0)),
        (("unlabelled-grid", 0), ("clean+fixmatch", 1)),
    ]
    asked = argparse.Namespace(device=CPU, network="default")
    cases = [case_of(asked, "digits", named) for pair in mixed for named in pair]
    assert [case.labelled for case in cases] == [None, None, 10, 10]
    assert [case.scenario for case in cases] == ["badnets", "clean", "unlabelled-grid", "clean"]
    assert len({case.digest for case in cases}) == 4
    assert case_of(asked, "cifar10", ("clean+fixmatch", 0)).labelled == 100


def test_scenarios_without_labels_are_asked_for_by_name_only() -> None:
    asked = parser_of("").parse_args([])
    assert "badnets" in asked.scenario
    assert all(SCENARIOS[name].learner is Learner.SUPERVISED for name in asked.scenario)


def model(name: str, *, poisoned: bool) -> dict[str, object]:
    return {
        "name": name,
        "poisoned": poisoned,
        "targets": [],
        "verdict": "flagged" if poisoned else "no_indicator",
        "p_value": 0.01 if poisoned else 1.0,
        "family": "patch",
        "source": None,
        "target": None,
        "asr": 0.9,
        "asr_other": 0.1,
        "asr_tuned": None,
    }


@pytest.mark.parametrize("measured", [True, False])
def test_the_quality_of_encoders_is_shown_where_it_was_measured(measured) -> None:
    result = {
        "verdict": "flagged",
        "true_asr": 0.75,
        "models": [model("grid-0", poisoned=True), model("honest-1", poisoned=False)],
    }
    cell = {
        "recipe": {"data": "encoders, digits"},
        "result": result | ({"accuracy_by_neighbours": [0.9, 0.8]} if measured else {}),
    }
    text = table([cell, cell])
    assert "| grid-0 | 75.0 † | yes | yes |" in text
    said = "90.0 by 1 poisoned encoders, 80.0 by 1 honest ones."
    assert (said in text) == measured


def test_of_a_pair_that_was_measured_again_the_last_counts_and_former_ones_are_marked() -> None:
    def pair(version: int, day: int, attack: str) -> dict[str, object]:
        models = [model(f"{attack}-s0", poisoned=True), model("clean-s0", poisoned=False)]
        return {
            "recipe": {
                "data": "digits",
                "first": {"scenario": attack},
                "second": {"scenario": "clean"},
                "method": f"settings {version}",
                "version": version,
            },
            "result": {"verdict": "flagged", "true_asr": 0.9, "models": models},
            "provenance": {"date": f"2026-11-{day:02}"},
        }

    text = table([pair(VERSION, 20, "blend"), pair(2, 10, "blend"), pair(2, 10, "trojan")])
    assert text.count("| blend-s0 |") == 1
    assert text.count("| trojan-s0 ‡ |") == 1
    assert "Right model: 2 of 2" in text
