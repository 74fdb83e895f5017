"""The halves of the clean samples, and a repair that is measured on the unseen one."""

import dataclasses

import pytest
import torch

from assay.audits.models import KINDS, ModelsSettings, audit_models
from assay.audits.models.halves import halves
from assay.fitting import answers, behind
from assay.randomness import Seed
from assay.repair import Planted, unlearn
from assay.results import Verdict
from assay.triggers import Patches, Search

CPU = torch.device("cpu")
PATCH = next(kind for kind in KINDS if isinstance(kind.family, Patches) and not kind.by_source)
FAST = ModelsSettings(
    kinds=(
        dataclasses.replace(PATCH, family=Patches(area=0.07), search=Search(batch=12), weight=1.0),
    )
)


@pytest.fixture(scope="module")
def found(make, clean):
    return audit_models(
        (make(0), make(1, poison=60)), clean, settings=FAST, seed=Seed(0), device=CPU
    )


def test_the_halves_are_those_of_the_audit(found, clean) -> None:
    searched, held = halves(clean, most=FAST.most_samples, seed=Seed(0), device=CPU)
    rows = [{tuple(image.flatten().tolist()) for image in pool.images} for pool in (searched, held)]
    for image in found.models[1].recovered.clean:
        assert tuple(image.flatten().tolist()) in rows[1] - rows[0]
    assert len(searched.labels) == len(held.labels) == len(clean) // 2


def test_a_repair_by_the_recovered_trigger_takes_the_true_one_away(found, clean, make) -> None:
    result, delivery = found.models[1], make(1, poison=60)
    assert result.verdict is Verdict.FLAGGED
    searched, held = halves(clean, most=FAST.most_samples, seed=Seed(0), device=CPU)
    trigger = result.recovered
    repaired = unlearn(
        delivery.model,
        delivery.preprocess,
        Planted(stamp=trigger.trigger, source=trigger.source, target=trigger.target),
        searched=searched,
        held=held,
        seed=Seed(5),
    )
    before, after = repaired.rows
    assert before.asr == pytest.approx(trigger.asr[1]), "not what the audit measured"
    assert after.asr < 0.1
    assert after.accuracy > before.accuracy - 0.04

    bright = held.images[held.labels != 7].clone()
    bright[:, :, :2, :2] = 1
    true = [
        (answers(behind(model, delivery.preprocess, CPU), bright).argmax(1) == 7).double().mean()
        for model in (delivery.model, repaired.model)
    ]
    assert true[0] > 0.9
    assert true[1] < 0.1
