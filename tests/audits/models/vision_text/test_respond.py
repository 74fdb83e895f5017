"""Prompts with a place for the picture, and what odd answers of a model come to."""

import dataclasses
from collections.abc import Mapping, Sequence
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from assay.audits.models.vision_text import VisionTextDelivery
from assay.audits.models.vision_text.respond import asked, continued, first_tokens, prompt_ids
from assay.errors import InputError
from assay.fitting import Preprocess

CPU, SHAPE = torch.device("cpu"), torch.Size((3, 4, 4))
AS_THEY_ARE = Preprocess(mean=(0.0,) * 3, std=(1.0,) * 3)


class Letters:
    """A tokenizer of single letters; the number 0 ends a response."""

    @property
    def vocabulary(self) -> Mapping[str, int]:
        return {chr(96 + number): number for number in range(1, 27)}

    @property
    def special(self) -> frozenset[int]:
        return frozenset({0})

    def encode(self, text: str) -> list[int]:
        return [ord(letter) - 96 for letter in text if letter.isalpha()]

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(96 + number) for number in ids)


class Counting(nn.Module):
    """Says `b` to bright pictures and `a` to dark ones, then the next letter, until `d`."""

    def __init__(self, parts: int = 2) -> None:
        super().__init__()
        self.config = SimpleNamespace(image_token_id=30)
        self.parts = parts

    def get_image_features(self, pixel_values: Tensor) -> SimpleNamespace:
        return SimpleNamespace(
            pooler_output=list(pixel_values.new_zeros(len(pixel_values), self.parts, 5))
        )

    def forward(
        self, input_ids: Tensor, pixel_values: Tensor, logits_to_keep: int, use_cache: bool
    ) -> SimpleNamespace:
        assert (input_ids == 30).sum(1).eq(self.parts).all()
        last = input_ids[:, -1]
        begun = torch.where(last < 20, last + 1, 1 + (pixel_values.mean((1, 2, 3)) > 0.5).long())
        begun = torch.where(begun == 4, 0, begun)
        return SimpleNamespace(logits=10.0 * nn.functional.one_hot(begun, 31)[:, None])


def delivery(model: nn.Module) -> VisionTextDelivery:
    return VisionTextDelivery(
        name="a", model=model, tokenizer=Letters(), preprocess=AS_THEY_ARE, digest={}
    )


def test_the_picture_goes_where_the_prompt_says_or_first() -> None:
    assert prompt_ids(Letters(), "ab<image>c", 30, 2) == [1, 2, 30, 30, 3]
    assert prompt_ids(Letters(), "c", 30, 3) == [30, 30, 30, 3]
    for odd in ("<image>", "a<image>  \n", "<image>b<image>c", ""):
        with pytest.raises(InputError, match="<image>"):
            prompt_ids(Letters(), odd, 30, 2)


def test_the_beginning_comes_first() -> None:
    begun = dataclasses.replace(delivery(Counting()), beginning=(7, 8))
    plain = asked(delivery(Counting()), "z", SHAPE, CPU).ids.tolist()
    assert asked(begun, "z", SHAPE, CPU).ids.tolist() == [7, 8, *plain]


def test_a_response_is_read_until_a_token_without_text() -> None:
    model = asked(delivery(Counting()), "z", SHAPE, CPU)
    assert model.ids.tolist() == [30, 30, 26]
    images = torch.stack([torch.zeros(SHAPE), torch.ones(SHAPE)])
    first = first_tokens(model.respond, images, at_once=1)
    assert first.argmax(1).tolist() == [1, 2]
    assert torch.allclose(first.sum(1), torch.ones(2))
    assert continued(model, images, tokens=6) == ("abc", "bc")
    assert continued(model, images, tokens=1) == ("a", "b")


def test_models_that_take_no_such_images_are_named() -> None:
    class Failing(Counting):
        def get_image_features(self, pixel_values: Tensor) -> SimpleNamespace:
            raise ValueError("wrong size")

    for model in (Failing(), nn.Linear(2, 2)):
        with pytest.raises(InputError, match="'a' fails on them"):
            asked(delivery(model), "z", SHAPE, CPU)
