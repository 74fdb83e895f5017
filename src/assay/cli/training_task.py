"""What a replicated training does in its run."""

import dataclasses
import pathlib
from collections.abc import Mapping

from rich.text import Text

from assay.audits.training import TrainingAudit
from assay.providers.client import Held, Surroundings, run_training, trusted_weights
from assay.providers.judging import Judged
from assay.providers.keys import open_key
from assay.providers.ledger import LEDGER, Ledger
from assay.providers.secrecy import open_secret
from assay.records import record
from assay.results import Progress
from assay.storage.runs import Input, RunFolder

from .task import Done
from .training_job import LoadedTraining, TrainingJob


@record
class TrainingTask:
    """Let providers train, judge what they deliver, and go on without those who are flagged."""

    job: TrainingJob
    loaded: LoadedTraining
    audit: str = "training"
    everything: str = "Every provider"

    @property
    def inputs(self) -> Mapping[str, Input]:
        """What it reads, by name."""
        return self.loaded.inputs

    def perform(self, run: RunFolder, show: Progress) -> Done:
        """Train, judge, and record."""
        loaded, state = self.loaded, run.path / "state"
        own = state / "client.key"
        held = Held(
            plan=loaded.plan,
            start=loaded.start,
            replicated=loaded.replication.replicated,
            alpha=self.job.alpha,
            profile=loaded.profile,
            network=loaded.network,
            probes=None if loaded.probes is None else loaded.probes.to(self.job.device),
            secret=open_secret(state / "secret.txt"),
            key=open_key(own if self.job.key is None else pathlib.Path(self.job.key)),
        )
        around = Surroundings(
            store=run.store(),
            keep_log=run.write_artifact,
            progress=show,
            say=lambda text: run.event("training", text=text),
            poll_s=self.job.poll,
        )
        judged = run_training(held, Ledger(run.path / LEDGER), around)
        run.write_tensors("checkpoint", trusted_weights(held, judged, around.store))
        audit = explained(judged)
        run.write_findings(audit.findings)
        return Done(
            findings=audit.findings,
            subject="provider",
            table="providers.parquet",
            more=(Text(ending(judged)),),
        )


def explained(judged: Judged) -> TrainingAudit:
    """Say in the findings where the training ended before its end."""
    course, audit = judged.course, judged.audit
    if judged.is_closed and course.place == course.held.sub_runs:
        return audit
    step = course.held.stretch(course.place)[0]
    why = (
        "fewer than two providers were left that could be trusted to answer"
        if judged.is_closed
        else "the ledger ends there: the run was interrupted, or lines at its end are missing"
    )
    unseen = f"Steps {step} to {course.held.steps - 1} of the training: {why}."
    findings = dataclasses.replace(
        audit.findings, not_examined=(unseen, *audit.findings.not_examined)
    )
    return dataclasses.replace(audit, findings=findings)


def ending(judged: Judged) -> str:
    """Say how far the training came with providers that nobody flagged."""
    course = judged.course
    steps = min(course.place * course.held.sub_run, course.held.steps)
    return f"trained {steps} of {course.held.steps} steps; weights: {course.end}"
