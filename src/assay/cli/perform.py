"""A dataset audit from its inputs to a finished run folder: what every command shares."""

import pathlib
import resource
import shlex
import time
from collections.abc import Callable

import torch

from assay.audits.dataset import DatasetSettings, audit_dataset
from assay.errors import AssayError
from assay.randomness import Seed, child
from assay.records import record
from assay.repair import Proof, Trigger, cleanse, prove
from assay.reports import render
from assay.results import Cost, Findings, Progress, Verdict
from assay.storage import data as datasets
from assay.storage.runs import RunFolder

from .job import AUDIT, DatasetJob, Loaded
from .output import progress, say
from .recording import record_audit, record_proof


class OutOfTimeError(AssayError):
    """The time budget was spent before the work was done."""


@record
class Done:
    """What a run ended in."""

    findings: Findings
    flagged: int
    """How many samples."""
    proof: Proof | None


def perform(
    job: DatasetJob,
    loaded: Loaded,
    path: pathlib.Path,
    begin: Callable[[], RunFolder],
    *,
    quiet: bool,
    max_minutes: float | None,
    trigger: Trigger | None = None,
) -> Done:
    """Audit, record, cleanse, prove and report; leaves a resumable run if it is stopped.

    Args:
        job: what was asked.
        loaded: what it reads.
        path: the run folder.
        begin: creates or resumes the run in it.
        quiet: whether to show no progress.
        max_minutes: the time budget.
        trigger: what is known of the attack, for the proof.

    Raises:
        OutOfTimeError: the time budget was spent; the run says so, and can be resumed.
        UsageError: from `begin`.
    """
    again, started = f"assay runs resume {shlex.quote(str(path))}", time.monotonic()
    try:
        with begin() as run:
            say(f"run folder: {path}", quiet=quiet)
            try:
                with progress(quiet=quiet) as show:
                    limited = _limited(show, started, max_minutes)
                    done = _perform(job, loaded, run, limited, trigger)
            except OutOfTimeError:
                _out_of_time(job, run, again, time.monotonic() - started)
                raise OutOfTimeError(f"the time budget was spent; go on with: {again}") from None
            run.finish("completed")
            run.write_report(render(run, "html"))
    except KeyboardInterrupt:
        if (path / "run.json").exists():
            say(f"\ninterrupted; go on with: {again}")
        raise
    return done


def _perform(
    job: DatasetJob,
    loaded: Loaded,
    run: RunFolder,
    show: Progress,
    trigger: Trigger | None,
) -> Done:
    device = torch.device(job.device)
    settings = DatasetSettings()
    audit = audit_dataset(
        loaded.data,
        loaded.clean,
        settings=settings,
        network=loaded.network,
        preprocess=loaded.preprocess,
        alpha=job.alpha,
        digest={"sha256": loaded.inputs["data"].sha256},
        seed=Seed(job.seed),
        device=device,
        memory_mb=job.device_mb,
        progress=show,
        store=run.store(),
    )
    record_audit(run, loaded.data, audit)
    is_poison = audit.is_poison.cpu()
    flagged = int(is_poison.sum())
    if flagged and job.cleanse is not None and not pathlib.Path(job.cleanse).exists():
        kept = (~is_poison).nonzero().squeeze(1)
        datasets.write_samples(job.data, kept, pathlib.Path(job.cleanse))
    if not flagged or loaded.unseen is None:
        return Done(findings=audit.findings, flagged=flagged, proof=None)
    proof = prove(
        loaded.data,
        cleanse(loaded.data, is_poison),
        loaded.unseen,
        recipe=settings.recipe,
        network=loaded.network,
        preprocess=loaded.preprocess,
        trigger=trigger,
        seed=child(Seed(job.seed), "proof"),
        device=device,
        memory_mb=job.device_mb,
        progress=show,
        store=run.store(),
    )
    record_proof(run, proof)
    return Done(findings=audit.findings, flagged=flagged, proof=proof)


def _limited(show: Progress, started: float, minutes: float | None) -> Progress:
    if minutes is None:
        return show
    end = started + 60 * minutes

    def check(stage: str, done: int, total: int) -> None:
        show(stage, done, total)
        if time.monotonic() > end:
            raise OutOfTimeError

    return check


def _out_of_time(job: DatasetJob, run: RunFolder, again: str, wall_s: float) -> None:
    run.finish("interrupted", error="the time budget was spent")
    if (run.path / "findings.json").exists():
        return
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    findings = Findings(
        audit=AUDIT,
        verdict=Verdict.INCONCLUSIVE,
        alpha=job.alpha,
        reasons=(f"The time budget was spent before the audit was done. Go on with: {again}",),
        subjects=(),
        cost=Cost(wall_s=wall_s, device=job.device, peak_memory_mb=peak),
        not_examined=("Every class: the audit is not finished.",),
    )
    run.write_findings(findings)
