"""What `assay models ... --task encoder` reads: encoders, and images without labels."""

import pathlib
from collections.abc import Mapping

from assay.audits.models import Delivery
from assay.audits.models.encoders import Features
from assay.errors import InputError
from assay.records import record
from assay.samples import Rows
from assay.storage import data as datasets
from assay.storage.models import LoadedModel
from assay.storage.runs import Input

from .models_job import (
    ModelsJob,
    check_count,
    check_takes,
    inputs_of,
    loaded_model,
    place_of,
    preprocess_of,
    refuse_copies,
    unique,
)

EXPLAINED = (
    "Encoders have no classes. Each group stands for clean images with similar features, found by "
    "k-means on the features of all models side by side; accuracy is how often a model alone finds "
    "the group that all of them agreed on. Margins are how much less triggered images differ in "
    "what a model sees than clean ones do: the logarithm of the ratio of variances, 0 or more, "
    "times the success. The search sets out for each group: a planted trigger that leads to none "
    "of them, and that no search meets on its way, is not seen."
)


@record
class LoadedEncoders:
    """What a job reads."""

    deliveries: tuple[Delivery, ...]
    images: Rows
    inputs: Mapping[str, Input]


def load_encoders(job: ModelsJob) -> LoadedEncoders:
    """Read the trusted images and the encoders, and try each encoder on two of them.

    Raises:
        UsageError: something is not there, options do not go together, or there is one model.
        InputError: something cannot be used or is refused.
    """
    check_count(job)
    images = datasets.read_images(job.clean, size=job.size, memory_mb=job.memory_mb // 2)
    if len(images.shape) != 4:
        raise InputError(
            f"expected images in {job.clean}, got rows of {images.shape[1]} numbers: only "
            "encoders of images are audited"
        )
    names = unique([pathlib.PurePath(place_of(source)).name for source in job.models])
    loaded = [loaded_model(job, source, images, encoder=True) for source in job.models]
    refuse_copies(names, loaded)
    return LoadedEncoders(
        deliveries=tuple(
            _delivery(job, name, model, images) for name, model in zip(names, loaded, strict=True)
        ),
        images=images,
        inputs=inputs_of(job, names, loaded),
    )


def _delivery(job: ModelsJob, name: str, loaded: LoadedModel, images: Rows) -> Delivery:
    delivery = Delivery(
        name=name,
        model=loaded.model,
        preprocess=preprocess_of(job, name, loaded, images),
        digest={"sha256": loaded.digest},
    )
    check_takes(delivery, Features(delivery.model), images)
    return delivery
