"""Causal language models of another party, with their tokenizers: no pickle, no code of theirs."""

import contextlib
import itertools
import json
import math
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from torch import nn

from assay.errors import AssayError, InputError, RefusedError
from assay.records import record

from . import huggingface
from .files import digest_path, existing, read_bounded

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_MAX_TOKENIZER = 2**26
_MAX_VOCABULARY = 1_000_000
_MAX_TOKEN = 1_024
_MAX_GROWTH = 16
_MAX_BEGINNING = 8
_MAX_STEPS = {"Replace": 8, "ByteLevel": 4, "Precompiled": 1}
"""How many steps there may be of those that lengthen texts: one after the other, they multiply."""

_PARTS = ("normalizer", "pre_tokenizer", "decoder")
_FILE = "tokenizer.json"


class Words:
    """A tokenizer as `tokenizer.json` describes it; beginnings and ends are not added to texts."""

    def __init__(
        self, tokenizer: "Tokenizer", file: pathlib.Path, beginning: tuple[int, ...] = ()
    ) -> None:
        self.beginning = beginning
        """Tokens that its template puts before every text, such as `<s>`."""
        self._tokenizer = tokenizer
        self._file = file
        self._vocabulary = tokenizer.get_vocab()
        added = tokenizer.get_added_tokens_decoder()
        self._special = frozenset(number for number, token in added.items() if token.special)

    @property
    def vocabulary(self) -> Mapping[str, int]:
        """Every token, by how it is written."""
        return self._vocabulary

    @property
    def special(self) -> frozenset[int]:
        """Tokens that stand for no text."""
        return self._special

    def encode(self, text: str) -> list[int]:
        """Split a text, without adding special tokens.

        Raises:
            RefusedError: the tokenizer cannot.
        """
        with _refusing(self._file):
            return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Join tokens to a text; those that stand for no text are left out.

        Raises:
            RefusedError: the tokenizer cannot.
        """
        with _refusing(self._file):
            return self._tokenizer.decode(list(ids))


@record
class LoadedLanguageModel:
    """A language model of another party, in evaluation mode on the CPU, with weights as float32."""

    model: nn.Module
    tokenizer: Words
    digest: str
    """SHA-256 of the folder."""
    origin: str
    """The source as the user named it."""


def load_language_model(source: str, *, max_mb: int = 16_384) -> LoadedLanguageModel:
    """Load a folder that `transformers` wrote: config.json, .safetensors and tokenizer.json.

    Raises:
        UsageError: there is no such path.
        RefusedError: the folder is malformed, oversized or tries to run code.
        InputError: it is no causal language model, or has no tokenizer.json.
    """
    path = existing(pathlib.Path(source))
    if not (path.is_dir() and (path / "config.json").is_file()):
        raise InputError(
            f"expected a Hugging Face folder of a language model, with config.json, got {source}"
        )
    tokenizer = read_tokenizer(path)
    model = huggingface.read_model(path, max_mb=max_mb)
    heads = getattr(model, "get_output_embeddings", lambda: None)()
    if not type(model).__name__.endswith(("ForCausalLM", "LMHeadModel")) or heads is None:
        raise InputError(
            f"expected a causal language model in {path}, got {type(model).__name__}: "
            "architectures in config.json must end with ForCausalLM"
        )
    check_vocabulary(tokenizer, heads.weight.shape[0], path)
    return LoadedLanguageModel(
        model=model.eval(), tokenizer=tokenizer, digest=digest_path(path), origin=source
    )


def check_vocabulary(tokenizer: Words, size: int, path: pathlib.Path) -> None:
    """Check that a model answers with every token that its tokenizer has.

    Raises:
        InputError: it does not.
    """
    largest = max(tokenizer.vocabulary.values(), default=-1)
    if largest >= size:
        raise InputError(
            f"expected a model of more than {largest} tokens in {path}, as its tokenizer has them, "
            f"got {size}"
        )


def read_tokenizer(path: pathlib.Path) -> Words:
    """Read `tokenizer.json` of a folder; no other form, as others are code or pickles.

    Raises:
        InputError: there is none.
        RefusedError: it is broken, too large, has no vocabulary or lengthens texts too much.
    """
    if not (path / _FILE).is_file():
        raise InputError(f"expected {_FILE} in {path}: tokenizers of other forms are not read")
    content = read_bounded(path / _FILE, _MAX_TOKENIZER)
    from tokenizers import Tokenizer

    with _refusing(path / _FILE):
        text = content.decode()
        json.loads(text)
        tokenizer = Tokenizer.from_str(text)
        said = json.loads(tokenizer.to_str())  # as built: files leave types out
        _check_steps(said, path)
        words = Words(_unbounded(tokenizer), path / _FILE, _beginning(said.get("post_processor")))
    if len(words.beginning) > _MAX_BEGINNING or not (
        {*words.beginning} <= {*words.vocabulary.values()}
    ):
        raise RefusedError(
            f"expected at most {_MAX_BEGINNING} tokens of the vocabulary before every text in "
            f"{path / _FILE}, got {words.beginning[: _MAX_BEGINNING + 1]}"
        )
    if not 2 <= len(words.vocabulary) <= _MAX_VOCABULARY:
        raise RefusedError(
            f"expected 2 to {_MAX_VOCABULARY} tokens in {path / _FILE}, got {len(words.vocabulary)}"
        )
    longest = max(map(len, words.vocabulary))
    if longest > _MAX_TOKEN:
        raise RefusedError(
            f"expected tokens of at most {_MAX_TOKEN} characters in {path / _FILE}, got {longest}; "
            "ask for the tokenizer that the model was trained with"
        )
    return words


@contextlib.contextmanager
def _refusing(file: pathlib.Path) -> Iterator[None]:
    """Turn whatever the library raises into a refusal: it is in Rust, whose panics are no errors.

    Raises:
        RefusedError: the library failed.
    """
    try:
        yield
    except (AssayError, KeyboardInterrupt, SystemExit, GeneratorExit):
        raise
    except BaseException as error:
        raise RefusedError(
            f"expected a tokenizer that can split and join texts in {file}, got "
            f"{type(error).__name__}: {error}; ask for the one that the model was trained with"
        ) from error


def _check_steps(said: dict[str, Any], path: pathlib.Path) -> None:
    """Refuse steps that would make a short text endless."""
    steps = [step for part in _PARTS for step in _steps(said.get(part))]
    for kind, most in _MAX_STEPS.items():
        count = sum(step.get("type") == kind for step in steps)
        if count > most:
            raise RefusedError(
                f"expected at most {most} steps {kind!r} in {path / _FILE}, got {count}; "
                "ask for a tokenizer without them"
            )
    growth = math.prod(_growth(step) for step in steps if step.get("type") == "Replace")
    if growth > _MAX_GROWTH:
        raise RefusedError(
            f"expected replacements in {path / _FILE} that make a text at most {_MAX_GROWTH} times "
            f"as long, got {growth:.3g} times; ask for a tokenizer without them"
        )


def _steps(said: Any) -> Iterator[dict[str, Any]]:
    """Yield what is described inside a part of a tokenizer, at any depth."""
    if isinstance(said, dict):
        yield said
        said = list(said.values())
    if isinstance(said, list):
        for value in said:
            yield from _steps(value)


def _growth(step: dict[str, Any]) -> float:
    """How much longer a replacement makes a text at most; an expression may match a character."""
    replaced = step["pattern"].get("String", "")
    return max(1.0, len(step["content"]) / max(1, len(replaced)))


def _beginning(said: Any) -> tuple[int, ...]:
    """Find the tokens that a template puts before a text."""
    for step in _steps(said):
        if step.get("type") == "TemplateProcessing":
            pieces = [piece.get("SpecialToken") for piece in step["single"]]
            first = itertools.takewhile(lambda piece: piece is not None, pieces)
            known = step["special_tokens"]
            return tuple(token for piece in first for token in known[piece["id"]]["ids"])
    return ()


def _unbounded(tokenizer: "Tokenizer") -> "Tokenizer":
    """Neither cut nor fill up nor repeat texts, whatever the file says."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    tokenizer.post_processor = None
    return tokenizer
