"""What the audits of models share: corrections over models, verdicts and findings."""

import time

import pytest
import torch

from assay.audits.models.conclusion import adjusted, findings, with_verdicts, without_numbers
from assay.audits.models.language import TextDecision
from assay.records import record
from assay.results import Verdict


@record
class Result:
    p_value: float | None
    reason: str = ""
    verdict: Verdict = Verdict.INCONCLUSIVE


def test_p_values_are_corrected_over_models_and_those_without_count_as_one() -> None:
    results = [Result(p_value=0.01), Result(p_value=None, reason="NaN"), Result(p_value=0.2)]
    assert adjusted(results) == pytest.approx([0.03, 1.0, 0.4])
    judged = with_verdicts(results, 0.05)
    assert [r.verdict for r in judged] == [
        Verdict.FLAGGED, Verdict.INCONCLUSIVE, Verdict.NO_INDICATOR
    ]  # fmt: skip
    assert [r.p_value for r in judged] == [pytest.approx(0.03), None, pytest.approx(0.4)]


@pytest.mark.parametrize(
    ("p_values", "verdict"),
    [
        ((0.001, None), Verdict.FLAGGED),
        ((0.9, None), Verdict.INCONCLUSIVE),
        ((0.9, 0.04), Verdict.NO_INDICATOR),
    ],
)
def test_findings_follow_from_all_models(p_values, verdict) -> None:
    found = findings(
        [Result(p_value=p) for p in p_values],
        samples=70,
        subjects=(),
        reasons=("because",),
        not_examined=(),
        alpha=0.05,
        started=time.monotonic(),
        device=torch.device("cpu"),
    )
    assert found.verdict is verdict
    assert found.audit == "models"
    assert found.cost.device == "cpu"


def test_responses_that_were_searched_shortly_count_in_the_correction() -> None:
    p_values = torch.tensor([0.001, 0.5]).double()
    decision = TextDecision()
    assert decision.corrected(p_values).tolist() == pytest.approx([0.002, 1.0])
    assert decision.corrected(p_values, asked=20).tolist() == pytest.approx([0.02, 1.0])


def test_doubt_comes_from_triggers_that_do_not_work_and_from_a_model_alone() -> None:
    def doubt(p_value: float, lowest: float, alone: float) -> str:
        return TextDecision().doubt(p_value, lowest, alone, alpha=0.05, models=2, hint="a word")

    assert not doubt(0.01, 0.01, 1e-6), "what is flagged is not doubted"
    assert not doubt(1.0, 0.2, 0.04)
    assert "none that leads" in doubt(1.0, 0.01, 1.0)
    assert "a word leads it" in doubt(1.0, 0.2, 0.02)


def test_the_model_that_answers_nan_is_named() -> None:
    names = ("a", "b", "c")
    assert [without_numbers(i, names, (True, True, True)) for i in range(3)] == [""] * 3
    said = [without_numbers(i, names, (True, False, True)) for i in range(3)]
    assert said[1].startswith("it answers NaN")
    assert said[0] == said[2]
    assert said[0].startswith("'b' answers NaN")
