"""`assay training calibrate`: how far honest twins lie apart, measured on this machine."""

import os
import pathlib
import sys
from collections.abc import Mapping
from typing import Annotated, get_args

import torch
import typer
from jaxtyping import Int64
from torch import Tensor

from assay.audits.training import profile_document
from assay.errors import UsageError
from assay.providers.environment import stated_environment
from assay.providers.execute import DATA_PLACE, imported
from assay.providers.loading import Loaded, load_plan
from assay.providers.order import sample_order
from assay.randomness import Seed, child, isolated
from assay.storage import data as datasets
from assay.storage import documents

from . import options
from .calibrating import Matmul, Train, settings
from .calibrating import calibrate as learn
from .exits import Exit
from .output import progress, write
from .task import absolute


def calibrate(
    plan: Annotated[
        pathlib.Path, typer.Argument(metavar="PLAN.yaml", help="What is trained, and by whom.")
    ],
    data: Annotated[
        str, typer.Option(metavar="DATA", help="The training data; their digest is checked.")
    ],
    out: Annotated[
        pathlib.Path, typer.Option("--out", "-o", help="The profile to write, a new JSON file.")
    ] = pathlib.Path("profile.json"),
    threads: Annotated[
        str, typer.Option(metavar="N[,N...]", help="Thread counts that honest providers may have.")
    ] = "1,2",
    matmul: Annotated[
        str,
        typer.Option(
            metavar="highest[,high][,medium]",
            help="How float32 matrices are multiplied, as torch names it.",
        ),
    ] = "highest",
    sub_runs: Annotated[int, typer.Option(min=1, help="Sub-runs to execute, from the first.")] = 2,
    quiet: options.Quiet = False,
) -> int:
    """Execute some sub-runs under several settings, honestly; write how far the results lie apart.

    The plan names the file as its profile. The judgement then knows the noise of those
    environments, and needs not guess it. It runs the plan's callable on this machine.

    \b
    Example:
      assay training calibrate PLAN.yaml --data train.npz --threads 1,2,4 -o profile.json
    """
    loaded = load_plan(plan)
    code, folder = loaded.plan.recipe.code, plan.absolute().parent
    if code is None or loaded.plan.free_order:
        raise UsageError("expected a plan with code (not command) and a fixed order, to calibrate")
    if datasets.digest(data) != loaded.plan.data_sha256:
        raise UsageError(f"expected the data of the plan in {data}, their digest differs")
    if out.exists():
        raise UsageError(f"expected a path that does not exist yet, got {out}")
    twins = settings(_counts(threads), _matmuls(matmul))
    places = range(min(sub_runs, loaded.plan.sub_runs))
    sys.path.insert(0, str(folder))
    os.environ[DATA_PLACE] = absolute(data)
    with progress(quiet=quiet) as show:
        profile = learn(
            _train(loaded, code),
            loaded.start,
            [_order(loaded, place) for place in places],
            twins=twins,
            state=stated_environment,
            network=loaded.network,
            probes=loaded.probes,
            progress=show,
        )
    documents.write_text(out.absolute(), documents.dump(profile_document(profile)))
    write(f"profile of {len(twins)} twins in {len(places)} sub-runs: {out}")
    return Exit.NOTHING_FLAGGED


def _counts(text: str) -> list[int]:
    numbers = options.numbers(text, "--threads") or ()
    if not numbers or not all(number >= 1 and number.is_integer() for number in numbers):
        raise UsageError(f"expected thread counts like 1,2,4 in --threads, got {text!r}")
    return [int(number) for number in numbers]


def _matmuls(text: str) -> list[Matmul]:
    known: tuple[Matmul, ...] = get_args(Matmul)
    named = [name for name in known if name in text.split(",")]
    if len(named) != len(text.split(",")):
        raise UsageError(f"expected {', '.join(known)} in --matmul, got {text!r}")
    return named


def _order(loaded: Loaded, place: int) -> Int64[Tensor, "steps batch"]:
    plan = loaded.plan
    first, steps = plan.stretch(place)
    return sample_order(
        plan.samples,
        batch=plan.batch,
        first_step=first,
        steps=steps,
        seed=child(plan.seed, "order"),
    )


def _train(loaded: Loaded, code: str) -> Train:
    plan, steps = loaded.plan, imported(code)

    def train(
        weights: dict[str, Tensor], order: Int64[Tensor, "steps batch"], sub_run: int
    ) -> Mapping[str, Tensor]:
        first = plan.stretch(sub_run)[0]
        seed = child(plan.seed, "sub-run", first)
        with isolated(Seed(seed), torch.device("cpu")):
            return steps(
                weights,
                order,
                hyperparameters=plan.hyperparameters,
                seed=seed,
                first_step=first,
                on_step=lambda *_: None,
            )

    return train
