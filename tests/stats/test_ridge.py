import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import Ridge

from assay.errors import InputError
from assay.stats import PooledRidge, auroc
from assay.stats import ridge as ridge_of

TABLE, TARGET = load_breast_cancer(return_X_y=True)
FEATURES = torch.tensor(TABLE).float()
MALIGNANT = torch.tensor(TARGET == 0)
GROUPS = torch.arange(len(FEATURES)) // 300  # 300 and 269
OWN = GROUPS == 0


def predicted(features, marks, *, groups=GROUPS, own=OWN, penalty=1.0):
    ridge = PooledRidge([features], groups, penalty=penalty)
    return ridge(marks.float(), groups[own][:1])[:, 0]


@pytest.mark.parametrize("penalty", [0.01, 0.1, 1.0])
def test_agrees_with_refitting_without_each_sample(penalty):
    found = predicted(FEATURES, MALIGNANT, penalty=penalty)
    table = FEATURES.double().numpy()
    for group in (OWN.numpy(), ~OWN.numpy()):
        table[group] -= table[group].mean(0)
    table /= table.std(0)
    own, everyone = OWN.numpy(), np.arange(len(table))
    for sample in range(0, len(table), 17):
        kept = (everyone != sample) | ~own
        centred, marks = table.copy(), np.where(own, MALIGNANT, 0.0)
        centred[own] -= table[own & kept].mean(0)  # of the group without the sample
        marks[own] -= marks[own & kept].mean()
        model = Ridge(alpha=penalty * len(table), fit_intercept=False)
        model.fit(centred[kept], marks[kept])
        expected = model.predict(centred[[sample]])[0]
        assert found[sample].item() == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("size", [1, 2, 4, 16])
def test_samples_of_small_groups_know_nothing_of_their_own_marks(size):
    random = torch.Generator().manual_seed(0)
    features, marks = torch.randn(1600, 500, generator=random), torch.rand(1600, generator=random)
    groups = torch.arange(1600) // size
    every = groups.unique()[: 512 // size]
    said = PooledRidge([features], groups, penalty=0.1)(marks, every)
    found = said[torch.arange(512), groups[:512]].double()
    away = marks.view(-1, size) - marks.view(-1, size).mean(1, keepdim=True)
    known = (found * away.flatten()[:512].double()).mean() / found.std().clamp(min=1e-9)
    assert known.abs() < 0.05


def test_wrong_marks_are_outvoted():
    marked = MALIGNANT.clone()
    wrong = torch.arange(0, 300, 6)
    marked[wrong] = ~marked[wrong]
    scores = predicted(FEATURES, marked)
    assert auroc(scores[OWN], MALIGNANT[OWN]) > 0.97
    assert auroc(scores[wrong], MALIGNANT[wrong]) > 0.97
    assert auroc(scores[~OWN], MALIGNANT[~OWN]) > 0.95  # they say nothing, and are told


def test_other_groups_tell_what_features_vary_by():
    random = torch.Generator().manual_seed(0)
    features = torch.randn(3000, 60, generator=random)
    features[:, :30] *= 4
    features[:, 30:] += features[:, :30]  # what matters hides behind what varies
    groups = (torch.arange(3000) >= 100).long()
    own, marks = groups == 0, torch.zeros(3000)
    marks[:20] = 1
    features[:20, 30:] += 0.5
    together = predicted(features, marks, groups=groups, own=own, penalty=1e-3)[own]
    alone = predicted(features[own], marks[own], groups=groups[own], own=own[own], penalty=1e-3)
    is_marked = marks[own] > 0
    assert auroc(together, is_marked) > 0.93
    assert auroc(alone, is_marked) < 0.9


def test_a_constant_column_changes_nothing():
    wider = torch.cat([FEATURES, torch.full((len(FEATURES), 2), 5.0)], dim=1)
    assert torch.allclose(predicted(wider, MALIGNANT), predicted(FEATURES, MALIGNANT), atol=1e-4)


def test_more_columns_than_samples():
    assert predicted(FEATURES.repeat(1, 30), MALIGNANT, penalty=0.1).isfinite().all()


def test_groups_asked_together_answer_as_alone():
    ridge = PooledRidge([FEATURES[:, :20], FEATURES[:, 20:]], GROUPS)
    together = ridge(MALIGNANT.float(), torch.tensor([0, 1]))
    for group in (0, 1):
        alone = predicted(FEATURES, MALIGNANT, own=group == GROUPS)
        assert torch.allclose(together[:, group], alone, atol=1e-5)


def test_many_columns_are_multiplied_in_blocks(monkeypatch):
    whole = predicted(FEATURES, MALIGNANT)
    monkeypatch.setattr(ridge_of, "_BLOCK", 7)
    monkeypatch.setattr(ridge_of, "_PART", 100)
    assert torch.allclose(predicted(FEATURES, MALIGNANT), whole, atol=1e-5)


def test_nan_is_refused():
    with pytest.raises(InputError, match="finite"):
        PooledRidge([torch.full((4, 2), torch.nan)], torch.zeros(4, dtype=torch.int64))
