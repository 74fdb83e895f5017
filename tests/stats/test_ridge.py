import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from assay.errors import InputError
from assay.stats import auroc, leave_one_out_ridge

TABLE, TARGET = load_breast_cancer(return_X_y=True)
FEATURES = torch.tensor(TABLE).float()
MALIGNANT = torch.tensor(TARGET == 0)


@pytest.mark.parametrize("penalty", [0.1, 1.0, 10.0])
def test_agrees_with_refitting_without_each_sample(penalty):
    rows = slice(0, 120)
    x, positive = FEATURES[rows], MALIGNANT[rows]
    found = leave_one_out_ridge(x, positive, penalty=penalty)
    y = np.where(positive.numpy(), 1.0, -1.0)
    share = positive.double().mean().item()
    weights = np.where(y > 0, 0.5 / share, 0.5 / (1 - share))
    table = StandardScaler().fit_transform(x.double().numpy())
    for sample in range(0, 120, 7):
        others = np.arange(120) != sample
        centre = np.average(table[others], axis=0, weights=weights[others])
        model = Ridge(alpha=penalty * 120).fit(
            table[others] - centre, y[others], sample_weight=weights[others]
        )
        assert found[sample].item() == pytest.approx(
            model.predict(table[[sample]] - centre)[0], abs=1e-4
        )


def test_wrong_marks_are_outvoted():
    marked = MALIGNANT.clone()
    wrong = torch.arange(0, len(marked), 6)
    marked[wrong] = ~marked[wrong]
    scores = leave_one_out_ridge(FEATURES, marked)
    assert auroc(scores, MALIGNANT) > 0.98
    assert auroc(scores[wrong], MALIGNANT[wrong]) > 0.98


def test_a_constant_column_changes_nothing():
    wider = torch.cat([FEATURES, torch.full((len(FEATURES), 2), 5.0)], dim=1)
    assert torch.allclose(
        leave_one_out_ridge(wider, MALIGNANT), leave_one_out_ridge(FEATURES, MALIGNANT), atol=1e-4
    )


def test_more_columns_than_samples():
    scores = leave_one_out_ridge(FEATURES[:20].repeat(1, 10), MALIGNANT[:20])
    assert scores.isfinite().all()


def test_one_kind_only_is_refused():
    with pytest.raises(InputError, match="both kinds"):
        leave_one_out_ridge(FEATURES, torch.ones_like(MALIGNANT))


def test_nan_is_refused():
    with pytest.raises(InputError, match="finite"):
        leave_one_out_ridge(torch.full((4, 2), torch.nan), torch.tensor([True, False, True, False]))
