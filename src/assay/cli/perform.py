"""What each audit does in its run: the tasks behind the commands."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from rich.table import Table
from rich.text import Text
from torch import Tensor

from assay.audits.dataset import DatasetSettings, audit_dataset
from assay.audits.models import (
    ENCODER_SETTINGS,
    Groups,
    ModelsSettings,
    audit_models,
    grouped,
)
from assay.audits.models.language import TextSettings, audit_texts
from assay.audits.models.vision_text import PROMPT, VisionTextSettings, audit_vision_texts
from assay.audits.prompts import PromptsSettings, audit_prompts
from assay.errors import InputError, UsageError
from assay.providers.loading import load_plan
from assay.providers.training import TrainingJob
from assay.randomness import Seed, child
from assay.records import record
from assay.repair import Proof, Trigger, cleanse, prove
from assay.results import Progress
from assay.samples import Samples
from assay.storage import data as datasets
from assay.storage.runs import Input, RunFolder

from . import dataset_job, models_job
from .dataset_job import DatasetJob, Loaded
from .encoders_job import EXPLAINED, LoadedEncoders, load_encoders
from .models_job import LoadedModels, ModelKind, ModelsJob
from .prompts_job import PromptsJob, Read, delivery_of, load_prompt
from .recording import record_audit, record_proof
from .recording_models import record_models
from .recording_prompts import record_prompts
from .recording_texts import record_texts
from .recording_vision_text import record_vision_texts
from .repair_models import repair_models
from .repair_prompt import repair_prompt
from .tables import proof_table
from .task import Done, Task, job_of
from .texts_job import EXPLAINED as TEXTS_EXPLAINED
from .texts_job import LoadedTexts, load_texts
from .training_task import TrainingTask
from .vision_text_job import EXPLAINED as VISION_TEXT_EXPLAINED
from .vision_text_job import LoadedVisionTexts, load_vision_texts


@record
class DatasetTask:
    """Find poisoned samples, write the data without them, and prove the difference."""

    job: DatasetJob
    loaded: Loaded
    trigger: Trigger | None = None
    """What is known of the attack, for the proof."""
    audit: str = "dataset"
    everything: str = "Every class"

    @property
    def inputs(self) -> Mapping[str, Input]:
        """What it reads, by name."""
        return self.loaded.inputs

    def perform(self, run: RunFolder, show: Progress) -> Done:
        """Audit, record, cleanse and prove."""
        job, loaded = self.job, self.loaded
        audit = audit_dataset(
            loaded.data,
            loaded.clean,
            settings=DatasetSettings(),
            network=loaded.network,
            preprocess=loaded.preprocess,
            alpha=job.alpha,
            digest={"sha256": loaded.inputs["data"].sha256},
            seed=Seed(job.seed),
            device=torch.device(job.device),
            memory_mb=job.device_mb,
            progress=show,
            store=run.store(),
        )
        record_audit(run, loaded.data, audit)
        is_poison = audit.is_poison.cpu()
        flagged = int(is_poison.sum())
        if flagged and job.cleanse is not None:
            _cleanse(run, job, loaded, (~is_poison).nonzero().squeeze(1))
        more: list[Table | Text] = []
        if flagged and loaded.unseen is not None:
            proof = self._proof(run, cleanse(loaded.data, is_poison), loaded.unseen, show)
            record_proof(run, proof)
            more.append(proof_table(proof))
        if job.cleanse is not None:
            more.append(Text(_cleansed(job.cleanse, flagged)))
        return Done(
            findings=audit.findings, subject="class", table="classes.parquet", more=tuple(more)
        )

    def _proof(self, run: RunFolder, repaired: Samples, unseen: Samples, show: Progress) -> Proof:
        return prove(
            self.loaded.data,
            repaired,
            unseen,
            recipe=DatasetSettings().recipe,
            network=self.loaded.network,
            preprocess=self.loaded.preprocess,
            trigger=self.trigger,
            seed=child(Seed(self.job.seed), "proof"),
            device=torch.device(self.job.device),
            memory_mb=self.job.device_mb,
            progress=show,
            store=run.store(),
        )


@record
class ModelsTask:
    """Search the models for triggers that lead one of them astray and not the others."""

    job: ModelsJob
    loaded: LoadedModels
    audit: str = "models"
    everything: str = "Every model"

    @property
    def inputs(self) -> Mapping[str, Input]:
        """What it reads, by name."""
        return self.loaded.inputs

    def perform(self, run: RunFolder, show: Progress) -> Done:
        """Audit, record and repair."""
        settings = ModelsSettings()
        audit = audit_models(
            self.loaded.deliveries,
            self.loaded.clean,
            settings=settings,
            alpha=self.job.alpha,
            seed=Seed(self.job.seed),
            device=torch.device(self.job.device),
            progress=show,
            store=run.store(),
        )
        record_models(run, audit)
        more = repair_models(run, self.job, self.loaded, audit, show)
        return Done(
            findings=audit.findings, subject="model", table="models.parquet", more=tuple(more)
        )


@record
class EncodersTask:
    """Search encoders for triggers that lead one of them astray and not the others."""

    job: ModelsJob
    loaded: LoadedEncoders
    audit: str = "models"
    everything: str = "Every model"

    @property
    def inputs(self) -> Mapping[str, Input]:
        """What it reads, by name."""
        return self.loaded.inputs

    def perform(self, run: RunFolder, show: Progress) -> Done:
        """Divide the images into groups, audit, record and repair."""
        seed, device = Seed(self.job.seed), torch.device(self.job.device)
        divided = grouped(
            self.loaded.deliveries, self.loaded.images, groups=Groups(), seed=seed, device=device
        )
        audit = audit_models(
            divided.classifiers,
            divided.clean,
            settings=ENCODER_SETTINGS,
            alpha=self.job.alpha,
            seed=seed,
            device=device,
            progress=show,
            store=run.store(),
        )
        reasons = (*audit.findings.reasons, EXPLAINED)
        findings = dataclasses.replace(audit.findings, reasons=reasons)
        record_models(run, dataclasses.replace(audit, findings=findings))
        as_classifiers = LoadedModels(
            deliveries=divided.classifiers, clean=divided.clean, inputs=self.loaded.inputs
        )
        more = repair_models(run, self.job, as_classifiers, audit, show)
        return Done(findings=findings, subject="model", table="models.parquet", more=tuple(more))


@record
class TextsTask:
    """Search language models for token sequences that lead one of them to one response."""

    job: ModelsJob
    loaded: LoadedTexts
    audit: str = "models"
    everything: str = "Every model"

    @property
    def inputs(self) -> Mapping[str, Input]:
        """What it reads, by name."""
        return self.loaded.inputs

    def perform(self, run: RunFolder, show: Progress) -> Done:
        """Audit and record."""
        audit = audit_texts(
            self.loaded.deliveries,
            self.loaded.prompts,
            settings=TextSettings(),
            alpha=self.job.alpha,
            seed=Seed(self.job.seed),
            device=torch.device(self.job.device),
            progress=show,
            store=run.store(),
        )
        reasons = (*audit.findings.reasons, TEXTS_EXPLAINED)
        findings = dataclasses.replace(audit.findings, reasons=reasons)
        record_texts(run, dataclasses.replace(audit, findings=findings))
        return Done(findings=findings, subject="model", table="models.parquet")


@record
class VisionTextsTask:
    """Search models of images and texts for changes of images that lead one to one response."""

    job: ModelsJob
    loaded: LoadedVisionTexts
    audit: str = "models"
    everything: str = "Every model"

    @property
    def inputs(self) -> Mapping[str, Input]:
        """What it reads, by name."""
        return self.loaded.inputs

    def perform(self, run: RunFolder, show: Progress) -> Done:
        """Audit and record."""
        audit = audit_vision_texts(
            self.loaded.deliveries,
            self.loaded.images,
            prompt=self.job.prompt or PROMPT,
            settings=VisionTextSettings(),
            alpha=self.job.alpha,
            seed=Seed(self.job.seed),
            device=torch.device(self.job.device),
            progress=show,
            store=run.store(),
        )
        reasons = (*audit.findings.reasons, VISION_TEXT_EXPLAINED)
        findings = dataclasses.replace(audit.findings, reasons=reasons)
        record_vision_texts(run, dataclasses.replace(audit, findings=findings))
        return Done(findings=findings, subject="model", table="models.parquet")


@record
class PromptsTask:
    """Search a tuned prompt for a trigger that its backbone does not know, and repair it."""

    job: PromptsJob
    read: Read
    audit: str = "prompts"
    everything: str = "The prompt"

    @property
    def inputs(self) -> Mapping[str, Input]:
        """What it reads, by name."""
        return self.read.inputs

    def perform(self, run: RunFolder, show: Progress) -> Done:
        """Audit, record and repair."""
        found = audit_prompts(
            delivery_of(self.job, self.read),
            self.read.class_names,
            self.read.pools,
            clean=self.read.clean,
            settings=PromptsSettings(),
            alpha=self.job.alpha,
            seed=Seed(self.job.seed),
            device=torch.device(self.job.device),
            progress=show,
            store=run.store(),
        )
        reasons = (*found.findings.reasons, *self.read.loaded.notes)
        found = dataclasses.replace(
            found, findings=dataclasses.replace(found.findings, reasons=reasons)
        )
        record_prompts(run, found)
        more = repair_prompt(run, self.job, self.read, found, show)
        return Done(
            findings=found.findings, subject="prompt", table="models.parquet", more=tuple(more)
        )


def models_task(job: ModelsJob) -> ModelsTask | EncodersTask | TextsTask | VisionTextsTask:
    """Read what a job asks for.

    Raises:
        UsageError: something is not there, or options do not go together.
        InputError: something cannot be used or is refused.
    """
    if job.task == ModelKind.ENCODER:
        return EncodersTask(job=job, loaded=load_encoders(job))
    if job.task == ModelKind.TEXT:
        return TextsTask(job=job, loaded=load_texts(job))
    if job.task == ModelKind.VISION_TEXT:
        return VisionTextsTask(job=job, loaded=load_vision_texts(job))
    return ModelsTask(job=job, loaded=models_job.load(job))


def task_of(audit: str, settings: Mapping[str, Any]) -> Task:
    """Make the task of a stored run again, and read its inputs as they are now.

    Raises:
        UsageError: something that it needs is not there any more.
        InputError: an input cannot be used any more, or the run is of another version.
    """
    if audit not in _TASKS:
        raise InputError(f"the run was made by another version of assay: it is a {audit!r} audit")
    return _TASKS[audit](settings)


def _dataset_task(settings: Mapping[str, Any]) -> Task:
    job = job_of(DatasetJob, settings)
    return DatasetTask(job=job, loaded=dataset_job.load(job))


def _models_task(settings: Mapping[str, Any]) -> Task:
    return models_task(job_of(ModelsJob, settings))


def _training_task(settings: Mapping[str, Any]) -> Task:
    job = job_of(TrainingJob, settings)
    return TrainingTask(job=job, loaded=load_plan(pathlib.Path(job.plan)))


def _prompts_task(settings: Mapping[str, Any]) -> Task:
    job = job_of(PromptsJob, settings)
    return PromptsTask(job=job, read=load_prompt(job))


_TASKS: Mapping[str, Callable[[Mapping[str, Any]], Task]] = {
    "dataset": _dataset_task,
    "models": _models_task,
    "training": _training_task,
    "prompts": _prompts_task,
}


def _cleanse(run: RunFolder, job: DatasetJob, loaded: Loaded, kept: Tensor) -> None:
    """Write the data without what was flagged; a resumed run that did so already leaves it.

    Raises:
        InputError: the data have changed since they were read.
        UsageError: something that this run did not write lies where they go.
    """
    assert job.cleanse is not None
    out = pathlib.Path(job.cleanse)

    def written(path: pathlib.Path) -> dict[str, str]:
        return {"path": str(out), "sha256": datasets.digest(str(path))}

    if os.path.lexists(out):
        own = {"kind": "cleansed", **written(out)}
        if not any(own.items() <= event.items() for event in run.events()):
            raise UsageError(
                f"expected a new path for the cleansed data, something else lies at {out} by now: "
                "move it away and resume"
            )
        return
    dataset_job.check_unchanged(job, loaded.inputs)
    datasets.write_samples(
        job.data, kept, out, complete=lambda path: run.event("cleansed", **written(path))
    )


def _cleansed(path: str, flagged: int) -> str:
    if flagged:
        return f"cleansed data, without {flagged} samples: {path}"
    return f"nothing was flagged, so no cleansed data were written to {path}"
