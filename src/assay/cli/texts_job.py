"""What `assay models ... --task text` reads: causal language models, and prompts."""

import pathlib
from collections.abc import Mapping

from assay.audits.models.language import TextDelivery
from assay.errors import UsageError
from assay.records import record
from assay.storage.files import digest_path
from assay.storage.language import load_language_model
from assay.storage.prompts import read_prompts
from assay.storage.runs import Input

from .models_job import ModelsJob, check_count, place_of, refuse_copies, unique

EXPLAINED = (
    "Language models have no classes. A target is the first token of a response; a model is led to "
    "it where that token is likelier than all others together."
)


@record
class LoadedTexts:
    """What a job reads."""

    deliveries: tuple[TextDelivery, ...]
    prompts: tuple[str, ...]
    inputs: Mapping[str, Input]


def load_texts(job: ModelsJob) -> LoadedTexts:
    """Read the clean prompts and the models.

    Raises:
        UsageError: something is not there, options do not go together, or there is one model.
        InputError: something cannot be used or is refused.
    """
    check_count(job)
    given = [
        option
        for option, value in (("--mean", job.mean), ("--std", job.std), ("--size", job.size))
        if value is not None
    ]
    if given:
        raise UsageError(f"{', '.join(given)} does not go with --task text: it is for images")
    prompts = read_prompts(job.clean)
    names = unique([pathlib.PurePath(place_of(source)).name for source in job.models])
    loaded = [load_language_model(source) for source in job.models]
    refuse_copies(names, loaded)
    models = {
        f"model {name}": Input(path=model.origin, sha256=model.digest)
        for name, model in zip(names, loaded, strict=True)
    }
    clean = Input(path=job.clean, sha256=digest_path(pathlib.Path(job.clean)))
    return LoadedTexts(
        deliveries=tuple(
            TextDelivery(
                name=name,
                model=model.model,
                tokenizer=model.tokenizer,
                digest={"sha256": model.digest},
                beginning=model.tokenizer.beginning,
            )
            for name, model in zip(names, loaded, strict=True)
        ),
        prompts=prompts,
        inputs={**models, "clean": clean},
    )
