import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from assay.audits.verdict import judge
from assay.errors import InputError
from assay.results import Finding, Verdict
from assay.stats.multiple import holm


def findings(*p_values):
    return [
        Finding(
            question=f"question {index}",
            samples=100,
            effect=None,
            p_value=p_value,
            reason="too few trusted samples" if p_value is None else "",
        )
        for index, p_value in enumerate(p_values)
    ]


@pytest.mark.parametrize(
    ("p_values", "verdict"),
    [
        pytest.param([0.2], Verdict.NO_INDICATOR, id="nothing found"),
        pytest.param([0.04], Verdict.FLAGGED, id="one question, one finding"),
        pytest.param([0.05], Verdict.FLAGGED, id="at the level"),
        pytest.param([0.0500001], Verdict.NO_INDICATOR, id="just above the level"),
        pytest.param([0.04, 0.9], Verdict.NO_INDICATOR, id="one of two by chance"),
        pytest.param([0.02, 0.9], Verdict.FLAGGED, id="one of two for certain"),
        pytest.param([0.04, 0.04], Verdict.NO_INDICATOR, id="two weak ones do not add up"),
        pytest.param([0.0], Verdict.FLAGGED, id="beyond doubt"),
        pytest.param([1.0, 1.0], Verdict.NO_INDICATOR, id="beyond suspicion"),
        pytest.param([], Verdict.INCONCLUSIVE, id="nothing asked"),
        pytest.param([None], Verdict.INCONCLUSIVE, id="nothing answered"),
        pytest.param([0.2, None], Verdict.INCONCLUSIVE, id="one answer missing"),
        pytest.param(
            [0.001, None], Verdict.FLAGGED, id="a finding stands despite a missing answer"
        ),
        pytest.param(
            [0.04, None], Verdict.INCONCLUSIVE, id="a missing answer counts in the family"
        ),
    ],
)
def test_table_of_cases(p_values, verdict):
    assert judge(findings(*p_values), level=0.05) is verdict


@given(st.lists(st.none() | st.floats(0, 1), max_size=12), st.floats(0.001, 0.5))
def test_no_silent_pass_and_no_rejection_without_holm(p_values, level):
    verdict = judge(findings(*p_values), level=level)
    answered = torch.tensor([p for p in p_values if p is not None], dtype=torch.float64)
    if verdict is Verdict.NO_INDICATOR:
        assert p_values
        assert None not in p_values
    if verdict is Verdict.FLAGGED:
        assert (holm(answered) <= level).any()


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12), st.integers(0, 11))
def test_losing_an_answer_never_turns_into_a_verdict(p_values, lost):
    before = judge(findings(*p_values), level=0.05)
    p_values[lost % len(p_values)] = None
    after = judge(findings(*p_values), level=0.05)
    assert after in {before, Verdict.INCONCLUSIVE} - {Verdict.NO_INDICATOR}


@pytest.mark.parametrize("level", [0.0, 1.0, 5.0, float("nan")])
def test_impossible_levels_are_refused(level):
    with pytest.raises(InputError, match="level in"):
        judge(findings(0.5), level=level)


@pytest.mark.parametrize("p_value", [float("nan"), -0.1, 1.1])
def test_what_is_no_p_value_is_refused(p_value):
    with pytest.raises(InputError, match="p-values in"):
        judge(findings(0.5, p_value), level=0.05)
