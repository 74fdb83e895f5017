import math

import pytest

from assay.reports import text
from assay.results import Verdict


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (0, "0"),
        (1234567, "1,234,567"),
        (1234.56, "1,235"),
        (0.123456, "0.123"),
        (-2.0, "-2"),
        (1e300, "1e+300"),
        (math.nan, "not a number"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
    ],
)
def test_numbers(value, shown) -> None:
    assert text.number(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "not tested"),
        (0.0, "< 0.0001"),
        (0.00012, "0.00012"),
        (1.0, "1"),
        (math.nan, "not a number"),
    ],
)
def test_p_values(value, shown) -> None:
    assert text.p_value(value) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.04, "0.0 s"),
        (99.0, "99.0 s"),
        (143.2, "2.4 min"),
        (7200.0, "2.0 h"),
        (math.nan, "unknown"),
    ],
)
def test_durations(seconds, shown) -> None:
    assert text.duration(seconds) == shown


def test_times() -> None:
    assert text.moment("2026-02-03T04:05:06+00:00") == "2026-02-03 04:05 UTC"
    assert text.moment(None) == "–"


def test_strings_are_cut_and_made_visible() -> None:
    assert text.plain("x" * 100, 10) == "x" * 9 + "…"
    assert text.plain("x" * 10, 10) == "x" * 10
    assert text.plain("a\n\tb\x1b[1m\u202ec\udce9") == "a b\\u001b[1m\\u202ec\\udce9"
    assert text.plain("مرحبا 你好 Grüße 🐸") == "مرحبا 你好 Grüße 🐸"


@pytest.mark.parametrize(
    ("value", "shown"), [(0.5, "0.5"), (True, "True"), ("a", "a"), ([1], "[1]")]
)
def test_evidence(value, shown) -> None:
    assert text.anything(value) == shown


def test_a_provider_is_not_said_to_have_planted_anything():
    assert "provider" in text.wording("training", Verdict.FLAGGED).headline
    assert "backdoor" not in text.wording("training", Verdict.FLAGGED).headline
    for audit in text.TITLES:
        for verdict in Verdict:
            assert text.wording(audit, verdict).word == text.WORDING[verdict].word
