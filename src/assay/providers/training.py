"""A replicated training in a run folder: what both the command line and the API do."""

import dataclasses
import pathlib
from typing import Any

from assay.audits.training import TrainingSettings
from assay.errors import InputError
from assay.records import record
from assay.results import Progress
from assay.storage.runs import RunFolder

from .client import Held, Surroundings, run_training, trusted_weights
from .judging import Judged
from .keys import open_key
from .ledger import LEDGER, Ledger
from .loading import Loaded
from .secrecy import open_secret

CHECKPOINT = "checkpoint"
"""The artifact that holds the trained weights."""


@record
class TrainingJob:
    """Everything that decides what a replicated training does, beside what its plan names."""

    plan: str
    """Path of the plan."""
    key: str | None
    """File of the client's key, or None for one of the run's own."""
    seed: int
    """The plan's."""
    device: str
    """Where outputs are compared, as torch names it."""
    alpha: float
    """The family-wise false alarm rate, in (0, 1)."""
    poll: float
    """Seconds between looks into the mailboxes."""

    def settings(self) -> dict[str, Any]:
        """Lay out every setting, those of the method included."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {**fields, "method": repr(TrainingSettings())}


def train_in(run: RunFolder, job: TrainingJob, loaded: Loaded, progress: Progress) -> Judged:
    """Carry a training through, from wherever its run stands; keep the weights that it came to.

    Args:
        run: a run that was created or resumed. Its `ledger.jsonl` holds what happened, its
            `state/` the secret and the weights, its `artifacts/` the logs and at the end
            `checkpoint.safetensors`.
        job: what was asked.
        loaded: what the plan names.
        progress: is told of sub-runs.

    Raises:
        InputError: as `run_training`.
    """
    if not 0 < job.alpha < 1:
        raise InputError(f"expected alpha between 0 and 1, got {job.alpha}")
    state = run.path / "state"
    held = Held(
        plan=loaded.plan,
        start=loaded.start,
        replicated=loaded.replication.replicated,
        alpha=job.alpha,
        profile=loaded.profile,
        network=loaded.network,
        probes=None if loaded.probes is None else loaded.probes.to(job.device),
        secret=open_secret(state / "secret.txt"),
        key=open_key(state / "client.key" if job.key is None else pathlib.Path(job.key)),
    )
    around = Surroundings(
        store=run.store(),
        keep_log=run.write_artifact,
        progress=progress,
        say=lambda text: run.event("training", text=text),
        poll_s=job.poll,
    )
    judged = run_training(held, Ledger(run.path / LEDGER), around)
    run.write_tensors(CHECKPOINT, trusted_weights(held, judged, around.store))
    return judged
