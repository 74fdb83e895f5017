"""Words and numbers as a person reads them; strings of an audited party made harmless to see."""

import math
import re
from typing import NamedTuple

from assay.results import Verdict

NAME, ID, SENTENCE, PARAGRAPH = 80, 160, 600, 4000
"""How many characters of a string are shown."""

_HIDDEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def plain(value: object, limit: int = ID) -> str:
    """Cut a string, and show as escapes what cannot be seen or turns other text around.

    The result is valid in XML, HTML and JSON once it is escaped for them.
    """
    text = re.sub(r"[\t\r\n]+", " ", str(value)[: limit + 1])
    if len(text) > limit:
        text = text[: limit - 1] + "…"
    return _HIDDEN.sub(lambda match: f"\\u{ord(match.group()):04x}", text)


def number(value: float | int | None) -> str:
    """Show a number with three digits, or whole where it has more."""
    if value is None:
        return "–"
    if not math.isfinite(value):
        return {"nan": "not a number", "inf": "∞"}.get(str(float(value)), "−∞")
    whole = value == int(value) or abs(value) >= 1000
    return f"{value:,.0f}" if whole and abs(value) < 1e15 else f"{value:.3g}"


def anything(value: object) -> str:
    """Show a value of evidence: numbers as `number` does, the rest as it is."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return plain(value)
    return number(value)


def p_value(value: float | None) -> str:
    """Show a p-value; the smallest ones as a bound."""
    if value is None:
        return "not tested"
    return "< 0.0001" if value < 0.0001 else number(value)


def share(value: float | None) -> str:
    """Show a number in [0, 1] in percent."""
    return "–" if value is None or not math.isfinite(value) else f"{100 * value:.1f} %"


def duration(seconds: float) -> str:
    """Show a time span in the unit that suits it."""
    if not math.isfinite(seconds):
        return "unknown"
    for unit, size in (("s", 1), ("min", 60)):
        if seconds < 100 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 3600:.1f} h"


def moment(iso: str | None) -> str:
    """Show a UTC time to the minute."""
    return "–" if iso is None else f"{plain(iso[:16]).replace('T', ' ')} UTC"


class Wording(NamedTuple):
    """What a verdict is called and what it means."""

    word: str
    headline: str
    advice: str


WORDING = {
    Verdict.FLAGGED: Wording(
        word="Flagged",
        headline="There is evidence of a backdoor.",
        advice="Do not use what was audited as it is. Look at the evidence below, ask where it "
        "came from, and repair or replace it before anything is trained on it or shipped.",
    ),
    Verdict.NO_INDICATOR: Wording(
        word="No indicator found",
        headline="The audit found no evidence of a backdoor.",
        advice="This is no proof that there is none: it holds for the attacks that the method can "
        "see, under the assumptions below. Read what was not examined before you rely on it.",
    ),
    Verdict.INCONCLUSIVE: Wording(
        word="Inconclusive",
        headline="The audit could not reach a verdict.",
        advice="Treat this as not passed. The reasons say what was missing; supply it, and run the "
        "audit again.",
    ),
}

_LEFT = Wording(
    word="Flagged",
    headline="There is evidence that a provider left the recipe.",
    advice="Do not use what this provider delivered. Look at the evidence below, ask what it ran, "
    "and go on from weights that others agree on.",
)
"""Of a training: what a provider did instead may be a backdoor, or steps that it saved."""


def wording(audit: str, verdict: Verdict) -> Wording:
    """Say what a verdict of an audit is called and what it means."""
    return _LEFT if (audit, verdict) == ("training", Verdict.FLAGGED) else WORDING[verdict]


TITLES = {
    "dataset": "Data set audit",
    "models": "Cross-examination of models",
    "training": "Audit of outsourced training",
    "prompts": "Prompt audit",
}
"""What the audits are called; others by their own name."""

MODELS = {
    "before": "Before: trained on the data as received",
    "after": "After: trained without what was flagged",
}
"""What the models of a proof are called; others by their own name."""


def title(audit: str) -> str:
    """Name an audit as a heading."""
    return TITLES.get(audit, f"{plain(audit, NAME)} audit")
