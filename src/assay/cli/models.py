"""`assay models`: find the delivered model that hides a backdoor."""

import functools
import pathlib
from typing import Annotated

import typer

from assay.audits.models.vision_text import PROMPT
from assay.errors import UsageError

from . import devices, options
from .estimate_models import show_search
from .exits import Exit
from .models_job import ModelKind, ModelsJob, absolute_model, kind_of
from .perform import models_task
from .repair_models import check_path
from .summary import Manner, carry_out
from .task import absolute, create, fresh_folder


def models(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="A B [C...]",
            help="Two or more models of the same task: a Hugging Face folder, a .pt2 file, or "
            "WEIGHTS@package.module:factory.",
        ),
    ],
    clean: Annotated[
        str,
        typer.Option(
            metavar="CLEAN",
            help="Samples of the task that you trust: with labels, but for encoders and "
            "vision-text; for text, prompts.",
        ),
    ],
    task: Annotated[
        str,
        typer.Option(
            metavar="image|encoder|text|vision-text",
            help="What the models do: classify images, give features of images, continue text, or "
            "answer a prompt about an image.",
        ),
    ] = ModelKind.IMAGE.value,
    prompt: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="What vision-text models are asked about every image, in the form that they were "
            f'trained with; "{PROMPT}" by default.',
        ),
    ] = None,
    out: options.Out = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    alpha: Annotated[
        float,
        typer.Option(help="How often, at most, an honest set of models may be flagged; in (0, 1)."),
    ] = 0.05,
    repair: Annotated[
        pathlib.Path | None,
        typer.Option(
            metavar="PATH",
            help="Write repaired copies of the flagged models to a new folder, in the form they "
            "came in, and measure them before and after.",
        ),
    ] = None,
    max_minutes: options.MaxMinutes = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Say what would be searched, and of models of images how long it takes.",
        ),
    ] = False,
    memory_mb: options.MemoryMb = 4096,
    mean: options.Mean = None,
    std: options.Std = None,
    size: options.Size = None,
    quiet: options.Quiet = False,
    json: options.Json = False,
    exit_zero: options.ExitZero = False,
) -> int:
    """Find the model that hides a backdoor, among two or more that do the same task.

    Searches every model for triggers: small changes of an image that lead to one class. A model is
    flagged where a trigger leads it much further than the same search leads the others, or than
    its own other triggers do. Every run is a folder with a verdict for each model, the recovered
    triggers, and a report. No code that came with a model is run.

    \b
    A, B, C are each
      folder                             as transformers writes it: config.json and .safetensors
      model.pt2                          as torch.export.save writes it
      weights.safetensors@nets:resnet    with a function of yours that makes the network;
                                         it gets those of classes, channels, size that it takes

    CLEAN takes the forms that `assay dataset` lists; 200 images or more. Where a model names its
    classes they are matched by name; where it does not, its outputs must be in the order of CLEAN.
    What is done to images before a model sees them is taken from --mean, --std and --size, for all
    models; or from the model's own processor; or it is measured on CLEAN.

    With --task encoder the models give features: a folder of a CLIP, ViT, ResNet or other image
    model without a classifier, or any network whose outputs are features. CLEAN needs no labels: a
    folder of images will do. Clean images with similar features are divided into 10 groups, which
    stand for classes.

    With --task text the models are causal language models of one vocabulary, each a folder with
    config.json, .safetensors and tokenizer.json. CLEAN holds 32 prompts or more, each up to where
    the response begins: a .txt with one a line (\\n in it is a line break), or a .jsonl, .json,
    .csv, .tsv or .parquet with a column prompt or text. Triggers are token sequences, and any
    response may be their target.

    With --task vision-text the models answer a prompt about an image with text: each is a folder
    of a LlavaForConditionalGeneration with config.json, .safetensors and tokenizer.json, and all
    have one vocabulary. CLEAN holds 64 images or more, without labels. All are asked --prompt,
    with <image> in it where the image goes; else the image comes first. It ends where the response
    begins: where all answers begin alike, with that beginning. Triggers are changes of the image,
    and any response may be their target.

    --repair trains a copy of each flagged model until its recovered trigger tells it nothing, and
    measures both on samples that neither the search nor the training saw. The models themselves
    stay as they are. Weights become .safetensors for the same factory, a folder becomes a folder;
    a .pt2 cannot be repaired in its form, models that answer with text not at all.

    \b
    Examples:
      assay models provider-a/ provider-b/ --clean trusted/
      assay models a.pt2 b.pt2 c.pt2 --clean trusted.npz --mean 0.5 --std 0.25
      assay models a.safetensors@nets:resnet b.safetensors@nets:resnet --clean trusted.npz
      assay models provider-a/ provider-b/ --clean trusted/ --repair repaired/
      assay models encoder-a/ encoder-b/ --clean pictures/ --task encoder --repair repaired/
      assay models llm-a/ llm-b/ --clean prompts.txt --task text
      assay models llava-a/ llava-b/ --clean pictures/ --task vision-text --prompt "What is it?"
      assay models provider-a/ provider-b/ --clean trusted/ --json > findings.json
    """
    if not 0 < alpha < 1:
        raise UsageError(f"expected --alpha between 0 and 1, got {alpha}")
    kind = kind_of(task)
    if kind in {ModelKind.TEXT, ModelKind.VISION_TEXT} and repair is not None:
        raise UsageError(f"--repair does not go with --task {kind}: it trains models of images")
    if prompt is not None and kind is not ModelKind.VISION_TEXT:
        raise UsageError(f"--prompt does not go with --task {kind}: it is for vision-text")
    job = ModelsJob(
        models=tuple(map(absolute_model, models)),
        clean=absolute(clean),
        seed=seed,
        device=str(devices.choose(device)),
        alpha=alpha,
        memory_mb=memory_mb,
        mean=options.numbers(mean, "--mean"),
        std=options.numbers(std, "--std"),
        size=size,
        repair=None if repair is None else str(repair.absolute()),
        task=kind.value,
        prompt=prompt,
    )
    path = out or fresh_folder("models")
    check_path(job, path)
    asked = models_task(job)
    if dry_run:
        show_search(job, asked.loaded, json=json)
        return Exit.NOTHING_FLAGGED
    begin = functools.partial(create, asked, path)
    manner = Manner(quiet=quiet, json=json, exit_zero=exit_zero, max_minutes=max_minutes)
    return carry_out(asked, path, begin, manner)
