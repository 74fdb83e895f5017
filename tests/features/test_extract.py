import pytest
import torch
from torch import nn

from assay.errors import InputError
from assay.features import check_answers, extract, logits
from assay.fitting import Precision, Preprocess, feed

CPU = torch.device("cpu")
PLAIN = Preprocess(mean=(0.0,) * 4, std=(1.0,) * 4)


def test_features_are_what_the_last_linear_layer_sees() -> None:
    rows = torch.randn(50, 4, generator=torch.Generator().manual_seed(0))
    data = feed(rows, torch.zeros(50, dtype=torch.int64), preprocess=PLAIN, device=CPU)
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Dropout(0.5), nn.Linear(6, 3))
    found = extract(model, data, precision=Precision.FP32)
    with torch.no_grad():
        assert torch.allclose(found.features, model[1](model[0](rows)), atol=1e-6)
        assert torch.allclose(model[3](found.features), found.logits, atol=1e-5)
    assert torch.equal(found.logits, logits(model, data, precision=Precision.FP32))


def test_very_wide_features_are_averaged_over_neighbours() -> None:
    rows = torch.rand(6, 4, generator=torch.Generator().manual_seed(0))
    data = feed(rows, torch.zeros(6, dtype=torch.int64), preprocess=PLAIN, device=CPU)
    model = nn.Sequential(nn.Linear(4, 3 * 4096), nn.Linear(3 * 4096, 3))
    found = extract(model, data, precision=Precision.FP32)
    with torch.no_grad():
        expected = model[0](rows).view(6, 4096, 3).mean(2)
    assert torch.allclose(found.features, expected, atol=1e-6)


def test_logits_stand_in_for_the_features_of_a_model_without_a_linear_layer() -> None:
    data = feed(torch.rand(2, 4), torch.zeros(2).long(), preprocess=PLAIN, device=CPU)
    found = extract(nn.Identity(), data, precision=Precision.FP32)
    assert torch.equal(found.features, found.logits)
    assert found.maps == ()


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (nn.Linear(4, 7), r"\(2, 3\) scores, one a class, got \(2, 7\)"),
        (nn.Linear(5, 3), r"inputs of shape \(4,\), got RuntimeError"),
        (nn.LSTM(4, 3), "inputs of shape .* 'tuple' object has no attribute"),
    ],
)
def test_a_classifier_of_other_inputs_or_classes_is_named(model: nn.Module, said: str) -> None:
    check_answers(nn.Linear(4, 3), torch.zeros(2, 4), classes=3)
    with pytest.raises(InputError, match=said):
        check_answers(model, torch.zeros(2, 4), classes=3)
