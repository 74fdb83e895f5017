"""`assay prompts ... --repair`: a repaired prompt, and the proof."""

import os
import pathlib
import tempfile
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
from .repair_models import measured_row
from .tables import repair_table

_DIVERGED = "tuning did not converge, so nothing was written"


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
    kept = run.read_json("repair")
    if os.path.lexists(out):
        if kept is None or kept["items"][0]["sha256"] != digest_path(out):
            raise _occupied(out)
    else:
        _check_free(out)
        kept = _repaired(
            run,
            job,
            read,
            Planted(stamp=found.trigger, source=None, target=found.target),
            out,
            show,
        )
    item = kept["items"][0]
    said = item["note"] or f"repaired: {plain(out, 1000)}"
    return [repair_table(kept["items"]), Text(f"{plain(item['model'])}: {said}")]


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
        document = _document(job, out, made, triggered, None)
        run.write_json("repair", document)
        return document
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.") as work:
        partial = pathlib.Path(work) / out.name
        with filled(prompted, made.values):
            write_prompt(prompted, partial, backbone_digest=read.loaded.backbone_digest)
        document = _document(job, out, made, triggered, digest_path(partial))
        _check_free(out)
        run.write_json("repair", document)  # first: a killed run then knows its own work
        _place(pathlib.Path(work), out.parent)
    return document


def _check_free(out: pathlib.Path) -> None:
    """Check that nothing lies where a prompt and its description belong, and that the folder is."""
    for path in (out, out.with_suffix(".json")):
        if os.path.lexists(path):
            raise _occupied(path)
    if not out.absolute().parent.is_dir():
        raise UsageError(f"expected an existing folder to write to, there is none: {out.parent}")


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
    job: PromptsJob, out: pathlib.Path, made: Retuned, triggered: int, digest: str | None
) -> dict[str, Any]:
    return {
        "folder": str(out.parent),
        "method": repr(Retuning()),
        "items": [
            {
                "model": pathlib.PurePath(job.prompt).name,
                "written": None if digest is None else out.name,
                "sha256": digest,
                "note": "" if made.is_finite else _DIVERGED,
                "measured_on": made.unseen,
                "triggered": triggered,
                "rows": [measured_row(row) for row in made.rows],
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
