"""Tokenizers that would make a short text endless are refused; honest ones are read."""

import json
import pathlib

import pytest

from assay.errors import RefusedError
from assay.storage.language import Words, read_tokenizer

VOCABULARY = {"a": 0, "b": 1}
UNKNOWN = {"type": "WordLevel", "vocab": VOCABULARY, "unk_token": "?"}
BACKTRACKING = {
    "type": "Split",
    "pattern": {"Regex": "(a+)+b"},
    "behavior": "Isolated",
    "invert": False,
}
TEMPLATE = {
    "type": "TemplateProcessing",
    "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 3,
    "pair": [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"],
    "special_tokens": {},
}


def read(path: pathlib.Path, vocabulary: dict[str, int] = VOCABULARY, **parts: object) -> Words:
    model = {"type": "WordLevel", "vocab": vocabulary, "unk_token": "a"}
    said = {"version": "1.0", "added_tokens": [], "model": model, **parts}
    (path / "tokenizer.json").write_text(json.dumps(said))
    return read_tokenizer(path)


def replace(content: str, pattern: str = "a", *, by: str = "String") -> dict:
    return {"type": "Replace", "pattern": {by: pattern}, "content": content}


def sequence(*steps: dict, of: str = "normalizers") -> dict:
    return {"type": "Sequence", of: list(steps)}


def untyped(step: dict) -> dict:
    return {key: value for key, value in step.items() if key != "type"}


BYTES = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}


@pytest.mark.parametrize(
    ("parts", "pattern"),
    [
        ({"normalizer": sequence(*[replace("aa")] * 40)}, "at most 8 steps 'Replace'.*got 40"),
        ({"normalizer": sequence(*[untyped(replace("aa"))] * 40)}, "at most 8 steps"),
        ({"normalizer": sequence(*[sequence(replace("a"))] * 9)}, "at most 8 steps"),
        ({"decoder": sequence(*[replace("aa")] * 9, of="decoders")}, "at most 8 steps"),
        ({"normalizer": sequence(*[replace("aa")] * 5)}, "at most 16 times as long, got 32"),
        ({"normalizer": replace("a" * 17)}, "got 17 times"),
        ({"normalizer": replace("a" * 17, ".{17}", by="Regex")}, "got 17 times"),
        ({"normalizer": replace("a" * 8), "decoder": replace("a" * 8)}, "got 64 times"),
        ({"normalizer": sequence(*[{"type": "ByteLevel"}] * 40)}, "at most 4 steps 'ByteLevel'"),
        ({"pre_tokenizer": sequence(*[BYTES] * 40, of="pretokenizers")}, "at most 4 steps"),
        ({"vocabulary": {"a": 0, "b" * 1_025: 1}}, "at most 1024 characters.*got 1025"),
    ],
)
def test_tokenizers_that_exhaust(tmp_path, parts: dict, pattern: str) -> None:
    with pytest.raises(RefusedError, match=pattern):
        read(tmp_path, **parts)


def test_tokenizers_that_replace_a_little(tmp_path) -> None:
    steps = sequence(replace("b" * 32, "aa"), *[replace(" ", " {2,}", by="Regex")] * 7)
    assert read(tmp_path, normalizer=steps).encode("aa") == [0]
    assert read(tmp_path, {"a": 0, " " * 1_024: 1}).special == frozenset()


def test_templates_do_not_repeat_texts(tmp_path) -> None:
    assert read(tmp_path, post_processor=TEMPLATE).encode("b") == [1]


BEGINNING = {
    "type": "TemplateProcessing",
    "single": [
        {"SpecialToken": {"id": "b", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
        {"SpecialToken": {"id": "a", "type_id": 0}},
    ],
    "pair": [{"Sequence": {"id": name, "type_id": 0}} for name in "AB"],
    "special_tokens": {
        name: {"id": name, "ids": [VOCABULARY[name]], "tokens": [name]} for name in "ab"
    },
}


@pytest.mark.parametrize("wrapped", [False, True])
def test_what_a_template_puts_before_a_text(tmp_path, wrapped: bool) -> None:
    level = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    template = {"type": "Sequence", "processors": [level, BEGINNING]} if wrapped else BEGINNING
    words = read(tmp_path, post_processor=template)
    assert words.beginning == (1,)
    assert words.encode("a") == [0]
    assert read(tmp_path, post_processor=TEMPLATE).beginning == ()
    assert read(tmp_path).beginning == ()


@pytest.mark.parametrize("ids", [[0] * 9, [7]])
def test_beginnings_that_are_long_or_unknown(tmp_path, ids: list[int]) -> None:
    token = {"id": "b", "ids": ids, "tokens": ["b"] * len(ids)}
    template = {**BEGINNING, "special_tokens": {**BEGINNING["special_tokens"], "b": token}}
    with pytest.raises(RefusedError, match="before every text"):
        read(tmp_path, post_processor=template)


def precompiled(charsmap: str) -> dict:
    return {"normalizer": {"type": "Precompiled", "precompiled_charsmap": charsmap}}


@pytest.mark.parametrize("charsmap", ["/////w==", "AAAAAA=="])
def test_tokenizers_that_panic_when_they_are_read_or_used(tmp_path, charsmap: str) -> None:
    with pytest.raises(RefusedError, match=r"split and join texts in .*tokenizer\.json, got"):
        read(tmp_path, **precompiled(charsmap)).encode("a")


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ({"pre_tokenizer": BACKTRACKING}, "a" * 64),
        ({"pre_tokenizer": {"type": "FixedLength", "length": 0}}, "a"),
        ({"model": UNKNOWN}, "c"),
    ],
)
def test_tokenizers_that_cannot_split(tmp_path, parts: dict, text: str) -> None:
    with pytest.raises(RefusedError, match=r"split and join texts in .*tokenizer\.json, got"):
        read(tmp_path, **parts).encode(text)


def test_tokenizers_that_cannot_join(tmp_path) -> None:
    strip = {"type": "Strip", "content": "a", "start": 5, "stop": 5}
    with pytest.raises(RefusedError, match=r"split and join texts in .*tokenizer\.json, got"):
        read(tmp_path, decoder=strip).decode([0])


class Interrupted:
    def decode(self, _: list[int]) -> str:
        raise KeyboardInterrupt


def test_a_user_who_interrupts_a_tokenizer_is_heard(tmp_path) -> None:
    words = read(tmp_path)
    words._tokenizer = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        words.decode([0])
