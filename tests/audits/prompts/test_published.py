import pytest

from assay.audits.prompts import PublishedInspection
from assay.errors import InputError
from assay.randomness import Seed

from .conftest import CLASSES, TARGET


def test_a_planted_class_is_the_odd_one(make, pool):
    images = pool.float() / 255
    found = PublishedInspection()(
        make(seed=3, shift=0.2, planted=200.0), images, classes=CLASSES, seed=Seed(0)
    )
    assert found.flagged
    assert found.target == TARGET
    assert found.asr[TARGET] > 0.7
    assert found.asr.shape == found.margins.shape == (CLASSES,)


def test_an_honest_prompt_is_not(make, pool):
    images = pool.float() / 255
    found = PublishedInspection()(make(seed=3, shift=0.2), images, classes=CLASSES, seed=Seed(0))
    assert not found.flagged


def test_one_class_is_no_question(make, pool):
    with pytest.raises(InputError, match="two classes"):
        PublishedInspection()(make(), pool.float() / 255, classes=1, seed=Seed(0))
