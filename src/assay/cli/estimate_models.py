"""What a models audit would search, before it does."""

import dataclasses
import statistics
import time

import torch
from torch import Tensor

from assay.audits.models import ENCODER_SETTINGS, Delivery, Groups, Kind, ModelsSettings, effort
from assay.audits.models.encoders import Features
from assay.audits.models.language import TextSettings
from assay.audits.models.respond import responder
from assay.audits.models.survey import candidates, images_at_once
from assay.audits.models.vision_text import VisionTextSettings
from assay.randomness import Seed
from assay.samples import Rows
from assay.storage import documents
from assay.triggers import Pool

from .encoders_job import LoadedEncoders
from .estimate import time_of
from .models_job import LoadedModels, ModelsJob
from .output import write
from .texts_job import LoadedTexts
from .vision_text_job import LoadedVisionTexts

_TIMED = 96
"""Images that go through each model at once, to see how fast it is; fewer large ones."""
_TIMES = 2
"""How often, after once that does not count."""


def show_search(
    job: ModelsJob,
    loaded: LoadedModels | LoadedEncoders | LoadedTexts | LoadedVisionTexts,
    *,
    json: bool,
) -> None:
    """Say what would be searched on each model, and of models of images how long it takes."""
    if isinstance(loaded, LoadedTexts):
        _show_texts(job, loaded, json=json)
        return
    if isinstance(loaded, LoadedVisionTexts):
        _show_vision_texts(job, loaded, json=json)
        return
    if isinstance(loaded, LoadedEncoders):
        classes, what = Groups().count, "groups"
        labels, settings = torch.arange(len(loaded.images)) % classes, ENCODER_SETTINGS
        images = loaded.images
    else:
        settings, images = ModelsSettings(), loaded.clean.inputs
        classes, what, labels = loaded.clean.classes, "classes", loaded.clean.labels
    kinds = {k: _candidates(k, labels, classes, job.seed) for k in settings.kinds}
    passes = effort(settings, list(kinds.values()), len(labels), models=len(loaded.deliveries))
    seconds = sum(passes / _rate(job, loaded, each, images) for each in loaded.deliveries)
    document = {
        "schema": "assay/search/v1",
        "models": [delivery.name for delivery in loaded.deliveries],
        what: classes,
        "trusted": len(labels),
        "device": job.device,
        "candidates": {kind.name: count for kind, count in kinds.items()},
        "searches": sum(kinds.values()) * len(loaded.deliveries),
        "image_passes": passes * len(loaded.deliveries),
        "wall_s": seconds,
    }
    if json:
        write(documents.dump(document))
        return
    write(
        f"{len(loaded.deliveries)} models of {classes} {what}, on "
        f"{len(labels):,} trusted images and {job.device}; on each model:"
    )
    for kind, count in kinds.items():
        write(f"  {kind.name:32} {count:5,} candidate triggers")
    write(
        f"in all at most {document['searches']:,} searches, {document['image_passes']:,} images "
        f"through the models and back: about {time_of(seconds)} at the pace measured just now, for "
        "the models alone; nothing was run or written"
    )


def _rate(
    job: ModelsJob, loaded: LoadedModels | LoadedEncoders, delivery: Delivery, images: Rows
) -> float:
    """Measure how many images a second go through a model, and their gradients back."""
    device, size = torch.device(job.device), delivery.preprocess.size or 0
    some = images[:_TIMED].to(device).float() / 255
    some = some[: images_at_once(_TIMED, some, [size])]
    is_encoder = isinstance(loaded, LoadedEncoders)
    model = Features(delivery.model) if is_encoder else delivery.model
    respond = responder(dataclasses.replace(delivery, model=model), device)
    took = []
    for _ in range(_TIMES + 1):
        began = time.monotonic()
        probe = some.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(respond(probe).sum(), probe, allow_unused=True)
        if gradient is not None:
            gradient.sum().item()  # waits for the device
        took.append(time.monotonic() - began)
    return len(some) / statistics.median(took[1:])


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
