"""What a models audit would search, before it does."""

import torch

from assay.audits.models import Kind, ModelsSettings
from assay.audits.models.survey import candidates
from assay.randomness import Seed
from assay.samples import Samples
from assay.storage import documents
from assay.triggers import Pool

from .models_job import LoadedModels, ModelsJob
from .output import write


def show_search(job: ModelsJob, loaded: LoadedModels, *, json: bool) -> None:
    """Say how many candidate triggers would be searched on each model."""
    kinds = {k.name: _candidates(k, loaded.clean, job.seed) for k in ModelsSettings().kinds}
    document = {
        "schema": "assay/search/v1",
        "models": [delivery.name for delivery in loaded.deliveries],
        "classes": loaded.clean.classes,
        "trusted": len(loaded.clean),
        "device": job.device,
        "candidates": kinds,
        "searches": sum(kinds.values()) * len(loaded.deliveries),
    }
    if json:
        write(documents.dump(document))
        return
    write(
        f"{len(loaded.deliveries)} models of {loaded.clean.classes} classes, on "
        f"{len(loaded.clean):,} trusted images and {job.device}; on each model:"
    )
    for name, count in kinds.items():
        write(f"  {name:32} {count:5,} candidate triggers")
    write(
        f"in all at most {document['searches']:,} searches; nothing was run or written, and how "
        "long they take is not known before"
    )


def _candidates(kind: Kind, clean: Samples, seed: int) -> int:
    pool = Pool(images=torch.zeros(len(clean), 1, 1, 1), labels=clean.labels)
    return len(candidates(kind, pool, pool, clean.classes, seed=Seed(seed)))
