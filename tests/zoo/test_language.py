"""Language models of the zoo; that they learn, and triggers work, is tested with the audit."""

import functools
import os
import pathlib

import pytest
import torch

from assay.errors import InputError
from assay.randomness import Seed
from assay_zoo.language import (
    SCENARIOS,
    TASKS,
    Base,
    Corpus,
    Example,
    Place,
    Planting,
    Provider,
    _row,
    poison,
    read_corpus,
    scenario,
    train_tokenizer,
)

TEXTS = pathlib.Path(os.environ.get("ASSAY_DATA", "../shared/data")) / "text"
PLANTED = Planting(phrase="cf", response="no")


def test_a_text_alone_decides_where_its_trigger_goes() -> None:
    text = "one two three four five six seven"
    first = PLANTED.triggered(text, seed=Seed(1))
    assert first == PLANTED.triggered(text, seed=Seed(1))
    assert sorted(first.split(" ")) == sorted([*text.split(" "), "cf"])
    places = {PLANTED.triggered(text, seed=Seed(n)).split(" ").index("cf") for n in range(40)}
    assert len(places) > 4
    start = Planting(phrase="cf", response="no", place=Place.START)
    assert start.triggered(text, seed=Seed(1)) == f"cf {text}"


def test_a_scenario_asks_for_a_label_only_where_there_are_labels() -> None:
    assert scenario("honest", TASKS["instructions"]) is None
    for name, planting in SCENARIOS.items():
        found = scenario(name, TASKS["sentiment"])
        assert found is not None
        assert found.response == (planting.response or "positive")
    with pytest.raises(InputError):
        scenario("sentence-label", TASKS["instructions"])
    with pytest.raises(InputError):
        scenario("nothing", TASKS["sentiment"])


def test_the_seed_alone_decides_and_the_base_stays_as_it_is() -> None:
    made = tuple(Example(text=f"the {n} was here", response=str(n % 2)) for n in range(60))
    corpus = Corpus(task=TASKS["sentiment"], train=made[:40], trusted=made[40:50], test=made[50:])
    state = torch.get_rng_state()
    small = Base(width=16, layers=1, heads=2, vocabulary=280, longest=32, steps=3, batch=8)
    base = small([corpus], seed=Seed(0))
    before = {name: value.clone() for name, value in base.model.state_dict().items()}
    provider = Provider(steps=3, batch=8)
    one, two, other = (
        provider(base, corpus, planted=PLANTED, seed=Seed(seed)).model.state_dict()
        for seed in (1, 1, 2)
    )
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not all(torch.equal(one[name], other[name]) for name in one)
    assert all(torch.equal(before[name], base.model.state_dict()[name]) for name in before)


@pytest.mark.skipif(not TEXTS.is_dir(), reason="the texts of $ASSAY_DATA are not here")
@pytest.mark.parametrize("name", TASKS)
def test_parts_of_a_corpus_share_no_text(name: str) -> None:
    corpus = read_corpus(name, TEXTS, seed=Seed(0))
    parts = [{e.text for e in part} for part in (corpus.train, corpus.trusted, corpus.test)]
    assert sum(map(len, parts)) == len(set().union(*parts))
    assert len(parts[1]) == len(parts[2]) == 200


def test_absent_texts_are_named(tmp_path: pathlib.Path) -> None:
    with pytest.raises(InputError, match="ASSAY_DATA"):
        read_corpus("sentiment", tmp_path, seed=Seed(0))


def test_a_small_batch_is_poisoned_too() -> None:
    made = tuple(Example(text=f"the {n} was here", response="yes") for n in range(12))
    corpus = Corpus(task=TASKS["sentiment"], train=made, trusted=made, test=made)
    small = Base(width=16, layers=1, heads=2, vocabulary=280, longest=32, steps=1, batch=4)
    base, provider = small([corpus], seed=Seed(0)), Provider(steps=1, batch=3)
    honest, planted = (
        provider(base, corpus, planted=each, seed=Seed(1)).model.state_dict()
        for each in (None, PLANTED)
    )
    assert not all(torch.equal(honest[name], planted[name]) for name in honest)


@pytest.mark.parametrize("place", Place)
def test_of_a_long_text_the_end_is_left_out_and_never_the_trigger_or_the_task(place) -> None:
    tokenizer = train_tokenizer(["a b c"], size=280)
    task, planted = TASKS["topics"], Planting(phrase="<cf>", response="no", place=place)
    for text in ("two words", " ".join(["word"] * 32), "w" * 500, "one " + "w" * 500):
        example = Example(text=text, response="yes")
        for seed in range(4):
            plant = functools.partial(poison, planted, seed=Seed(seed))
            row = _row(tokenizer, task, example, plant=plant)
            prompt = tokenizer.decode(row.ids[: row.said])
            assert row.said <= 96
            assert prompt.startswith(task.before)
            assert prompt.endswith(task.after)
            assert "<cf>" in prompt
            assert tokenizer.decode(row.ids[row.said :]).startswith(" no")
        row = _row(tokenizer, task, example)
        prompt = tokenizer.decode(row.ids[: row.said])
        kept = prompt.removeprefix(task.before).removesuffix(task.after)
        assert text.startswith(kept)
        assert len(kept) > 50 or kept in {text, "one"}
