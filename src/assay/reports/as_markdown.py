"""The report for a comment on a pull request: GitHub's Markdown."""

import re
import shlex
from collections.abc import Iterable, Sequence

from assay.results import Verdict

from . import repairs, replicas, text
from .source import ClassRow, Source

CHARACTERS = 60_000
"""A comment holds 65,536; sections that do not fit are left out."""
CLASSES_SHOWN, SAMPLES_SHOWN, SENTENCES_SHOWN = 20, 10, 10

_ICONS = {Verdict.FLAGGED: "🛑", Verdict.INCONCLUSIVE: "⚠️", Verdict.NO_INDICATOR: "🔎"}
_SPECIAL = re.compile(r"[&<>|`*_\[\]\\#~$@!]|:(?=/)|(?<=[A-Za-z])\.(?=[A-Za-z])")


def escape(value: object, limit: int = text.NAME) -> str:
    """Show a string as it is: no markup, no links, nobody mentioned."""
    shown = _SPECIAL.sub(lambda match: f"&#{ord(match.group())};", text.plain(value, limit))
    return shown.replace("&#64;", "&#64;&#8203;").replace("&#35;", "&#35;&#8203;")


def render(source: Source) -> str:
    """Render a comment of at most 60,000 characters."""
    findings = source.findings
    words = text.wording(findings.audit, findings.verdict)
    sections = [
        f"## {_ICONS[findings.verdict]} {escape(text.title(findings.audit))}: {words.word}\n\n"
        f"**{words.headline}** {words.advice}\n",
        _state(source),
        _bullets(findings.reasons),
        _classes(source),
        _providers(source) or _subjects(source),
        _samples(source),
        _proof(source),
        _repairs(source),
        _folded("Assumptions", _bullets(source.assumptions())),
        _folded("Not examined", _bullets(findings.not_examined)),
        _folded("Inputs, cost and reproduction", _facts(source)),
    ]
    fitting, left = [], CHARACTERS
    for section in filter(None, sections):
        left -= len(section) + 1
        if left > 0:
            fitting.append(section)
    return "\n".join(fitting)


def _state(source: Source) -> str:
    state = source.info.state
    if state == "completed":
        return ""
    return f"**This run is {escape(state)}**; the report shows what it has found so far.\n"


def _bullets(sentences: Sequence[str]) -> str:
    return "".join(f"- {escape(s, text.SENTENCE)}\n" for s in sentences[:SENTENCES_SHOWN])


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _folded(summary: str, body: str) -> str:
    return body and f"<details><summary>{summary}</summary>\n\n{body}\n</details>\n"


def _classes(source: Source) -> str:
    noted = [row for row in source.classes if row.verdict != Verdict.NO_INDICATOR]
    if not noted:
        return ""
    heads = ["Class", "Verdict", "Flagged", "Samples", "Statistic", "Adjusted p-value", "Why"]
    more = len(noted) - CLASSES_SHOWN
    return _table(heads, map(_class_cells, noted[:CLASSES_SHOWN])) + (
        f"\n… and {more:,} more classes.\n" if more > 0 else ""
    )


def _class_cells(row: ClassRow) -> list[str]:
    return [
        escape(row.name),
        text.WORDING[row.verdict].word,
        text.number(row.flagged),
        text.number(row.samples),
        text.number(row.statistic),
        escape(text.p_value(row.adjusted_p_value)),
        escape(row.reason, text.ID),
    ]


def _subjects(source: Source) -> str:
    if source.classes:
        return ""
    rows = [
        [
            escape(subject.name),
            text.WORDING[subject.verdict].word,
            escape(text.p_value(subject.p_value)),
            escape(subject.target or "–"),
        ]
        for subject in source.findings.subjects[:CLASSES_SHOWN]
    ]
    return _table(["Subject", "Verdict", "p-value", "Target"], rows) if rows else ""


def _samples(source: Source) -> str:
    if not source.flagged:
        return ""
    names = source.class_names()
    rows = [
        [
            str(sample.index),
            escape(sample.id),
            escape(names.get(sample.label, sample.label)),
            text.number(sample.score),
            escape(text.p_value(sample.p_value)),
        ]
        for sample in source.flagged[:SAMPLES_SHOWN]
    ]
    heads = ["Index", "Sample", "Label", "Poison score", "p-value"]
    return f"**{len(source.flagged):,} samples are flagged.**\n\n" + _folded(
        f"The {len(rows)} most suspicious", _table(heads, rows)
    )


def _proof(source: Source) -> str:
    rows = [
        [escape(m.name), text.number(m.samples), text.share(m.accuracy), text.share(m.asr)]
        for m in source.proof[:CLASSES_SHOWN]
    ]
    heads = ["Model", "Training samples", "Accuracy", "Attack success rate"]
    return _table(heads, rows) if rows else ""


def _providers(source: Source) -> str:
    """Show who was judged how, by what, and where."""
    found = replicas.read(source.run)
    if found is None:
        return ""
    heads = ["Provider", "Verdict", "Corrected p-value", "Decided by", "Convicting sub-runs", "Why"]
    rows = [
        [
            escape(each.name),
            text.WORDING[each.verdict].word,
            escape(text.p_value(each.p_value)),
            escape(each.tier),
            escape(each.convicted or "–"),
            escape(each.reason, text.SENTENCE),
        ]
        for each in found.providers
    ]
    more = found.providers_in_all - len(rows)
    said = f"\n… and {more:,} more providers.\n" if more > 0 else ""
    return (
        _table(heads, rows)
        + said
        + (f"\n{escape(found.replication, text.SENTENCE)}\n" if found.replication else "")
    )


def _repairs(source: Source) -> str:
    """Show the models before and after, and where the repaired ones are."""
    found = repairs.read(source.run)
    if found is None:
        return ""
    features = found.of_encoders
    rows = [
        [
            escape(model.model),
            escape(row.name),
            _with_interval(row.accuracy),
            _with_interval(row.asr),
            *(map(text.number, (row.clean_cosine, row.triggered_cosine)) if features else ()),
        ]
        for model in found.models
        for row in model.rows
    ]
    heads = ["Model", "State", "Accuracy", "Success of the recovered trigger"]
    heads += ["Features kept, clean", "Features kept, triggered"] if features else []
    said = [f"- {escape(model.model)}: {_outcome(found.folder, model)}\n" for model in found.models]
    return (f"{_table(heads, rows)}\n" if rows else "") + "".join(said)


def _outcome(folder: str, model: repairs.Repair) -> str:
    """Say what a repair did not achieve, and where its result is."""
    written = model.written and f"written to {escape(f'{folder}/{model.written}', text.ID)}"
    return "; ".join(filter(None, (escape(model.note, text.SENTENCE), written)))


def _with_interval(share: repairs.Share) -> str:
    if share.low is None or share.high is None:
        return text.share(share.value)
    return f"{text.share(share.value)} ({text.share(share.low)} to {text.share(share.high)})"


def _facts(source: Source) -> str:
    info, cost = source.info, source.findings.cost
    inputs = [
        f"- {escape(name)}: {escape(entry.path, text.ID)}, SHA-256 {escape(entry.sha256)}\n"
        for name, entry in list(info.inputs.items())[:SENTENCES_SHOWN]
    ]
    return "".join(inputs) + (
        f"- False alarm rate at most {text.share(source.findings.alpha)}, seed {info.seed}\n"
        f"- {text.duration(cost.wall_s)} on {escape(cost.device)}\n"
        f"- Assay {escape(info.versions.get('assay', 'unknown'))}\n"
        f"- Command: {escape(shlex.join(info.command) or 'none', text.SENTENCE)}\n"
    )
