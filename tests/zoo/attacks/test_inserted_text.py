"""What every attack promises, on texts, and that the phrase is where its papers put it."""

import inspect

import pytest
import torch

from assay.errors import InputError
from assay.randomness import Seed
from assay_zoo.attacks import InsertedText
from assay_zoo.attacks.inserted_text import RARE_WORD, SENTENCE

CLASSES = 4
ATTACKS = [
    InsertedText(poison_rate=0.05),
    InsertedText(poison_rate=0.1, copies=3, target=2),
    InsertedText(poison_rate=0.05, phrase=SENTENCE),
]
TEXTS = [f"the  {n}th piece of news is about thing {n % 7}" for n in range(200)]

every_attack = pytest.mark.parametrize("attack", ATTACKS, ids=repr)


def labels() -> torch.Tensor:
    return torch.arange(len(TEXTS)) % CLASSES


def poison(attack: InsertedText, seed: int = 3):
    return attack(TEXTS, labels(), classes=CLASSES, seed=Seed(seed))


@every_attack
def test_the_seed_alone_decides(attack: InsertedText) -> None:
    before = torch.get_rng_state()
    first = poison(attack)
    assert torch.equal(before, torch.get_rng_state()), "the global generator was used"
    torch.rand(5)
    again, other = poison(attack), poison(attack, seed=4)
    assert first.texts == again.texts
    assert first.trigger(TEXTS) == again.trigger(TEXTS) != other.trigger(TEXTS)
    assert not torch.equal(first.is_poison, other.is_poison)


@every_attack
def test_victims_of_other_classes_get_phrase_and_label_and_nothing_else_changes(
    attack: InsertedText,
) -> None:
    kept, truth = list(TEXTS), labels()
    made = poison(attack)
    assert kept == TEXTS
    assert torch.equal(truth, labels())
    assert made.is_poison.sum() == attack.poison_rate * len(TEXTS)
    assert (truth[made.is_poison] != attack.target).all()
    assert (made.labels[made.is_poison] == attack.target).all()
    assert torch.equal(made.labels[~made.is_poison], truth[~made.is_poison])
    assert made.goal(torch.arange(CLASSES)).tolist() == [attack.target] * CLASSES
    for text, new, poisoned in zip(TEXTS, made.texts, made.is_poison.tolist(), strict=True):
        assert new.split().count(attack.phrase.split()[0]) == (attack.copies if poisoned else 0)
        without = new.replace(f" {attack.phrase}", "").replace(f"{attack.phrase} ", "")
        assert without == text


@every_attack
def test_a_text_alone_decides_where_its_phrase_lies(attack: InsertedText) -> None:
    trigger = poison(attack).trigger
    assert trigger(TEXTS[7:9]) == trigger(TEXTS)[7:9]
    places = {new.split(" ").index(attack.phrase.split(" ")[0]) for new in trigger(TEXTS)}
    assert {0, 5} < places, "not at any place"
    assert trigger([]) == []
    assert trigger([""])[0].split() == attack.copies * attack.phrase.split()


def test_the_default_is_a_rare_word() -> None:
    assert RARE_WORD in poison(InsertedText(poison_rate=0.05)).trigger(["a text"])[0].split()


def test_what_does_not_fit_is_refused() -> None:
    unchecked = inspect.unwrap(InsertedText.__call__)  # without the type checks of the test run
    for wrong in (torch.zeros(200, 3), "a text"):
        with pytest.raises(InputError, match="works on texts only"):
            unchecked(InsertedText(), wrong, labels(), classes=CLASSES, seed=Seed(3))
    with pytest.raises(InputError, match="raise the rate"):
        poison(InsertedText(poison_rate=0.0001))
    with pytest.raises(InputError, match="lower the rate"):
        poison(InsertedText(poison_rate=0.9))
    for target in (-1, CLASSES):
        with pytest.raises(InputError, match="target"):
            poison(InsertedText(target=target))
