"""From the result of an audit of models of images and texts to the files of its run folder."""

import math
from collections.abc import Sequence

from torch import Tensor

from assay.audits.models.vision_text import (
    VisionTextAudit,
    VisionTextQuestion,
    VisionTextRecovered,
    VisionTextResult,
)
from assay.storage.runs import RunFolder

from .recording_models import pictures_of


def record_vision_texts(run: RunFolder, audit: VisionTextAudit) -> None:
    """Write everything that was found; the findings come last."""
    run.write_table("pairs", _pairs(audit.questions))
    run.write_table("models", _models(audit.models))
    found = [(model.name, model.recovered) for model in audit.models if model.recovered is not None]
    names = [model.name for model in audit.models]
    pictures: dict[str, Tensor] = {}
    items = []
    for place, (name, recovered) in enumerate(found):
        drawn, factor = pictures_of(place, recovered.clean, recovered.stamped)
        pictures |= drawn
        items.append({**_item(name, recovered, names, audit), "amplified": factor})
    if items:
        run.write_tensors("triggers", pictures)
    run.write_json("triggers", {"items": items})
    thresholds = {q.family: q.threshold for q in audit.questions}
    run.write_json(
        "questions",
        {
            "classes": list(map(shown, audit.responses)),
            "kinds": [
                {"family": family, "one_source": False, "threshold": thresholds[family]}
                for family in sorted(thresholds)
            ],
            "answers": "text",
            "reliance": {
                model.name: model.reliance if math.isfinite(model.reliance) else None
                for model in audit.models
            },
        },
    )
    run.write_findings(audit.findings)


def shown(response: str) -> str:
    """Quote a response that would not be seen."""
    return response if response.strip() else repr(response)


def _pairs(questions: Sequence[VisionTextQuestion]) -> dict[str, list[object]]:
    return {
        "model": [q.model for q in questions],
        "family": [q.family for q in questions],
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


def _models(models: Sequence[VisionTextResult]) -> dict[str, list[object]]:
    found = [model.recovered for model in models]
    return {
        "name": [m.name for m in models],
        "accuracy": [None for _ in models],
        "verdict": [m.verdict.value for m in models],
        "p_value": [m.p_value for m in models],
        "alone_p_value": [m.alone_p_value for m in models],
        "reason": [m.reason for m in models],
        "family": [None if f is None else f.family for f in found],
        "source": [None for _ in models],
        "target": [None if f is None else f.target for f in found],
        "asr_tuned": [None for _ in models],
    }


def _item(
    model: str, found: VisionTextRecovered, names: Sequence[str], audit: VisionTextAudit
) -> dict[str, object]:
    def said(texts: Sequence[Sequence[str]]) -> list[dict[str, object]]:
        return [
            {"model": name, "classes": list(map(shown, row))}
            for name, row in zip(names, texts, strict=True)
        ]

    return {
        "model": model,
        "family": found.family,
        "source": None,
        "target": shown(audit.responses[found.target]),
        "response": found.response,
        "asr": [
            {"model": name, "asr": share if math.isfinite(share) else None}
            for name, share in zip(names, found.success, strict=True)
        ],
        "asr_tuned": None,
        "cka": [],
        "labels": [f"picture {place + 1}" for place in range(len(found.clean))],
        "answers_clean": said(found.said),
        "answers_stamped": said(found.said_stamped),
    }
