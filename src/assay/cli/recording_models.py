"""From a models audit's result to the tables and pictures of its run folder."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from assay.audits.models import ModelResult, ModelsAudit, Question, Recovered
from assay.storage.runs import RunFolder

_MOST_AMPLIFIED = 64.0


def record_models(run: RunFolder, audit: ModelsAudit) -> None:
    """Write everything that was found; the findings come last."""
    run.write_table("pairs", _pairs(audit.questions))
    run.write_table("models", _models(audit.models))
    found = [(i, m.recovered) for i, m in enumerate(audit.models) if m.recovered is not None]
    pictures: dict[str, Tensor] = {}
    items = []
    for place, (model, recovered) in enumerate(found):
        drawn, factor = pictures_of(place, recovered.clean, recovered.stamped)
        pictures |= drawn
        items.append({**_item(audit, model, recovered), "amplified": factor})
    if items:
        run.write_tensors("triggers", pictures)
    run.write_json("triggers", {"items": items})
    run.write_json(
        "questions", {"classes": list(audit.class_names), "kinds": _kinds(audit.questions)}
    )
    run.write_findings(audit.findings)


def pictures_of(
    place: int,
    clean: Float[Tensor, "shown channels height width"],
    stamped: Float[Tensor, "shown channels height width"],
) -> tuple[dict[str, Tensor], float]:
    """Name the pictures of the trigger at a place, and tell how much its change is amplified."""
    difference, factor = amplified(clean, stamped)
    pictures = {
        f"{place}.clean": _bytes(clean),
        f"{place}.stamped": _bytes(stamped),
        f"{place}.difference": difference,
    }
    return pictures, factor


def amplified(
    clean: Float[Tensor, "shown channels height width"],
    stamped: Float[Tensor, "shown channels height width"],
) -> tuple[UInt8[Tensor, "shown channels height width"], float]:
    """Show what a trigger changes as departures from grey.

    Returns:
        The pictures, and by how much the difference was amplified: so that the largest one of all
        pictures is black or white, but by 1 at least and by 64 at most.
    """
    change = stamped - clean
    largest = change.abs().max().item() if change.numel() else 0.0
    factor = max(1.0, min(_MOST_AMPLIFIED, 0.5 / largest)) if largest > 0 else 1.0
    return _bytes(0.5 + factor * change), factor


def _bytes(images: Float[Tensor, "..."]) -> UInt8[Tensor, "..."]:
    return (images.detach().cpu().clamp(0, 1) * 255).round().to(torch.uint8)


def _pairs(questions: Sequence[Question]) -> dict[str, list[object]]:
    names = (
        *("model", "family", "source", "target", "margin", "asr"),
        *("reference_margin", "excess", "p_value", "alone", "alone_p_value"),
    )
    columns = {name: [getattr(question, name) for question in questions] for name in names}
    return {**columns, "pool": [None for _ in questions]}


def _models(models: Sequence[ModelResult]) -> dict[str, list[object]]:
    found = [model.recovered for model in models]
    return {
        "name": [m.name for m in models],
        "accuracy": [m.accuracy for m in models],
        "verdict": [m.verdict.value for m in models],
        "p_value": [m.p_value for m in models],
        "alone_p_value": [m.alone_p_value for m in models],
        "reason": [m.reason for m in models],
        "family": [None if f is None else f.family for f in found],
        "source": [None if f is None else f.source for f in found],
        "target": [None if f is None else f.target for f in found],
        "asr_tuned": [None if f is None else f.asr_tuned for f in found],
    }


def _item(audit: ModelsAudit, model: int, found: Recovered) -> dict[str, object]:
    names, deliveries = audit.class_names, [m.name for m in audit.models]

    def named(answers: Tensor) -> list[str]:
        return [names[i] if 0 <= i < len(names) else str(i) for i in answers.tolist()]

    def said(answers: Tensor) -> list[dict[str, object]]:
        return [
            {"model": name, "classes": named(row)}
            for name, row in zip(deliveries, answers, strict=True)
        ]

    return {
        "model": deliveries[model],
        "family": found.family,
        "source": None if found.source is None else names[found.source],
        "target": names[found.target],
        "asr": [
            {"model": name, "asr": asr} for name, asr in zip(deliveries, found.asr, strict=True)
        ],
        "asr_tuned": found.asr_tuned,
        "cka": [
            {"depth": depth, "clean": clean, "triggered": triggered}
            for depth, (clean, triggered) in found.cka.items()
        ],
        "labels": named(found.labels),
        "answers_clean": said(found.answers_clean),
        "answers_stamped": said(found.answers_stamped),
    }


def _kinds(questions: Sequence[Question]) -> list[dict[str, object]]:
    """Say from which excess on one question of each kind is evidence enough to flag a model."""
    thresholds = {(q.family, q.source is not None): q.threshold for q in questions}
    return [
        {"family": family, "one_source": one_source, "threshold": thresholds[family, one_source]}
        for family, one_source in sorted(thresholds)
    ]
