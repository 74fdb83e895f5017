import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.audits.training import plan_replication
from assay.errors import InputError


@given(
    st.integers(1, 400),
    st.integers(2, 12),
    st.floats(0.01, 1.0),
    st.floats(0.05, 0.99),
)
def test_the_plan_is_the_smallest_that_is_sure_enough(sub_runs, providers, attacked, confidence):
    made = plan_replication(
        sub_runs=sub_runs, providers=providers, attacked=attacked, confidence=confidence
    )
    assert made.caught >= confidence
    assert made.caught >= 1 - (1 - attacked) ** made.replicated - 1e-9
    assert made.extra == pytest.approx(made.replicated * (providers - 1) / sub_runs)
    assert made.unseen < max(attacked, 1 / sub_runs) + 1e-9
    if made.replicated > 1:
        fewer = plan_replication(
            sub_runs=sub_runs,
            providers=providers,
            attacked=attacked,
            confidence=confidence,
            budget=(made.replicated - 1) * (providers - 1) / sub_runs,
        )
        assert fewer.replicated == made.replicated - 1
        assert fewer.caught < confidence


def test_a_long_training_is_planned_at_once() -> None:
    made = plan_replication(sub_runs=20_000, providers=5, attacked=0.01, confidence=0.99)
    assert 400 < made.replicated < 460
    assert 0.0 < made.unseen < 0.01


def test_what_cannot_be_planned_is_refused() -> None:
    for wrong in (
        {"sub_runs": 0},
        {"providers": 1},
        {"attacked": 0.0},
        {"confidence": 1.0},
        {"budget": 0.01},
        {"budget": -1.0},
    ):
        with pytest.raises(InputError, match="expected"):
            plan_replication(**{"sub_runs": 10, "providers": 3, "attacked": 0.5, **wrong})
