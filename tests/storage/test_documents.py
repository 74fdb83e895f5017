import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from assay.errors import InputError
from assay.results import Cost, Findings, Subject, Verdict
from assay.storage import documents

ODD_STRINGS = ["", "frog", "Frösche ≥ 3", "\ud800", "\x00\x1b", "🐸", "<script>", "NaN", "$float"]
ODD_NUMBERS = [0, -1, 2**62, 0.1, 5e-324, math.nan, math.inf, -math.inf]

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None)),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["$float", "$", "a"]), inner),
    max_leaves=20,
)


@settings(max_examples=50, deadline=None)
@given(values)
def test_every_value_survives_and_the_text_is_strict_json(value: object) -> None:
    text = documents.dump(value)
    json.loads(text, parse_constant=pytest.fail)
    assert text.isascii()
    assert repr(documents.load(text)) == repr(value)


@pytest.mark.parametrize("value", [object(), {1: 2}, b"bytes", {"a": [{"b": {1, 2}}]}])
def test_what_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(InputError, match="expected"):
        documents.dump(value)


def test_the_error_names_the_place() -> None:
    with pytest.raises(InputError, match=r"settings\.rounds\[1\], got set"):
        documents.encode({"rounds": [1, {2}]}, "settings")


@pytest.mark.parametrize(
    "text",
    ["NaN", '{"a": Infinity}', "{", "\xff", '{"$float": "12"}', '{"$float": []}', "[" * 10**5],
)
def test_text_that_is_not_strict_json_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        documents.load(text)


@pytest.mark.parametrize("verdict", Verdict)
@pytest.mark.parametrize("number", [*ODD_NUMBERS, None])
@pytest.mark.parametrize("word", [*ODD_STRINGS, None])
def test_findings_survive(verdict: Verdict, number: float | None, word: str | None) -> None:
    subject = Subject(
        name=word or "",
        digest={"sha256": "00" * 32},
        verdict=verdict,
        p_value=None if number is None else float(number),
        target=word,
        evidence={"number": number, word or "": [word, {"$float": number}]},
        assumptions=(word or "", "more"),
    )
    findings = Findings(
        audit="dataset",
        verdict=verdict,
        alpha=0.05,
        reasons=(word or "",),
        subjects=(subject, subject),
        cost=Cost(wall_s=float(number or 0), device="cpu", peak_memory_mb=1.5),
        not_examined=(),
    )
    text = documents.dump(documents.findings_document(findings))
    assert repr(documents.parse_findings(documents.load(text))) == repr(findings)


def test_findings_are_laid_out_as_the_interface_says() -> None:
    findings = Findings(
        audit="dataset",
        verdict=Verdict.NO_INDICATOR,
        alpha=0.05,
        reasons=(),
        subjects=(),
        cost=Cost(wall_s=1.0, device="cpu", peak_memory_mb=2.0),
        not_examined=("duplicates",),
    )
    assert documents.findings_document(findings) == {
        "schema": "assay/findings/v1",
        "audit": "dataset",
        "verdict": "no_indicator",
        "alpha": 0.05,
        "reasons": [],
        "subjects": [],
        "cost": {"wall_s": 1.0, "device": "cpu", "peak_memory_mb": 2.0},
        "not_examined": ["duplicates"],
    }


@pytest.mark.parametrize("broken", [{"verdict": "clean"}, {"subjects": 3}, {"cost": {}}])
def test_damaged_findings_are_refused(broken: dict[str, object]) -> None:
    whole = {
        "audit": "dataset",
        "verdict": "flagged",
        "alpha": 0.05,
        "reasons": [],
        "subjects": [],
        "cost": {"wall_s": 1, "device": "cpu", "peak_memory_mb": 2},
        "not_examined": [],
    }
    documents.parse_findings(whole)
    with pytest.raises(InputError, match="expected findings"):
        documents.parse_findings({**whole, **broken})


def test_a_write_that_fails_leaves_the_old_file(tmp_path) -> None:
    path = tmp_path / "a.json"
    documents.write_text(path, "old")
    with pytest.raises(UnicodeEncodeError):
        documents.write_text(path, "new \ud800")
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]
    assert path.read_text() == "old"


def test_what_is_nested_too_deeply_is_refused() -> None:
    assert documents.load("[" * 30 + "]" * 30, deepest=32)
    for depth in (33, 500, 100_000):
        with pytest.raises(InputError, match=r"nested|recursion"):
            documents.load("[" * depth + "]" * depth, deepest=32)


def test_an_error_says_where_the_value_is() -> None:
    with pytest.raises(InputError, match=r"in it\.a\[1\]\.b, got bytes"):
        documents.encode({"a": [0, {"b": b""}]}, "it")
    with pytest.raises(InputError, match=r"strings as keys in it\.a\[3\], got 3"):
        documents.encode({"a": {3: 4}}, "it")
