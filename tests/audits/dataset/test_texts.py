"""The audit of texts: features of a frozen encoder, of real news."""

import os
import pathlib

import pytest
import torch

from assay.audits.dataset import audit_dataset
from assay.randomness import Seed
from assay.results import Verdict
from assay.samples import Samples
from assay.stats import auroc
from assay_zoo.data import Split, load
from assay_zoo.poison import TextAttack
from assay_zoo.scenarios import SCENARIOS, fitting

pytestmark = pytest.mark.skipif(
    not (
        pathlib.Path(os.environ.get("ASSAY_DATA", "../shared/data")) / "text/agnews.tsv"
    ).is_file(),
    reason="the news are not in $ASSAY_DATA",
)


@pytest.fixture(scope="module")
def news() -> Split:
    return load("agnews-features", train=5000, trusted=2000, test=100, seed=Seed(3))


def audited(news: Split, features: torch.Tensor, labels: torch.Tensor):
    suspects = Samples(inputs=features, labels=labels, class_names=news.train.class_names)
    return audit_dataset(suspects, news.trusted, seed=Seed(1), device=torch.device("cpu"))


@pytest.mark.parametrize("name", fitting("agnews-features"))
def test_inserted_phrases_are_found_in_the_features(news: Split, name: str) -> None:
    attack = SCENARIOS[name].attack
    assert isinstance(attack, TextAttack)
    made = attack(news.texts.train, news.train.labels, classes=4, seed=Seed(5))
    found = audited(news, news.texts.encode(made.texts), made.labels)
    assert found.verdict is Verdict.FLAGGED
    assert [c.name for c in found.classes if c.verdict is Verdict.FLAGGED] == ["world"]
    assert found.is_poison[made.is_poison].double().mean() > 0.8
    assert found.is_poison[~made.is_poison].double().mean() < 0.05
    assert auroc(found.scores, made.is_poison) > 0.95


def test_clean_texts_raise_no_alarm(news: Split) -> None:
    found = audited(news, news.train.inputs[:], news.train.labels)
    assert found.verdict is not Verdict.FLAGGED
    assert not found.is_poison.any()
