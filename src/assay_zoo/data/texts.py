"""Real texts, and an encoder that turns them into features without any download."""

import pathlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int64
from sklearn.decomposition import TruncatedSVD
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer, TfidfVectorizer
from torch import Tensor, nn

from assay.errors import InputError, UsageError
from assay.randomness import Seed, child, generator
from assay.records import record

FILES = {"agnews-features": "agnews.tsv"}
"""Tables of a sentence and a label, in the folder `text`."""

CLASSES = {"agnews-features": ("world", "sports", "business", "technology")}

_UNKNOWN = 2**14  # directions of words that the encoder has not seen

Encode = Callable[[Sequence[str]], Float[Tensor, "texts dims"]]
"""A frozen encoder: a text alone decides its features."""


@record
class Texts:
    """Labelled texts, none of them twice."""

    texts: tuple[str, ...]
    labels: Int64[Tensor, " texts"]
    class_names: tuple[str, ...]


@record
class TextEncoder:
    """Takes the mean of the directions of a text's words, weighted by their inverse frequency.

    Words of two or more of the texts that it is fitted to point where latent semantic analysis puts
    them, all others in a random direction that their hash decides. So what the encoder never saw,
    such as a rare trigger word, is still there. In the topics of a text alone (`TruncatedSVD` of
    tf-idf) it is not: the rare word of `InsertedText` then succeeds in 5 %, as without poison.

    Source:
        Deerwester et al., "Indexing by latent semantic analysis", 1990. Arora, Liang, Ma, "A simple
        but tough-to-beat baseline for sentence embeddings", ICLR 2017, with idf as the weight and
        the common component left in.
    """

    dims: int = 128

    def __call__(self, texts: Sequence[str], *, seed: Seed) -> Encode:
        """Fit to texts that nobody audits; the seed decides random directions.

        Neither to suspects, so that poison has no say in it, nor to the trusted samples of the
        audit: they have to be treated as the clean suspects are.

        Raises:
            InputError: there are fewer texts than dimensions.
        """
        if len(texts) < self.dims:
            raise InputError(
                f"expected at least {self.dims} texts to fit the encoder to, got {len(texts)}; "
                "take smaller parts of the data set"
            )
        seen = TfidfVectorizer(sublinear_tf=True, min_df=2)
        topics = TruncatedSVD(self.dims, random_state=child(seed, "topics") % 2**32)
        topics.fit(seen.fit_transform(texts))
        idf = torch.from_numpy(seen.idf_)
        random = generator(child(seed, "unknown"), torch.device("cpu"))
        unseen = torch.randn(_UNKNOWN, self.dims, generator=random, dtype=torch.float64)
        known = _unit(torch.from_numpy(topics.components_.T)) * idf[:, None]
        unknown = _unit(unseen) * idf.max()
        split, vocabulary = seen.build_analyzer(), seen.vocabulary_

        def others(text: str) -> list[str]:
            return [word for word in split(text) if word not in vocabulary]

        count = CountVectorizer(vocabulary=vocabulary)
        hashed = HashingVectorizer(
            analyzer=others, n_features=_UNKNOWN, norm=None, alternate_sign=False
        )

        def encode(some: Sequence[str]) -> Float[Tensor, "texts dims"]:
            first, second = count.transform(some), hashed.transform(some)
            words = np.maximum(first.sum(axis=1) + second.sum(axis=1), 1)
            total = first @ known.numpy() + second @ unknown.numpy()
            return torch.from_numpy(np.asarray(total / words)).float()

        return encode


def _unit(rows: Float[Tensor, "words dims"]) -> Float[Tensor, "words dims"]:
    return nn.functional.normalize(rows, dim=1)


def read_texts(name: str, folder: pathlib.Path) -> Texts:
    """Read a data set of texts, one of `FILES`.

    Raises:
        UsageError: its file is absent.
    """
    path = folder / FILES[name]
    if not path.is_file():
        raise UsageError(f"expected the file {path}, which is missing; set ASSAY_DATA")
    lines = path.read_text(encoding="utf-8").splitlines()[1:]
    parts = (line.rpartition("\t") for line in lines)
    found = {text.strip(): int(label) for text, _, label in parts}
    return Texts(
        texts=tuple(found), labels=torch.tensor(list(found.values())), class_names=CLASSES[name]
    )
