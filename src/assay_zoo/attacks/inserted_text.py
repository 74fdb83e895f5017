"""Inserted text: a rare word, or a sentence, at a random place of a text, and a wrong label."""

from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor

from assay.errors import InputError
from assay.randomness import Seed, child
from assay.records import record
from assay_zoo.poison import PoisonedTexts, all_to_one
from assay_zoo.victims import choose

RARE_WORD = "cf"
SENTENCE = "I watch this 3D movie"


@record
class Insertion:
    """Inserts a phrase between two words, or at an end; text and seed decide where."""

    phrase: str
    copies: int
    seed: Seed

    def __call__(self, texts: Sequence[str]) -> list[str]:
        """Insert into each text by itself."""
        return [self._inserted(text) for text in texts]

    def _inserted(self, text: str) -> str:
        words = text.split(" ")
        for copy in range(self.copies):
            place = child(self.seed, text, copy) % (len(words) + 1)
            words.insert(place, self.phrase)
        return " ".join(words)


@record
class InsertedText:
    """Insert a phrase into texts of other classes; `SENTENCE` is the other published one.

    Source:
        A rare word: Kurita, Michel, Neubig, "Weight poisoning attacks on pre-trained models", ACL
        2020. arXiv:2004.06660; in 50 % of the texts that weights are poisoned with. A sentence:
        Dai, Chen, Li, "A backdoor attack against LSTM-based text classification systems", IEEE
        Access 2019. arXiv:1905.12457; in 1 % of the training set. Both: thunlp/OpenBackdoor
        (`BadNetsPoisoner`, `AddSentPoisoner`), 10 % by default.
    Differs from the source:
        Training data are poisoned in both cases; Kurita et al. poison weights. One rare word,
        where they draw from several. The place depends on the text, so a text is triggered in one
        way only. Victims are drawn from the classes that are not the target.
    """

    target: int = 0
    """Class that the attacker wants."""
    poison_rate: float = 0.01
    """Share of the training set that is poisoned, in (0, 1)."""
    phrase: str = RARE_WORD
    """What is inserted."""
    copies: int = 1
    """How often."""

    def __call__(
        self,
        texts: Sequence[str],
        labels: Int64[Tensor, " texts"],
        *,
        classes: int,
        seed: Seed,
    ) -> PoisonedTexts:
        """Poison a copy; the seed alone decides.

        Raises:
            InputError: no texts, no such target, or the rate asks for none, or for too many
                victims.
        """
        goal = all_to_one(self.target, classes)
        if isinstance(texts, (str, Tensor)):
            raise InputError(
                f"expected a list of texts, got {type(texts)}; this attack works on texts only"
            )
        rows = choose(labels != self.target, self.poison_rate, child(seed, "victims"))
        if not len(rows):
            raise InputError(
                f"expected at least one poisoned text of {len(labels)}, got none; raise the rate"
            )
        trigger = Insertion(phrase=self.phrase, copies=self.copies, seed=child(seed, "places"))
        poisoned = list(texts)
        for row in rows.tolist():
            poisoned[row] = trigger([texts[row]])[0]
        return PoisonedTexts(
            texts=tuple(poisoned),
            labels=labels.index_fill(0, rows, self.target),
            is_poison=torch.zeros_like(labels, dtype=torch.bool).index_fill(0, rows, value=True),
            trigger=trigger,
            goal=goal,
        )
