import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score, roc_curve

from assay.errors import InputError
from assay.stats.ranking import auroc, tpr_at_fpr

scores = st.integers(-3, 3).map(float) | st.floats(-1e6, 1e6)
labelled = st.lists(st.tuples(scores, st.booleans()), min_size=2, max_size=50).filter(
    lambda rows: len({positive for _, positive in rows}) == 2
)


def split(rows):
    return (
        torch.tensor([score for score, _ in rows], dtype=torch.float64),
        torch.tensor([positive for _, positive in rows]),
    )


@given(labelled)
def test_auroc_agrees_with_scikit_learn(rows):
    values, positive = split(rows)
    assert auroc(values, positive) == pytest.approx(roc_auc_score(positive, values))


@given(labelled, st.floats(0, 1) | st.integers(0, 100).map(lambda percent: percent / 100))
def test_tpr_at_fpr_agrees_with_scikit_learn(rows, max_fpr):
    values, positive = split(rows)
    fpr, tpr, _ = roc_curve(positive, values, drop_intermediate=False)
    assert tpr_at_fpr(values, positive, max_fpr=max_fpr) == tpr[fpr <= max_fpr].max()


@given(labelled)
def test_only_the_order_counts_and_turning_it_round_mirrors_auroc(rows):
    values, positive = split(rows)
    ranks = values.unique(return_inverse=True)[1].double()
    for statistic in (auroc, lambda s, p: tpr_at_fpr(s, p, max_fpr=0.3)):
        assert statistic(values, positive) == statistic(ranks, positive)
    assert auroc(-values, positive) == pytest.approx(1 - auroc(values, positive))


def test_ties_and_single_samples():
    values, positive = torch.zeros(5), torch.tensor([True, False, False, False, False])
    assert auroc(values, positive) == 0.5
    assert tpr_at_fpr(values, positive, max_fpr=0.99) == 0.0
    assert tpr_at_fpr(values, positive, max_fpr=1.0) == 1.0


@pytest.mark.parametrize(
    ("values", "positive", "message"),
    [
        ([], [], "at least 1 scores, got 0"),
        ([1.0], [True], "got 1 and 0"),
        ([1.0, 2.0], [False, False], "got 0 and 2"),
        ([1.0, float("nan")], [True, False], "index 1: nan"),
    ],
)
def test_what_cannot_be_ranked_is_refused(values, positive, message):
    with pytest.raises(InputError, match=message):
        auroc(torch.tensor(values), torch.tensor(positive, dtype=torch.bool))


@pytest.mark.parametrize("max_fpr", [-0.1, 1.1, float("nan")])
def test_impossible_rates_are_refused(max_fpr):
    with pytest.raises(InputError, match="max_fpr"):
        tpr_at_fpr(torch.zeros(2), torch.tensor([True, False]), max_fpr=max_fpr)
