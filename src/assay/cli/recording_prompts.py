"""From a prompts audit's result to the tables and pictures of its run folder."""

import torch
from torch import Tensor

from assay.audits.prompts import PromptsAudit, Recovered
from assay.storage.runs import RunFolder

from .recording_models import pictures_of

BACKBONE = "the backbone alone"
_COMPONENTS = 2
_NUMBERS = ("margin", "asr", "reference_margin", "excess", "p_value")


def record_prompts(run: RunFolder, audit: PromptsAudit) -> None:
    """Write everything that was found, in the form of the models audit; the findings come last."""
    name = audit.findings.subjects[0].name
    columns = ("target", "family", "pool", *_NUMBERS)
    run.write_table(
        "pairs",
        {
            "model": [name] * len(audit.questions),
            "source": [None] * len(audit.questions),
            **{column: [getattr(q, column) for q in audit.questions] for column in columns},
            "alone": [None] * len(audit.questions),
            "alone_p_value": [None] * len(audit.questions),
        },
    )
    run.write_table("models", _model(audit))
    found = audit.recovered
    if found is not None:
        pictures, factor = pictures_of(0, found.clean, found.stamped)
        run.write_tensors("triggers", pictures)
        run.write_json("triggers", {"items": [{**_item(audit, name, found), "amplified": factor}]})
        if found.context_clean is not None and found.context_stamped is not None:
            run.write_json("context", _context(found.context_clean, found.context_stamped))
    thresholds = {q.family: q.threshold for q in audit.questions}
    kinds = [
        {"family": family, "one_source": False, "threshold": threshold}
        for family, threshold in sorted(thresholds.items())
    ]
    run.write_json("questions", {"classes": list(audit.class_names), "kinds": kinds})
    run.write_findings(audit.findings)


def _model(audit: PromptsAudit) -> dict[str, list[object]]:
    subject, found = audit.findings.subjects[0], audit.recovered
    return {
        "name": [subject.name],
        "accuracy": [audit.accuracy],
        "verdict": [subject.verdict.value],
        "p_value": [subject.p_value],
        "alone_p_value": [None],
        "reason": [str(subject.evidence["reason"])],
        "family": [None if found is None else found.family],
        "source": [None],
        "target": [None if found is None else found.target],
        "asr_tuned": [None],
    }


def _item(audit: PromptsAudit, name: str, found: Recovered) -> dict[str, object]:
    models, names = (name, BACKBONE), audit.class_names

    def said(answers: Tensor) -> list[dict[str, object]]:
        return [
            {"model": model, "classes": [names[i] for i in row.tolist()]}
            for model, row in zip(models, answers, strict=True)
        ]

    return {
        "model": name,
        "family": found.family,
        "source": None,
        "target": names[found.target],
        "asr": [{"model": m, "asr": asr} for m, asr in zip(models, found.asr, strict=True)],
        "asr_tuned": None,
        "cka": [],
        "labels": [found.pool] * len(found.clean),
        "answers_clean": said(found.answers_clean),
        "answers_stamped": said(found.answers_stamped),
    }


def _context(clean: Tensor, stamped: Tensor) -> dict[str, object]:
    """Lay out what images add to the context on the two directions in which it varies most.

    A trigger of a prompt that depends on the image draws its context together: `spread` is the root
    mean square distance from the mean, before the projection.
    """
    both = torch.cat([clean, stamped]).double()
    centred = both - both.mean(0)
    directions = torch.linalg.svd(centred, full_matrices=False).Vh[:_COMPONENTS]
    places = (centred @ directions.T).split([len(clean), len(stamped)])
    return {
        name: {
            "places": each.tolist(),
            "spread": (own.double() - own.double().mean(0)).square().sum(1).mean().sqrt().item(),
        }
        for name, each, own in zip(("clean", "triggered"), places, (clean, stamped), strict=True)
    }
