"""What a models audit would search, before it does."""

import torch
from torch import Tensor

from assay.audits.models import ENCODER_SETTINGS, Groups, Kind, ModelsSettings
from assay.audits.models.language import TextSettings
from assay.audits.models.survey import candidates
from assay.audits.models.vision_text import VisionTextSettings
from assay.randomness import Seed
from assay.storage import documents
from assay.triggers import Pool

from .encoders_job import LoadedEncoders
from .models_job import LoadedModels, ModelsJob
from .output import write
from .texts_job import LoadedTexts
from .vision_text_job import LoadedVisionTexts


def show_search(
    job: ModelsJob,
    loaded: LoadedModels | LoadedEncoders | LoadedTexts | LoadedVisionTexts,
    *,
    json: bool,
) -> None:
    """Say how many candidate triggers would be searched on each model."""
    if isinstance(loaded, LoadedTexts):
        _show_texts(job, loaded, json=json)
        return
    if isinstance(loaded, LoadedVisionTexts):
        _show_vision_texts(job, loaded, json=json)
        return
    if isinstance(loaded, LoadedEncoders):
        classes, what = Groups().count, "groups"
        labels, settings = torch.arange(len(loaded.images)) % classes, ENCODER_SETTINGS
    else:
        settings = ModelsSettings()
        classes, what, labels = loaded.clean.classes, "classes", loaded.clean.labels
    kinds = {k.name: _candidates(k, labels, classes, job.seed) for k in settings.kinds}
    document = {
        "schema": "assay/search/v1",
        "models": [delivery.name for delivery in loaded.deliveries],
        what: classes,
        "trusted": len(labels),
        "device": job.device,
        "candidates": kinds,
        "searches": sum(kinds.values()) * len(loaded.deliveries),
    }
    if json:
        write(documents.dump(document))
        return
    write(
        f"{len(loaded.deliveries)} models of {classes} {what}, on "
        f"{len(labels):,} trusted images and {job.device}; on each model:"
    )
    for name, count in kinds.items():
        write(f"  {name:32} {count:5,} candidate triggers")
    write(
        f"in all at most {document['searches']:,} searches; nothing was run or written, and how "
        "long they take is not known before"
    )


def _show_texts(job: ModelsJob, loaded: LoadedTexts, *, json: bool) -> None:
    """Say how much is tried on each language model."""
    search, models = TextSettings().search, len(loaded.deliveries)
    singles = min(search.most_tokens, len(loaded.deliveries[0].tokenizer.vocabulary))
    responses = search.said + models * (search.raised + 2 * search.moved)
    document = {
        "schema": "assay/search/v1",
        "models": [delivery.name for delivery in loaded.deliveries],
        "prompts": len(set(loaded.prompts)),
        "device": job.device,
        "single_tokens": singles,
        "responses": responses,
    }
    if json:
        write(documents.dump(document))
        return
    write(
        f"{models} language models, on {document['prompts']:,} different prompts and {job.device}; "
        f"on each model {singles:,} single tokens, and triggers for at most {responses} responses; "
        "nothing was run or written, and how long it takes is not known before"
    )


def _show_vision_texts(job: ModelsJob, loaded: LoadedVisionTexts, *, json: bool) -> None:
    """Say how much is tried on each model of images and texts."""
    search, models = VisionTextSettings().search, len(loaded.deliveries)
    responses = search.said + models * (search.raised + search.moved)
    document = {
        "schema": "assay/search/v1",
        "models": [delivery.name for delivery in loaded.deliveries],
        "trusted": len(loaded.images),
        "device": job.device,
        "responses": responses,
        "searched_to_the_end": min(responses, models * search.kept),
        "families": [family.name for family in search.families],
    }
    if json:
        write(documents.dump(document))
        return
    write(
        f"{models} models of images and texts, on {len(loaded.images):,} trusted images and "
        f"{job.device}; on each model at most {responses} responses shortly and "
        f"{document['searched_to_the_end']} to the end, with triggers of "
        f"{len(search.families)} kinds; nothing was run or written, and how long it takes is not "
        "known before"
    )


def _candidates(kind: Kind, labels: Tensor, classes: int, seed: int) -> int:
    pool = Pool(images=torch.zeros(len(labels), 1, 1, 1), labels=labels)
    return len(candidates(kind, pool, pool, classes, seed=Seed(seed)))
