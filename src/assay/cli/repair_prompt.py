"""`assay prompts ... --repair`: a repaired prompt, and the proof."""

import os
import pathlib
import tempfile
from collections.abc import Mapping
from typing import Any

import torch
from rich.table import Table
from rich.text import Text

from assay.audits.prompts import PromptsAudit
from assay.errors import UsageError
from assay.randomness import Seed, child
from assay.repair import Planted, Retuned, Retuning, filled, retune
from assay.reports.text import plain
from assay.results import Progress, Verdict
from assay.samples import Samples
from assay.storage.files import digest_path
from assay.storage.prompt_learners import write_prompt
from assay.storage.runs import RunFolder
from assay.triggers import Pool

from .prompts_job import PromptsJob, Read
from .repair_models import measured_row, outcome, shortfall
from .tables import repair_table

_DIVERGED = "tuning did not converge, so nothing was written"
_FEWEST_HELD = 50
"""Samples to measure on: of fewer, one that lost half of its accuracy may look as before."""


def check_path(out: pathlib.Path, prompt: str) -> None:
    """Check early that a repaired prompt can be written later, in the form of the given one.

    Raises:
        UsageError: something is at the path, its folder is not there, or it asks for another form.
    """
    _check_free(out)
    if (out.suffix == ".safetensors") != prompt.endswith(".safetensors"):
        raise UsageError(f"expected a path for the repaired prompt that ends as {prompt} does")


def repair_prompt(
    run: RunFolder, job: PromptsJob, read: Read, audit: PromptsAudit, show: Progress
) -> list[Table | Text]:
    """Repair a flagged prompt, write it in the form that it came in, and record the proof.

    Raises:
        UsageError: something else lies at `job.repair` by now, or where its description belongs.
    """
    if job.repair is None or read.clean is None:
        return []
    out, found = pathlib.Path(job.repair), audit.recovered
    if audit.verdict is not Verdict.FLAGGED or found is None:
        return [Text(f"nothing was flagged, so no repaired prompt was written to {plain(out)}")]
    kept, against = run.read_json("repair"), _against(audit, read.clean)
    if against:
        kept = _document(job, out, note=against)
        run.write_json("repair", kept)
        return [outcome(kept["items"][0], out)]
    if os.path.lexists(out):
        if kept is None or kept["items"][0]["sha256"] != digest_path(out):
            raise _occupied(out)
    else:
        _take_back(out, kept)
        _check_free(out)
        kept = _repaired(
            run,
            job,
            read,
            Planted(stamp=found.trigger, source=None, target=found.target),
            out,
            show,
        )
    return [repair_table(kept["items"]), outcome(kept["items"][0], out)]


def _against(audit: PromptsAudit, clean: Samples) -> str:
    """Say why a repair on these clean samples would do harm or prove nothing, or nothing."""
    if audit.doubts_labels:
        return f"not repaired, as the labels of the clean samples are in doubt: {audit.doubt}"
    held = len(clean.labels) // 2
    if held < _FEWEST_HELD:
        return (
            f"not repaired: expected at least {2 * _FEWEST_HELD} clean samples, half of them to "
            f"measure the repair on, got {len(clean.labels)}; give more with --clean"
        )
    return ""


def _repaired(
    run: RunFolder,
    job: PromptsJob,
    read: Read,
    planted: Planted,
    out: pathlib.Path,
    show: Progress,
) -> dict[str, Any]:
    assert read.clean is not None, "the command asks for clean samples"
    searched, held = _halves(read.clean, torch.device(job.device))
    prompted = read.prompted
    prompted.learner.requires_grad_(requires_grad=True)
    made = retune(
        prompted,
        planted,
        searched=searched,
        held=held,
        seed=child(Seed(job.seed), "repair"),
        progress=show,
    )
    prompted.learner.requires_grad_(requires_grad=False)
    triggered = len(planted.victims(held))
    if not made.is_finite:
        document = _document(job, out, note=_DIVERGED, made=made, triggered=triggered)
        run.write_json("repair", document)
        return document
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as work:
        partial = pathlib.Path(work) / out.name
        with filled(prompted, made.values):
            write_prompt(
                prompted,
                partial,
                backbone_digest=read.loaded.backbone_digest,
                stored=read.loaded.stored,
            )
        document = _document(
            job, out, note=shortfall(made.rows), made=made, triggered=triggered, written=partial
        )
        _check_free(out)
        run.write_json("repair", document)  # first: a killed run then knows its own work
        _place(pathlib.Path(work), out.parent)
    return document


def _check_free(out: pathlib.Path) -> None:
    """Check that nothing lies where a prompt and its description belong, and that the folder is."""
    for path in (out, _description(out)):
        if path is not None and os.path.lexists(path):
            raise _occupied(path)
    if not out.absolute().parent.is_dir():
        raise UsageError(f"expected an existing folder to write to, there is none: {out.parent}")


def _description(out: pathlib.Path) -> pathlib.Path | None:
    """Say where the description of a prompt belongs; a checkpoint has none."""
    return out.with_suffix(".json") if out.suffix == ".safetensors" else None


def _take_back(out: pathlib.Path, kept: Mapping[str, Any] | None) -> None:
    """Remove the description that this run wrote before it was killed; any other stays."""
    path, digest = _description(out), None if kept is None else kept["items"][0].get("described")
    if path is None or digest is None or path.is_symlink() or not path.is_file():
        return
    if digest_path(path) == digest:
        path.unlink()


def _occupied(path: pathlib.Path) -> UsageError:
    return UsageError(
        f"expected a new path for the repaired prompt, {path} exists; move it away, and resume the "
        "run if it has begun"
    )


def _place(work: pathlib.Path, folder: pathlib.Path) -> None:
    """Put the files of a folder into another one, over nothing that is there: all, or none."""
    placed = list[pathlib.Path]()
    try:
        for file in sorted(work.iterdir()):  # the description first: with the prompt, all is there
            os.link(file, folder / file.name)
            placed.append(folder / file.name)
    except BaseException as error:
        for path in placed:
            path.unlink()
        if isinstance(error, FileExistsError):
            raise _occupied(folder / file.name) from error
        raise


def _document(
    job: PromptsJob,
    out: pathlib.Path,
    *,
    note: str,
    made: Retuned | None = None,
    triggered: int | None = None,
    written: pathlib.Path | None = None,
) -> dict[str, Any]:
    description = None if written is None else _description(written)
    return {
        "folder": str(out.parent),
        "method": repr(Retuning()),
        "items": [
            {
                "model": pathlib.PurePath(job.prompt).name,
                "written": None if written is None else out.name,
                "sha256": None if written is None else digest_path(written),
                "described": None if description is None else digest_path(description),
                "note": note,
                "measured_on": None if made is None else made.unseen,
                "triggered": triggered,
                "rows": [] if made is None else [measured_row(row) for row in made.rows],
            }
        ],
    }


def _halves(clean: Samples, device: torch.device) -> tuple[Pool, Pool]:
    """Take every second sample of each class to tune on, and the others to measure on."""
    order = clean.labels.argsort(stable=True)
    first, second = (
        Pool(
            images=clean.inputs[rows].to(device).float() / 255,
            labels=clean.labels[rows].to(device),
        )
        for rows in (order[::2].sort().values, order[1::2].sort().values)
    )
    return first, second
