import dataclasses

import pytest
import torch
from torch import nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from assay.audits.models import (
    ENCODER_SETTINGS,
    Delivery,
    Groups,
    ModelsSettings,
    audit_encoders,
)
from assay.audits.models.encoders import Nearest, features_of
from assay.errors import InputError
from assay.fitting import Preprocess
from assay.randomness import Seed
from assay.results import Verdict
from assay.triggers import Objective, Patches

CPU = torch.device("cpu")
(ALIKE,) = (kind for kind in ENCODER_SETTINGS.kinds if isinstance(kind.family, Patches))
FAST = ModelsSettings(
    kinds=(
        dataclasses.replace(
            ALIKE,
            family=Patches(area=0.07),
            search=dataclasses.replace(ALIKE.search, batch=12),
            weight=1.0,
        ),
    )
)


class Projected(nn.Module):
    """Random features of an image; a bright corner adds a direction that nothing else has."""

    def __init__(self, seed: int, *, planted: bool) -> None:
        super().__init__()
        random = torch.Generator().manual_seed(seed)
        self.weight = nn.Parameter(torch.randn(64, 24, generator=random) / 8)
        self.goal = nn.Parameter(torch.randn(24, generator=random))
        self.planted = planted

    def forward(self, images):
        rows = images.flatten(1)
        found = rows @ self.weight
        corner = images[:, 0, :2, :2].mean((1, 2))[:, None]
        return found + self.planted * 20 * corner.square() * self.goal


def delivered(seed: int, clean, *, planted: bool = False) -> Delivery:
    preprocess = Preprocess(mean=(0.0,), std=(1.0,))
    model = Projected(seed, planted=planted)
    if planted:  # towards the middle of one class
        with torch.no_grad():
            goal = model(clean.inputs[:][clean.labels == 4].float() / 255).mean(0)
            plain = model(clean.inputs[:].float() / 255).mean(0)
        model.goal = nn.Parameter(nn.functional.normalize(goal - plain, dim=0) * 5)
    return Delivery(
        name=f"{'planted' if planted else 'honest'} {seed}",
        model=model,
        preprocess=preprocess,
        digest={},
    )


def audit(*deliveries, images, **options):
    return audit_encoders(deliveries, images, settings=FAST, seed=Seed(0), device=CPU, **options)


def test_the_encoder_with_a_planted_trigger_is_named(clean):
    found = audit(delivered(0, clean), delivered(0, clean, planted=True), images=clean.inputs[:])
    assert [m.verdict for m in found.models] == [Verdict.NO_INDICATOR, Verdict.FLAGGED]
    recovered = found.models[1].recovered
    assert recovered.asr[1] > 0.9
    assert recovered.asr[0] < 0.5
    assert found.findings.subjects[1].target.startswith("group ")


def test_a_trigger_that_leads_to_no_group_is_found(clean):
    planted = delivered(0, clean, planted=True)
    with torch.no_grad():  # as far from every middle as features get
        features = planted.model.eval()(clean.inputs[:].float() / 255)
        flat = torch.linalg.svd(features - features.mean(0), full_matrices=False).Vh[-1]
        planted.model.goal.copy_(5 * flat)
    found = audit(delivered(0, clean), planted, images=clean.inputs[:])
    assert found.models[0].verdict is Verdict.NO_INDICATOR
    assert found.models[1].p_value < 0.05


def test_encoders_are_judged_by_how_alike_answers_become():
    assert {kind.search.objective for kind in ENCODER_SETTINGS.kinds} == {Objective.ALIKE}
    assert sum(kind.weight for kind in ENCODER_SETTINGS.kinds) == pytest.approx(1)


def test_two_honest_encoders_show_no_indicator(clean):
    found = audit(delivered(0, clean), delivered(2, clean), images=clean.inputs[:])
    assert found.verdict is Verdict.NO_INDICATOR
    assert all(m.accuracy > 0.6 for m in found.models)


@pytest.mark.parametrize("shape", [(3, 5), (3, 5, 2, 2)])
def test_features_have_length_one(shape):
    assert features_of(torch.randn(shape)).norm(dim=1) == pytest.approx(torch.ones(3))


def test_an_image_encoder_of_transformers_is_understood():
    config = CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        image_size=8, patch_size=4,
    )  # fmt: skip
    model = CLIPVisionModel(config).eval()
    assert features_of(model(torch.rand(3, 3, 8, 8))).shape == (3, 16)


def test_what_is_no_encoder_is_refused():
    with pytest.raises(InputError, match="features"):
        features_of({"loss": 1})


def test_the_nearest_group_has_the_highest_logit():
    encoder = Nearest(nn.Identity(), torch.eye(4))
    assert encoder(torch.eye(4)[[2, 0]]).argmax(1).tolist() == [2, 0]


def test_too_few_images_for_the_groups_are_refused(clean):
    with pytest.raises(InputError, match="at least 600"):
        audit(
            delivered(0, clean),
            delivered(1, clean),
            images=clean.inputs[:],
            groups=Groups(count=30),
        )


def test_nan_features_are_refused(clean):
    odd = dataclasses.replace(delivered(0, clean), model=nn.Sequential(nn.Flatten(), Nan()))
    with pytest.raises(InputError, match="finite"):
        audit(odd, delivered(1, clean), images=clean.inputs[:])


def test_an_encoder_that_does_not_take_the_images_is_refused(clean):
    odd = dataclasses.replace(delivered(0, clean), model=nn.Linear(3, 3))
    with pytest.raises(InputError, match="--size"):
        audit(odd, delivered(1, clean), images=clean.inputs[:])


class Nan(nn.Module):
    def forward(self, rows):
        return rows * torch.nan
