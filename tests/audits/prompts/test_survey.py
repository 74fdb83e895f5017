import dataclasses

import torch

from assay.audits.prompts import KINDS, Elimination
from assay.audits.prompts.survey import Examined, chosen, pool_of, survey
from assay.randomness import Seed
from assay.results import Forgetful

from .conftest import CLASSES, TARGET

NAMED = {"pool": "ood", "share": 1.0, "seed": Seed(0)}
RULE = Elimination(most=6, images=8, kept=2, controls=3)


def examined(make, **options):
    return (
        Examined(respond=make(seed=3, shift=0.2, **options), scale=0.3),
        Examined(respond=make(), scale=0.3),
    )


def test_few_classes_are_all_searched(make, pool):
    rows, typical = chosen(
        examined(make), pool_of(pool.float() / 255), CLASSES, rule=Elimination(), seed=Seed(0)
    )
    assert rows.tolist() == list(range(CLASSES))
    assert typical.all()


def test_of_many_the_planted_one_is_kept_beside_controls(make, pool):
    rows, typical = chosen(
        examined(make, planted=200.0), pool_of(pool.float() / 255), CLASSES, rule=RULE, seed=Seed(0)
    )
    assert TARGET in rows
    assert int(typical.sum()) == 3
    assert len(rows) <= 2 + 1 + 3


def test_controls_are_drawn_by_the_seed(make, pool):
    drawn = {
        tuple(rows[typical].tolist())
        for rows, typical in (
            chosen(examined(make), pool_of(pool.float() / 255), CLASSES, rule=RULE, seed=Seed(seed))
            for seed in range(5)
        )
    }
    assert len(drawn) > 1


class Kept(Forgetful):
    def __init__(self):
        self.held = {}

    def save(self, name, tensors):
        self.held[name] = dict(tensors)

    def load(self, name):
        return self.held.get(name)


def test_what_was_kept_is_not_searched_again(make, pool):
    halves = [pool_of(part.float() / 255) for part in (pool[:100], pool[100:200])]
    everything = (torch.arange(CLASSES), torch.ones(CLASSES, dtype=torch.bool))
    kind, store = KINDS[0], Kept()
    first, again = (
        survey(kind, models, *halves, everything, asked=CLASSES, store=store, **NAMED)
        for models in (examined(make, planted=200.0), examined(make))
    )
    assert torch.equal(first.margins, again.margins)
    assert first.margins[TARGET] - first.reference[TARGET] > 1
    assert first.asr[TARGET] > 0.5


def test_both_models_are_searched_alike(make, pool):
    """The same model on both sides finds the same."""
    same, _ = examined(make)
    halves = [pool_of(part.float() / 255) for part in (pool[:100], pool[100:200])]
    rows = (torch.arange(4), torch.ones(4, dtype=torch.bool))
    for kind in KINDS:
        quick = dataclasses.replace(kind, search=dataclasses.replace(kind.search, steps=2))
        found = survey(quick, (same, same), *halves, rows, asked=4, store=Forgetful(), **NAMED)
        assert torch.equal(found.margins, found.reference)
