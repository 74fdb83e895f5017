"""What `assay models ... --task vision-text` reads: LLaVA-like models, and images."""

import pathlib
from collections.abc import Mapping

from assay.audits.models.vision_text import VisionTextDelivery
from assay.errors import InputError
from assay.records import record
from assay.samples import Rows
from assay.storage import data as datasets
from assay.storage.runs import Input
from assay.storage.vision_text import LoadedVisionText, load_vision_text

from .models_job import (
    ModelsJob,
    check_count,
    inputs_of,
    place_of,
    preprocess_of,
    refuse_copies,
    unique,
)

EXPLAINED = (
    "Models of images and texts have no classes. A target is the first token of a response; a "
    "model is led to it where that token is likelier than all others together."
)


@record
class LoadedVisionTexts:
    """What a job reads."""

    deliveries: tuple[VisionTextDelivery, ...]
    images: Rows
    inputs: Mapping[str, Input]


def load_vision_texts(job: ModelsJob) -> LoadedVisionTexts:
    """Read the clean images and the models.

    Raises:
        UsageError: something is not there, options do not go together, or there is one model.
        InputError: something cannot be used or is refused.
    """
    check_count(job)
    images = datasets.read_images(job.clean, size=job.size, memory_mb=job.memory_mb // 2)
    if len(images.shape) != 4:
        raise InputError(
            f"expected images in {job.clean}, got rows of {images.shape[1]} numbers: the models "
            "are asked about images"
        )
    if images.shape[1] == 1:
        images = images[:].expand(-1, 3, -1, -1)
    names = unique([pathlib.PurePath(place_of(source)).name for source in job.models])
    loaded = [load_vision_text(source) for source in job.models]
    refuse_copies(names, loaded)
    return LoadedVisionTexts(
        deliveries=tuple(
            _delivery(job, name, model, images) for name, model in zip(names, loaded, strict=True)
        ),
        images=images,
        inputs=inputs_of(job, names, loaded),
    )


def _delivery(
    job: ModelsJob, name: str, loaded: LoadedVisionText, images: Rows
) -> VisionTextDelivery:
    return VisionTextDelivery(
        name=name,
        model=loaded.model,
        tokenizer=loaded.tokenizer,
        preprocess=preprocess_of(job, name, loaded, images),
        digest={"sha256": loaded.digest},
        beginning=loaded.tokenizer.beginning,
    )
