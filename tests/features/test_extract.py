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


class Early(nn.Module):
    """Declares its head first."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.mix = nn.Linear(6, 3), nn.Linear(4, 6)

    def features(self, rows: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.mix(rows))

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(rows))


class Named(Early):
    """Names the input of its head."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.head(input=self.features(rows))


class Helped(Early):
    """Has a head that only training uses, declared last."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Linear(6, 3)


class Twice(Early):
    """Asks its head about two views, last about the samples as they are."""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(-rows)) + self.head(self.features(rows))


class Biased(Early):
    """Makes a bias that depends on no sample, after its head."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Linear(2, 3)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return super().forward(rows) + self.bias(torch.ones(1, 2))


@pytest.mark.parametrize("kind", [Early, Named, Helped, Twice, Biased])
def test_features_are_what_the_layer_sees_that_runs_last(kind: type[Early]) -> None:
    rows = torch.randn(513, 4, generator=torch.Generator().manual_seed(0))  # one is left over
    data = feed(rows, torch.zeros(513).long(), preprocess=PLAIN, device=CPU)
    model = kind()
    found = extract(model, data, precision=Precision.FP32)
    with torch.no_grad():
        assert torch.allclose(found.features, model.features(rows), atol=1e-6)


def test_logits_stand_in_where_no_linear_layer_is_called() -> None:
    class Attending(nn.Module):
        """Its one linear layer, of the attention, is not called as a module."""

        def __init__(self) -> None:
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 2, batch_first=True)

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            tokens = rows[:, None]
            return self.attention(tokens, tokens, tokens, need_weights=False)[0][:, 0]

    data = feed(torch.rand(5, 4), torch.zeros(5).long(), preprocess=PLAIN, device=CPU)
    found = extract(Attending(), data, precision=Precision.FP32)
    assert torch.equal(found.features, found.logits)


def test_transformer_layers_compute_as_they_do_unwatched() -> None:
    class Attending(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True)
            self.head = nn.Linear(4, 3)

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            assert not self.layer.linear1._forward_pre_hooks
            return self.head(self.layer(rows[:, None])[:, 0])

    data = feed(torch.rand(5, 4), torch.zeros(5).long(), preprocess=PLAIN, device=CPU)
    assert extract(Attending(), data, precision=Precision.FP32).features.shape == (5, 4)


def test_a_network_whose_maps_cannot_be_read_is_named_at_once() -> None:
    class Sparse(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.graph, self.head = nn.Identity(), nn.Linear(4, 3)

        def forward(self, rows: torch.Tensor) -> torch.Tensor:
            self.graph(rows[:, None].expand(-1, 2, -1).to_sparse())
            return self.head(rows)

    with pytest.raises(InputError, match=r"inputs of shape \(4,\), got"):
        check_answers(Sparse(), torch.ones(2, 4), classes=3)
