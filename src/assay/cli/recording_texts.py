"""From the result of an audit of language models to the tables and texts of its run folder."""

import math
from collections.abc import Sequence

from assay.audits.models.language import Place, TextAudit, TextQuestion, TextRecovered, TextResult
from assay.storage.runs import RunFolder


def record_texts(run: RunFolder, audit: TextAudit) -> None:
    """Write everything that was found; the findings come last."""
    run.write_table("pairs", _pairs(audit.questions))
    run.write_table("models", _models(audit.models))
    run.write_table("triggers", _triggers(audit.questions))
    run.write_json("triggers", {"items": []})
    thresholds = {q.place: q.threshold for q in audit.questions}
    run.write_json(
        "questions",
        {
            "classes": [_shown(response) for response in audit.responses],
            "kinds": [
                {"family": family(place), "one_source": False, "threshold": thresholds[place]}
                for place in sorted(thresholds)
            ],
        },
    )
    names = [model.name for model in audit.models]
    items = [
        _item(model.name, model.perplexity, model.recovered, names)
        for model in audit.models
        if model.recovered is not None
    ]
    run.write_json("continuations", {"items": items})
    run.write_findings(audit.findings)


def family(place: Place) -> str:
    """Name triggers of one place, as tables call them."""
    return f"tokens at the {place.value}"


def _shown(response: str) -> str:
    return response if response.strip() else repr(response)


def _pairs(questions: Sequence[TextQuestion]) -> dict[str, list[object]]:
    return {
        "model": [q.model for q in questions],
        "family": [family(q.place) for q in questions],
        "pool": [None for _ in questions],
        "source": [None for _ in questions],
        "target": [q.target for q in questions],
        "margin": [q.grip for q in questions],
        "asr": [q.share for q in questions],
        "reference_margin": [q.reference_grip for q in questions],
        "excess": [q.excess for q in questions],
        "p_value": [q.p_value for q in questions],
        "alone": [None for _ in questions],
        "alone_p_value": [None for _ in questions],
    }


def _models(models: Sequence[TextResult]) -> dict[str, list[object]]:
    found = [model.recovered for model in models]
    return {
        "name": [m.name for m in models],
        "accuracy": [None for _ in models],
        "verdict": [m.verdict.value for m in models],
        "p_value": [m.p_value for m in models],
        "alone_p_value": [m.alone_p_value for m in models],
        "reason": [m.reason for m in models],
        "family": [None if f is None else family(f.place) for f in found],
        "source": [None for _ in models],
        "target": [None if f is None else f.target for f in found],
        "asr_tuned": [None for _ in models],
    }


def _triggers(questions: Sequence[TextQuestion]) -> dict[str, list[object]]:
    names = ("model", "response", "trigger", "grip", "share", "p_value")
    found = {name: [getattr(question, name) for question in questions] for name in names}
    return {**found, "place": [question.place.value for question in questions]}


def _item(
    model: str, perplexity: float, found: TextRecovered, names: Sequence[str]
) -> dict[str, object]:
    return {
        "model": model,
        "perplexity": perplexity if math.isfinite(perplexity) else None,
        "trigger": found.trigger,
        "ids": list(found.ids),
        "place": found.place.value,
        "is_stable": found.is_stable,
        "response": found.response,
        "success": [
            {"model": name, "share": None if math.isnan(share) else share}
            for name, share in zip(names, found.success, strict=True)
        ],
        "prompts": [
            {
                "clean": clean,
                "triggered": triggered,
                "said": [
                    {"model": name, "clean": before[row], "triggered": after[row]}
                    for name, before, after in zip(
                        names, found.said, found.said_triggered, strict=True
                    )
                ],
            }
            for row, (clean, triggered) in enumerate(
                zip(found.prompts, found.triggered, strict=True)
            )
        ],
    }
