"""`assay models ... --repair`: repaired copies of the flagged models, and the proof."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from rich.table import Table
from rich.text import Text
from torch import nn

from assay.audits.models import ModelsAudit, ModelsSettings, Nearest, Recovered
from assay.audits.models.encoders import Features
from assay.audits.models.halves import halves
from assay.errors import UsageError
from assay.randomness import Seed, child
from assay.records import record
from assay.repair import Measured, Planted, Realigning, Repaired, Unlearning, realign, unlearn
from assay.reports.text import plain
from assay.results import Interval, Progress, Verdict
from assay.storage.files import digest_path, fresh
from assay.storage.repaired import ModelForm, form_of, write_model
from assay.storage.runs import RunFolder
from assay.triggers import Pool

from .models_job import LoadedModels, ModelKind, ModelsJob, Reordered, place_of, unique
from .tables import repair_table

_LONGEST = 50
_ARCHIVED = (
    "a .pt2 archive cannot be repaired in its form; ask for the weights as .safetensors, with the "
    "network as code of your own, and repair those"
)
_DIVERGED = "training did not converge, so nothing was written"
_STILL = 0.5
"""Share of its success before that a trigger may keep short of; one that keeps more still works."""


@record
class _Flagged:
    """A flagged model, and where its repaired copy goes."""

    place: int
    """In the order of the deliveries."""
    name: str
    found: Recovered
    entry: str | None
    """Name in the folder of repaired models; None where its form cannot be written."""


def check_path(job: ModelsJob, run: pathlib.Path) -> None:
    """Check early that repaired models can be written later.

    Raises:
        UsageError: something is at the path, its folder is not there, or it would change the
            folder of the run or an input.
    """
    if job.repair is None:
        return
    out = pathlib.Path(job.repair)
    if os.path.lexists(out):
        raise UsageError(f"expected a new path for the repaired models, {out} exists")
    if not out.parent.is_dir():
        raise UsageError(f"expected an existing folder to write to, there is none: {out.parent}")
    if run.resolve().is_relative_to(out.resolve()):
        raise UsageError(f"expected another path for the repaired models than the run's, {out}")
    for source in (*map(place_of, job.models), job.clean):
        if out.resolve().is_relative_to(pathlib.Path(source).resolve()):
            raise UsageError(f"expected a path for the repaired models outside of {source}: {out}")


def repair_models(
    run: RunFolder, job: ModelsJob, loaded: LoadedModels, audit: ModelsAudit, show: Progress
) -> list[Table | Text]:
    """Repair copies of the flagged models, write them, and record the proof.

    They appear at `job.repair` all at once. A run that was killed after that finds them there.

    Raises:
        UsageError: something else lies there by now.
    """
    if job.repair is None:
        return []
    out, flagged = pathlib.Path(job.repair), _flagged(job, audit)
    if not flagged:
        return [Text(f"nothing was flagged, so no repaired models were written to {plain(out)}")]
    kept = run.read_json("repair")
    if os.path.lexists(out):
        if not _is_written(out, kept):
            raise UsageError(
                f"expected a new path for the repaired models, something else lies at {out} by "
                "now; move it away and resume"
            )
    elif any(one.entry is not None for one in flagged):
        with fresh(out) as partial:
            partial.mkdir()
            kept = _repaired(run, job, loaded, flagged, partial, show)
    else:
        kept = _document(job, [_item(one, None, None) for one in flagged])
        run.write_json("repair", kept)
    assert kept is not None, "what is written is recorded first"
    measured = [repair_table(kept["items"])] if any(i["rows"] for i in kept["items"]) else []
    return [*measured, *_said(kept)]


def entries(sources: Sequence[str]) -> list[str | None]:
    """Name the repaired copy of each model in the folder that holds them.

    Returns:
        Names that differ, without signs that cannot be seen; `.safetensors` files for weights.
        None for forms that cannot be written.
    """
    forms = [form_of(source) for source in sources]
    stems = unique([_stem(s, form) for s, form in zip(sources, forms, strict=True)])
    endings = {ModelForm.WEIGHTS: ".safetensors", ModelForm.FOLDER: ""}
    return [
        f"{stem}{endings[form]}" if form in endings else None
        for stem, form in zip(stems, forms, strict=True)
    ]


def _stem(source: str, form: ModelForm) -> str:
    path = pathlib.PurePath(place_of(source))
    name = path.name if form is ModelForm.FOLDER else path.stem
    shown = "".join(sign if sign.isprintable() else "_" for sign in name[:_LONGEST])
    return f"model{shown}" if not shown.strip(". ") else shown


def _flagged(job: ModelsJob, audit: ModelsAudit) -> list[_Flagged]:
    return [
        _Flagged(place=place, name=model.name, found=model.recovered, entry=entry)
        for place, (model, entry) in enumerate(zip(audit.models, entries(job.models), strict=True))
        if model.verdict is Verdict.FLAGGED and model.recovered is not None
    ]


def _repaired(
    run: RunFolder,
    job: ModelsJob,
    loaded: LoadedModels,
    flagged: Sequence[_Flagged],
    partial: pathlib.Path,
    show: Progress,
) -> dict[str, Any]:
    searched, held = halves(
        loaded.clean,
        most=ModelsSettings().most_samples,
        seed=Seed(job.seed),
        device=torch.device(job.device),
    )
    items = []
    for one in flagged:
        made, digest = None, None
        if one.entry is not None:
            made = _one(job, loaded, one, searched, held, show)
            if made.is_finite:
                model = _as_delivered(made.model)
                write_model(model.cpu(), job.models[one.place], partial / one.entry)
                digest = digest_path(partial / one.entry)
        items.append(_item(one, made, digest))
    document = _document(job, items)
    run.write_json("repair", document)
    return document


def _one(
    job: ModelsJob,
    loaded: LoadedModels,
    one: _Flagged,
    searched: Pool,
    held: Pool,
    show: Progress,
) -> Repaired:
    delivery, found = loaded.deliveries[one.place], one.found
    planted = Planted(stamp=found.trigger, source=found.source, target=found.target)
    seed = child(Seed(job.seed), "repair", one.name)
    if isinstance(delivery.model, Nearest):
        return realign(
            delivery.model.features,
            delivery.preprocess,
            planted,
            delivery.model.middles,
            searched=searched,
            held=held,
            seed=seed,
            progress=show,
        )
    return unlearn(
        delivery.model,
        delivery.preprocess,
        planted,
        searched=searched,
        held=held,
        seed=seed,
        progress=show,
    )


def _as_delivered(model: nn.Module) -> nn.Module:
    """Take off what was put around a model to audit it."""
    if isinstance(model, Reordered):
        return model.model
    return model.encoder if isinstance(model, Features) else model


def _document(job: ModelsJob, items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    method = Realigning() if job.task == ModelKind.ENCODER else Unlearning()
    return {"folder": str(job.repair), "method": repr(method), "items": list(items)}


def _item(one: _Flagged, made: Repaired | None, digest: str | None) -> dict[str, Any]:
    return {
        "model": one.name,
        "written": None if digest is None else one.entry,
        "sha256": digest,
        "note": _note(made),
        "measured_on": None if made is None else made.unseen,
        "triggered": None if made is None else made.triggered,
        "rows": [] if made is None else [measured_row(row) for row in made.rows],
    }


def _note(made: Repaired | None) -> str:
    if made is None:
        return _ARCHIVED
    return shortfall(made.rows) if made.is_finite else _DIVERGED


def shortfall(rows: Sequence[Measured]) -> str:
    """Say what a repair did not achieve on held-out samples, or nothing.

    Args:
        rows: before, then after; none where nothing was measured.
    """
    if len(rows) < 2:
        return ""
    before, after, found = rows[0], rows[1], []
    if after.accuracy < before.accuracy_interval.low:
        found.append(f"made worse: accuracy {after.accuracy:.1%}, {before.accuracy:.1%} before")
    if before.asr and after.asr is not None and after.asr >= _STILL * before.asr:
        found.append(
            f"the trigger still works: it leads {after.asr:.1%} of the held-out samples to its "
            f"target, {before.asr:.1%} before"
        )
    return "; ".join(found)


def outcome(item: Mapping[str, Any], path: pathlib.PurePath) -> Text:
    """Say how a repair went and where its result is, or why there is none.

    Args:
        item: of `repair.json`.
        path: of the repaired model, where it was written.
    """
    told = item["note"] or "repaired"
    where = f": {plain(path, 1000)}" if item["written"] else ""
    return Text(f"{plain(item['model'])}: {told}{where}")


def measured_row(row: Measured) -> dict[str, Any]:
    """Lay out how a model does, as `repair.json` has it."""
    return {
        "model": row.model,
        "accuracy": row.accuracy,
        "asr": row.asr,
        **_bounds("accuracy", row.accuracy_interval),
        **_bounds("asr", row.asr_interval),
        "clean_cosine": row.clean_cosine,
        "triggered_cosine": row.triggered_cosine,
    }


def _bounds(name: str, interval: Interval | None) -> dict[str, float | None]:
    return {
        f"{name}_low": None if interval is None else interval.low,
        f"{name}_high": None if interval is None else interval.high,
    }


def _is_written(out: pathlib.Path, kept: Mapping[str, Any] | None) -> bool:
    """Tell whether a folder holds what this run wrote to it."""
    if kept is None or kept["folder"] != str(out) or not out.is_dir() or out.is_symlink():
        return False
    expected = {item["written"]: item["sha256"] for item in kept["items"] if item["written"]}
    there = {path.name for path in out.iterdir()}
    return there == set(expected) and all(
        digest_path(out / name) == digest for name, digest in expected.items()
    )


def _said(kept: Mapping[str, Any]) -> list[Text]:
    """Say how each repair went, and where its result is."""
    folder = pathlib.PurePath(kept["folder"])
    return [outcome(item, folder / (item["written"] or "")) for item in kept["items"]]
