"""From a task to a finished run folder, within a time budget: what every audit shares."""

import dataclasses
import pathlib
import resource
import shlex
import time
from collections.abc import Callable

from assay.errors import AssayError
from assay.reports import FORMATS, render, source
from assay.results import Cost, Findings, Progress, Verdict
from assay.storage.run_info import now
from assay.storage.runs import RunFolder

from .output import progress, say
from .task import Done, Task


class OutOfTimeError(AssayError):
    """The time budget was spent before the work was done."""


def run_task(
    task: Task,
    path: pathlib.Path,
    begin: Callable[[], RunFolder],
    *,
    quiet: bool,
    max_minutes: float | None,
) -> Done:
    """Audit, record and report; leaves a resumable run if it is stopped.

    Args:
        task: what to do.
        path: the run folder.
        begin: creates or resumes the run in it.
        quiet: whether to show no progress.
        max_minutes: the time budget.

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
                    done = task.perform(run, _limited(show, started, max_minutes))
            except OutOfTimeError:
                _out_of_time(task, run, again, time.monotonic() - started)
                raise OutOfTimeError(f"the time budget was spent; go on with: {again}") from None
            run.write_report(_completed(run))  # first: a completed run has its report
            run.finish("completed")
    except KeyboardInterrupt:
        if (path / "run.json").exists():
            say(f"\ninterrupted; go on with: {again}")
        raise
    return done


def _completed(run: RunFolder) -> str:
    """Render the report of a run that will be completed once it is written."""
    info = dataclasses.replace(run.info, state="completed", ended=now())
    return FORMATS["html"](dataclasses.replace(source.read(run), info=info))


def _limited(show: Progress, started: float, minutes: float | None) -> Progress:
    if minutes is None:
        return show
    end = started + 60 * minutes

    def check(stage: str, done: int, total: int) -> None:
        show(stage, done, total)
        if time.monotonic() > end:
            raise OutOfTimeError

    return check


def _out_of_time(task: Task, run: RunFolder, again: str, wall_s: float) -> None:
    run.finish("interrupted", error="the time budget was spent")
    if not (run.path / "findings.json").exists():
        run.write_findings(_unfinished(task, again, wall_s))
    run.write_report(render(run, "html"))


def _unfinished(task: Task, again: str, wall_s: float) -> Findings:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return Findings(
        audit=task.audit,
        verdict=Verdict.INCONCLUSIVE,
        alpha=task.job.alpha,
        reasons=(f"The time budget was spent before the audit was done. Go on with: {again}",),
        subjects=(),
        cost=Cost(wall_s=wall_s, device=task.job.device, peak_memory_mb=peak),
        not_examined=(f"{task.everything}: the audit is not finished.",),
    )
