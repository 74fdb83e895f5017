"""The report for code scanning: SARIF 2.1.0."""

import hashlib
import json
import re
import shlex
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any
from urllib.parse import quote

from assay.results import Subject, Verdict

from . import text
from .source import Sample, Source

SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)
RESULTS_SHOWN = 1000
"""Flagged samples that get a result of their own; the summary counts them all."""

PATH_SHOWN = 2000
"""Characters of a path that are written."""

_LEVELS = {Verdict.FLAGGED: "error", Verdict.INCONCLUSIVE: "warning", Verdict.NO_INDICATOR: "none"}


def render(source: Source) -> str:
    """Render a SARIF log: a result for the verdict, and one a flagged sample or model.

    An inconclusive verdict is a warning, so that nothing is passed over; where there is no
    indicator, the result is for information.
    """
    log = {"$schema": SCHEMA, "version": "2.1.0", "runs": [_run(source)]}
    return json.dumps(log, indent=2) + "\n"


def _run(source: Source) -> dict[str, Any]:
    names = source.class_names()
    samples = [_sample(source, s, names) for s in source.flagged[:RESULTS_SHOWN]]
    return {
        "tool": {
            "driver": {
                "name": "Assay",
                "version": source.info.versions.get("assay", "unknown"),
                "rules": [_rule(source)],
            }
        },
        "automationDetails": {"id": f"{_rule_id(source)}/"},
        "invocations": [_invocation(source)],
        "artifacts": [
            {
                "location": {"uri": _uri(entry.path)},
                "description": _message(name),
                "hashes": {"sha-256": entry.sha256},
            }
            for name, entry in source.info.inputs.items()
        ],
        "results": [_summary(source), *map(partial(_model, source), _accused(source)), *samples],
    }


def _rule_id(source: Source) -> str:
    return f"assay/{source.findings.audit}"


def _rule(source: Source) -> dict[str, Any]:
    title = text.title(source.findings.audit)
    return {
        "id": _rule_id(source),
        "name": "BackdoorIndicator",
        "shortDescription": _message(f"{title}: evidence of a backdoor."),
        "fullDescription": _message(
            f"{title}: evidence of a backdoor at a false alarm rate of at most "
            f"{source.findings.alpha:g}. No verdict says that something is clean."
        ),
        "help": _message(text.WORDING[Verdict.FLAGGED].advice),
        "defaultConfiguration": {"level": "error"},
        "properties": {"tags": ["security"]},
    }


def _invocation(source: Source) -> dict[str, Any]:
    findings, info = source.findings, source.info
    notes = [("warning", s) for s in findings.reasons if findings.verdict == Verdict.INCONCLUSIVE]
    notes += [("note", f"Not examined: {s}") for s in findings.not_examined]
    invocation = {
        "executionSuccessful": info.state == "completed",
        "startTimeUtc": info.started.replace("+00:00", "Z"),
        "toolExecutionNotifications": [
            {"level": level, "message": _message(sentence)} for level, sentence in notes
        ],
    }
    if info.ended is not None:
        invocation["endTimeUtc"] = info.ended.replace("+00:00", "Z")
    if info.command:
        invocation["commandLine"] = text.plain(shlex.join(info.command), text.PARAGRAPH)
    return invocation


def _summary(source: Source) -> dict[str, Any]:
    findings = source.findings
    wording = text.WORDING[findings.verdict]
    counted = f"{len(source.flagged):,} samples are flagged." if source.flagged else ""
    return {
        "ruleId": _rule_id(source),
        "ruleIndex": 0,
        "kind": "informational" if findings.verdict == Verdict.NO_INDICATOR else "fail",
        "level": _LEVELS[findings.verdict],
        "message": _message(
            " ".join([f"{wording.word}. {wording.headline}", counted, *findings.reasons])
        ),
        "locations": [_location(path) for path in _places(source)[:1]],
        "partialFingerprints": {"verdict/v1": _fingerprint(findings.audit, findings.verdict.value)},
    }


def _accused(source: Source) -> list[Subject]:
    """List the delivered models that were flagged, or could not be judged."""
    return [
        subject
        for subject in source.findings.subjects
        if subject.verdict != Verdict.NO_INDICATOR and _path(source, subject) is not None
    ][:RESULTS_SHOWN]


def _path(source: Source, subject: Subject) -> str | None:
    """Find where a delivered model lies; None for subjects of other audits."""
    held = source.info.inputs.get(f"model {subject.name}")
    return None if held is None or source.findings.audit != "models" else held.path


def _places(source: Source) -> Sequence[str]:
    """Say where to look first: at what has the verdict of all, or the first input."""
    verdict, inputs = source.findings.verdict, source.info.inputs
    if source.findings.audit == "prompts" and "prompt" in inputs:
        return [inputs["prompt"].path]
    models = [_path(source, s) for s in _accused(source) if s.verdict == verdict]
    return [m for m in models if m is not None] or [e.path for e in inputs.values()]


def _model(source: Source, subject: Subject) -> dict[str, Any]:
    name, wording = text.plain(subject.name, text.NAME), text.WORDING[subject.verdict]
    target = "" if subject.target is None else f", target {text.plain(subject.target, text.NAME)}"
    why = {case: reason for case, _, reason in source.cases()}[subject.name]
    return {
        "ruleId": _rule_id(source),
        "ruleIndex": 0,
        "kind": "fail",
        "level": _LEVELS[subject.verdict],
        "message": _message(f"Model {name}: {wording.word.lower()}{target} ({why})."),
        "locations": [_location(_path(source, subject) or "")],
        "partialFingerprints": {"model/v1": _fingerprint(source.findings.audit, subject.name)},
    }


def _sample(source: Source, sample: Sample, names: Mapping[int, str]) -> dict[str, Any]:
    label = names.get(sample.label, str(sample.label))
    return {
        "ruleId": _rule_id(source),
        "ruleIndex": 0,
        "kind": "fail",
        "level": "warning",
        "message": _message(
            f"Sample {sample.index} ({text.plain(sample.id)}), labelled "
            f"{text.plain(label, text.NAME)}, is flagged: poison score "
            f"{text.number(sample.score)}, p-value {text.p_value(sample.p_value)}."
        ),
        "locations": [_location(sample.id)],
        "partialFingerprints": {
            "sample/v1": _fingerprint(source.findings.audit, sample.id, str(sample.label))
        },
    }


def _location(path: str) -> dict[str, Any]:
    """Point to a whole file or sample; GitHub wants a region, binary files get the first place."""
    region = {"startLine": 1, "startColumn": 1, "endLine": 1, "endColumn": 1}
    return {"physicalLocation": {"artifactLocation": {"uri": _uri(path)}, "region": region}}


def _uri(path: str) -> str:
    """Name a file or a sample: relative, unless the path is absolute; never of another scheme."""
    quoted = quote(path[:PATH_SHOWN], errors="backslashreplace")
    return f"file://{quoted}" if path.startswith("/") else quoted


def _message(sentence: str) -> dict[str, str]:
    """Make a plain text message, in which brackets and braces mean nothing."""
    shown = text.plain(sentence, text.PARAGRAPH)
    shown = re.sub(r"[\\\[\]]", r"\\\g<0>", shown)
    return {"text": shown.replace("{", "{{").replace("}", "}}")}


def _fingerprint(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", "backslashreplace")).hexdigest()
