"""From an audit's result to the tables and pictures of its run folder."""

import torch
from jaxtyping import Int64
from torch import Tensor

from assay.audits.dataset import ClassResult, DatasetAudit
from assay.repair import Proof
from assay.results import Verdict
from assay.samples import Samples
from assay.storage.runs import RunFolder

_CLASSES = 8
_ITEMS = 12


def record_audit(run: RunFolder, samples: Samples, audit: DatasetAudit) -> None:
    """Write everything that was found; the findings come last."""
    count = len(samples)
    run.write_table(
        "samples",
        {
            "index": torch.arange(count),
            "id": list(samples.ids or map(str, range(count))),
            "label": samples.labels,
            "poison_score": audit.scores.cpu(),
            "p_value": audit.p_values.cpu(),
            "is_poison_issue": audit.is_poison.cpu(),
        },
    )
    run.write_table("classes", _columns(audit.classes))
    run.write_table(
        "calibration",
        {"label": audit.calibration_labels, "poison_score": audit.calibration_scores.cpu()},
    )
    _record_gallery(run, samples, audit)
    run.write_findings(audit.findings)


def record_proof(run: RunFolder, proof: Proof) -> None:
    """Write `proof.json`."""
    rows = [
        {
            "model": row.model,
            "samples": row.samples,
            "accuracy": row.accuracy,
            "accuracy_low": row.accuracy_interval.low,
            "accuracy_high": row.accuracy_interval.high,
            "asr": row.asr,
        }
        for row in proof.rows
    ]
    run.write_json("proof", {"rows": rows, "measured_on": proof.unseen})


def _columns(classes: tuple[ClassResult, ...]) -> dict[str, list[object]]:
    return {
        "class": [c.label for c in classes],
        "name": [c.name for c in classes],
        "samples": [c.samples for c in classes],
        "calibration": [c.calibration for c in classes],
        "flagged": [c.flagged for c in classes],
        "statistic": [c.statistic for c in classes],
        "p_value": [c.p_value for c in classes],
        "adjusted_p_value": [c.adjusted_p_value for c in classes],
        "verdict": [c.verdict.value for c in classes],
        "reason": [c.reason for c in classes],
    }


def _record_gallery(run: RunFolder, samples: Samples, audit: DatasetAudit) -> None:
    """Keep the highest and the most usual scores of the classes that a reader looks at first."""
    scores, items, rows = audit.scores.cpu(), [], []
    for result in sorted(audit.classes, key=_interest)[:_CLASSES]:
        own = (samples.labels == result.label).nonzero().squeeze(1)
        for kind, chosen in _shown(own, scores).items():
            rows.append(chosen)
            items += [_item(samples, audit, kind, row) for row in chosen.tolist()]
    run.write_tensors("gallery", {"inputs": samples.inputs[torch.cat(rows)]})
    run.write_json("gallery", {"items": items, "columns": []})


def _interest(result: ClassResult) -> tuple[bool, float]:
    return result.verdict is not Verdict.FLAGGED, 1.0 if result.p_value is None else result.p_value


def _shown(own: Int64[Tensor, " own"], scores: Tensor) -> dict[str, Int64[Tensor, " shown"]]:
    ascending = own[scores[own].argsort(stable=True)]
    middle = max(0, (len(own) - _ITEMS) // 2)
    return {
        "suspicious": ascending.flip(0)[:_ITEMS],
        "typical": ascending[middle : middle + _ITEMS],
    }


def _item(samples: Samples, audit: DatasetAudit, kind: str, row: int) -> dict[str, object]:
    return {
        "label": int(samples.labels[row]),
        "kind": kind,
        "index": row,
        "id": str(row) if samples.ids is None else samples.ids[row],
        "score": audit.scores[row].item(),
        "p_value": audit.p_values[row].item(),
    }
