"""`assay prompts`: find out whether a prompt-tuned CLIP hides a backdoor."""

import functools
import pathlib
from typing import Annotated

import typer

from assay.audits.prompts import PromptsSettings, Source
from assay.errors import UsageError
from assay.prompting import Position
from assay.storage import documents

from . import devices, options
from .exits import Exit
from .output import write
from .perform import PromptsTask
from .prompts_job import PromptsJob, Read, load_prompt
from .repair_prompt import check_path
from .summary import Manner, carry_out
from .task import absolute, create, fresh_folder


def prompts(
    backbone: Annotated[
        str,
        typer.Argument(metavar="BACKBONE", help="The CLIP: a Hugging Face folder, or hf:NAME."),
    ],
    prompt: Annotated[
        str,
        typer.Argument(
            metavar="PROMPT",
            help="What came back: a CoOp-style checkpoint (model.pth.tar-N), or .safetensors with "
            "its description beside it.",
        ),
    ],
    classes: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="The class names, in the order of the task: a .txt with one a line, or a .json "
            "list. The target of a backdoor must be among them.",
        ),
    ],
    ood: Annotated[
        str,
        typer.Option(
            metavar="DATA|mosaics|crops|procedural",
            help="Images of other things than the classes, 200 or more, without labels, which look "
            "like the task's in colour and background; or made on the spot: mosaics of the --clean "
            "samples, crops of two photographs, or procedural ones.",
        ),
    ] = "crops",
    clean: Annotated[
        str | None,
        typer.Option(
            metavar="CLEAN",
            help="Labelled samples of the task that you trust: to check that the prompt does its "
            "task, and for --repair.",
        ),
    ] = None,
    position: Annotated[
        Position | None,
        typer.Option(
            help="Where the class names stand among the context vectors, for CoOp without a "
            "description.  [default: end]",
            show_default=False,
        ),
    ] = None,
    out: options.Out = None,
    seed: options.Seed = 0,
    device: options.Device = "auto",
    alpha: Annotated[
        float,
        typer.Option(help="How often, at most, an honest prompt may be flagged; in (0, 1)."),
    ] = 0.05,
    repair: Annotated[
        pathlib.Path | None,
        typer.Option(
            metavar="PATH",
            help="Where a flagged prompt is written repaired, in the form it came in, with its "
            "accuracy and attack success before and after; needs --clean.",
        ),
    ] = None,
    max_minutes: options.MaxMinutes = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be searched; search nothing.")
    ] = False,
    memory_mb: options.MemoryMb = 4096,
    quiet: options.Quiet = False,
    json: options.Json = False,
    exit_zero: options.ExitZero = False,
) -> int:
    """Find out whether a prompt that somebody tuned for a CLIP hides a backdoor.

    The encoders of such a CLIP are the published ones, so that scanners of models see nothing: what
    was tuned is a prompt learner (CoOp, CoCoOp, VPT or MaPLe; which one is seen from the file).
    For every class a trigger is searched that leads images of other things to it, on the tuned
    prompt and on the backbone with a prompt written by hand. A class that is led to much more
    easily than the backbone and the other classes explain is the target of a backdoor.

    Every run is a folder with the verdict, the recovered trigger, and a report. No code that came
    with a prompt or a backbone is run, and nothing is unpickled but tensors and numbers.

    \b
    Examples:
      assay prompts clip-vit-base-patch16/ model.pth.tar-50 --classes pets.txt --ood photos/
      assay prompts hf:openai/clip-vit-base-patch16 prompt.safetensors --classes pets.txt
      assay prompts clip/ model.pth.tar-50 --classes pets.txt --ood crops --clean trusted/ \\
            --repair repaired.pth.tar
    """
    if not 0 < alpha < 1:
        raise UsageError(f"expected --alpha between 0 and 1, got {alpha}")
    if repair is not None and clean is None:
        raise UsageError("--repair needs --clean: a prompt is repaired on labelled samples")
    if ood == Source.MOSAICS and clean is None:
        raise UsageError("--ood mosaics needs --clean: they are cut from its images")
    if repair is not None:
        check_path(repair, prompt)
    job = PromptsJob(
        backbone=absolute(backbone),
        prompt=absolute(prompt),
        classes=absolute(classes),
        ood=absolute(ood),
        clean=None if clean is None else absolute(clean),
        seed=seed,
        device=str(devices.choose(device)),
        alpha=alpha,
        memory_mb=memory_mb,
        position=None if position is None else position.value,
        repair=None if repair is None else str(repair.absolute()),
    )
    read = load_prompt(job)
    if dry_run:
        _show_search(job, read, json=json)
        return Exit.NOTHING_FLAGGED
    task, path = PromptsTask(job=job, read=read), out or fresh_folder("prompts")
    begin = functools.partial(create, task, path)
    manner = Manner(quiet=quiet, json=json, exit_zero=exit_zero, max_minutes=max_minutes)
    return carry_out(task, path, begin, manner)


def _show_search(job: PromptsJob, read: Read, *, json: bool) -> None:
    """Say what would be searched."""
    settings, classes = PromptsSettings(), len(read.class_names)
    rule = settings.elimination
    whole = classes if classes <= rule.most else rule.kept + rule.kept // 2 + rule.controls
    kinds = [kind.family.name for kind in settings.kinds]
    document = {
        "schema": "assay/search/v1",
        "learner": type(read.prompted.learner).__name__,
        "classes": classes,
        "images": sum(min(len(pool), settings.most_images) for pool in read.pools.values()),
        "pools": list(read.pools),
        "device": job.device,
        "kinds": kinds,
        "searched": whole,
    }
    if json:
        write(documents.dump(document))
        return
    write(
        f"{document['learner']}, {classes:,} classes, {document['images']:,} out-of-distribution "
        f"images ({', '.join(read.pools)}), on {job.device}; on the prompt and on the backbone "
        "alone:"
    )
    for name in kinds:
        write(f"  {name:32} triggers for at most {whole:,} of the classes")
    write("nothing was run or written, and how long it takes is not known before")
