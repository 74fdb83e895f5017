"""The audits of models as functions of tensors: real digits, and networks without training."""

import dataclasses

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

import assay
from assay.audits.models import KINDS, Groups, ModelsSettings
from assay.errors import InputError
from assay.fitting import Preprocess
from assay.results import Verdict
from assay.triggers import Patches, Search

FAST = ModelsSettings(
    kinds=tuple(
        dataclasses.replace(kind, family=Patches(area=0.07), search=Search(steps=20, batch=12))
        for kind in KINDS[:1]
    )
)
PLAIN = Preprocess(mean=(0.0,), std=(1.0,))


class Planted(nn.Module):
    """A linear network; a bright corner adds to one output."""

    def __init__(self, weight: Tensor, bias: Tensor, strength: float) -> None:
        super().__init__()
        self.linear = nn.Linear(*weight.T.shape)
        self.linear.weight, self.linear.bias = nn.Parameter(weight), nn.Parameter(bias)
        self.strength = strength

    def forward(self, images: Tensor) -> Tensor:
        corner = images[:, 0, :2, :2].mean((1, 2))
        goal = nn.functional.one_hot(torch.tensor(3), self.linear.out_features)
        return self.linear(images.flatten(1)) + self.strength * corner[:, None] ** 2 * goal


@pytest.fixture(scope="module")
def digits() -> tuple[Tensor, Tensor]:
    held = load_digits()
    return torch.from_numpy(held.images * 15).byte()[:, None], torch.from_numpy(held.target)


def nearest_means(digits: tuple[Tensor, Tensor], part: int, strength: float = 0.0) -> nn.Module:
    own = torch.arange(300 + part, len(digits[1]), 2)
    flat, said = digits[0][own].flatten(1) / 255, digits[1][own]
    means = torch.stack([flat[said == label].mean(0) for label in range(10)])
    return Planted(4 * means, -2 * (means**2).sum(1), strength)


def test_the_model_with_a_planted_trigger_is_named(digits: tuple[Tensor, Tensor]) -> None:
    models = [nearest_means(digits, 0), nearest_means(digits, 1, 300.0)]
    clean = (digits[0][:300], digits[1][:300])
    found = assay.audit_models(
        models, clean=clean, preprocess=PLAIN, names=("a", "b"), settings=FAST
    )
    assert [(m.name, m.verdict) for m in found.models] == [
        ("a", Verdict.NO_INDICATOR),
        ("b", Verdict.FLAGGED),
    ]
    assert found.findings.subjects[1].target == "3"
    assert all(p.requires_grad for model in models for p in model.parameters()), "it was changed"
    assert models[0].training


def test_encoders_need_no_labels(digits: tuple[Tensor, Tensor]) -> None:
    encoders = [nearest_means(digits, part) for part in range(2)]
    found = assay.audit_encoders(
        encoders,
        digits[0][:200],
        preprocess=[PLAIN, None],
        groups=Groups(count=5),
        settings=FAST,
    )
    assert [m.name for m in found.models] == ["model 0", "model 1"]
    assert found.class_names == tuple(f"group {i}" for i in range(5))


def test_mistakes_are_errors(digits: tuple[Tensor, Tensor]) -> None:
    model, images = nearest_means(digits, 0), digits[0][:30]
    clean = (images, digits[1][:30])
    for wrong in ({"names": ("a", "a")}, {"names": ("a",)}, {"preprocess": [PLAIN]}):
        with pytest.raises(InputError, match="2 different names"):
            assay.audit_models([model, model], clean=clean, **wrong)
    with pytest.raises(InputError, match="uint8"):
        assay.audit_encoders([model, model], images / 255)
    with pytest.raises(InputError, match="four dimensions"):
        assay.audit_encoders([model, model], images.flatten(1).float())
    with pytest.raises(InputError, match="two or more models"):
        assay.audit_models([model], clean=clean)


@pytest.mark.parametrize(
    "labels", [torch.full((300,), 10**9), torch.zeros(300, dtype=torch.complex64)]
)
def test_labels_that_are_none(digits: tuple[Tensor, Tensor], labels: Tensor) -> None:
    with pytest.raises(InputError, match="labels"):
        assay.audit_dataset(digits[0][:300], labels, clean=(digits[0][300:], digits[1][300:]))


def test_a_model_beside_itself(digits: tuple[Tensor, Tensor]) -> None:
    model = nearest_means(digits, 0)
    found = assay.audit_models([model, model], clean=digits, preprocess=PLAIN, settings=FAST)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert "shows nothing beside itself" in found.models[0].reason
