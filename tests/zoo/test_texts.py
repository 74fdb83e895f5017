import os
import pathlib

import pytest
import torch

from assay.errors import InputError, UsageError
from assay.randomness import Seed
from assay_zoo.attacks.inserted_text import RARE_WORD
from assay_zoo.data import TextEncoder, load
from assay_zoo.data.texts import read_texts

FOLDER = pathlib.Path(os.environ.get("ASSAY_DATA", "../shared/data")) / "text"
SIZES = {"train": 600, "trusted": 400, "test": 200}

needs_news = pytest.mark.skipif(
    not (FOLDER / "agnews.tsv").is_file(), reason="the news are not in $ASSAY_DATA"
)


@needs_news
def test_the_parts_are_disjoint_and_the_encoder_is_fitted_to_none_of_them(monkeypatch) -> None:
    given = []
    fit = TextEncoder.__call__

    def noted(self, texts, *, seed):
        given.extend(texts)
        return fit(self, texts, seed=seed)

    monkeypatch.setattr(TextEncoder, "__call__", noted)
    split = load("agnews-features", **SIZES, seed=Seed(1))
    assert [len(split.train), len(split.trusted), len(split.test)] == [600, 400, 200]
    everything = read_texts("agnews-features", FOLDER).texts
    assert len(set(everything)) == len(everything)
    assert len(given) == len(everything) - 1200
    assert not {*split.texts.train, *split.texts.test} & {*given}
    assert not {*split.texts.train} & {*split.texts.test}
    shares = split.train.labels.bincount() / 600
    assert (split.test.labels.bincount() / 200 - shares).abs().max() < 0.02


@needs_news
def test_features_belong_to_the_texts_and_the_seed_alone_decides() -> None:
    first, again, other = (load("agnews-features", **SIZES, seed=Seed(s)) for s in (1, 1, 2))
    assert torch.equal(first.train.inputs[:], again.train.inputs[:])
    assert not torch.equal(first.train.inputs[:], other.train.inputs[:])
    some = first.texts.encode(first.texts.train[5:9])
    assert torch.allclose(some, first.train.inputs[5:9], atol=1e-6), "a text depends on others"


@needs_news
def test_words_that_the_encoder_never_saw_have_a_direction_of_their_own() -> None:
    split = load("agnews-features", **SIZES, seed=Seed(1))
    encode, plain = split.texts.encode, split.texts.test
    cosine = torch.nn.functional.cosine_similarity

    def moved(word: str) -> torch.Tensor:
        return encode([f"{text} {word}" for text in plain]) - encode(plain)

    one, other = moved(RARE_WORD), moved("xqzzy")
    length = one.norm(dim=1) / encode(plain).norm(dim=1)
    assert length.median() > 0.1
    assert cosine(one, one.mean(0, keepdim=True)).median() > 0.8, "not the same way in all texts"
    assert cosine(one.mean(0), other.mean(0), dim=0) < 0.8


@needs_news
def test_too_large_parts_are_refused() -> None:
    with pytest.raises(InputError, match="fit the encoder"):
        load("agnews-features", train=7000, trusted=1900, test=1000, seed=Seed(0))
    with pytest.raises(InputError, match="expected parts"):
        load("agnews-features", train=9000, trusted=1900, test=1000, seed=Seed(0))


def test_a_missing_file_is_said(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("ASSAY_DATA", str(tmp_path))
    with pytest.raises(UsageError, match="ASSAY_DATA"):
        load("agnews-features", **SIZES, seed=Seed(0))
