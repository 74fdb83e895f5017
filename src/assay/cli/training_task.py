"""What a replicated training does in its run."""

from collections.abc import Mapping

from rich.text import Text

from assay.providers.judging import ending
from assay.providers.loading import Loaded
from assay.providers.training import TrainingJob, train_in
from assay.records import record
from assay.results import Progress
from assay.storage.runs import Input, RunFolder

from .recording_training import record_training
from .task import Done


@record
class TrainingTask:
    """Let providers train, judge what they deliver, and go on without those who are flagged."""

    job: TrainingJob
    loaded: Loaded
    audit: str = "training"
    everything: str = "Every provider"

    @property
    def inputs(self) -> Mapping[str, Input]:
        """What it reads, by name."""
        return self.loaded.inputs

    def perform(self, run: RunFolder, show: Progress) -> Done:
        """Train, judge, and record."""
        judged = train_in(run, self.job, self.loaded, show)
        record_training(run, judged.audit, replication=self.loaded.replication)
        return Done(
            findings=judged.audit.findings,
            subject="provider",
            table="providers.parquet",
            more=(Text(ending(judged)),),
        )
