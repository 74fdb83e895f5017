"""What an audit would do and cost, before it is done."""

import itertools
import statistics
import time

import torch

from assay.audits.dataset import DatasetSettings, foresee
from assay.features import check_answers
from assay.fitting import Feed, Preprocess, Step, feed, fit, sgd
from assay.networks import fresh_network
from assay.randomness import Seed, child
from assay.storage import documents

from .dataset_job import DatasetJob, Loaded
from .output import write

_STEPS = 12
"""Steps that are timed, after two that are not."""
_PASS = 1 / 3
"""What a forward pass costs, as a share of a training step."""


def show_estimate(job: DatasetJob, loaded: Loaded, *, json: bool) -> None:
    """Time a few training steps, and say what the audit would take and what it could not tell."""
    foreseen = foresee(loaded.data, loaded.clean)
    rate = _rate(job, loaded)
    stages = {name: samples / rate for name, samples in _stages(job, loaded).items()}
    document = {
        "schema": "assay/estimate/v1",
        "data": job.data,
        "samples": len(loaded.data),
        "classes": loaded.data.classes,
        "trusted": len(loaded.clean),
        "device": job.device,
        "samples_per_s": rate,
        "stages_s": stages,
        "wall_s": sum(stages.values()),
        "foreseen": list(foreseen),
    }
    if json:
        write(documents.dump(document))
        return
    write(
        f"{job.data}: {len(loaded.data):,} samples of {loaded.data.classes} classes, "
        f"{len(loaded.clean):,} trusted ones\n"
        f"on {job.device}: about {rate:,.0f} samples a second in training, measured just now"
    )
    for name, seconds in stages.items():
        write(f"  {name:15} {time_of(seconds)}")
    write(f"in all about {time_of(sum(stages.values()))}; nothing was run or written")
    for reason in foreseen:
        write(f"inconclusive unless something is flagged: {reason}")


def _stages(job: DatasetJob, loaded: Loaded) -> dict[str, float]:
    """Count the work of each stage, in samples trained on."""
    settings, data = DatasetSettings(), loaded.data
    ordinary = float(settings.recipe.epochs * len(data))
    confusion = settings.confusion_for(data)
    confusing = max(len(loaded.clean) // 2, len(loaded.clean) - settings.most_calibration)
    count = len(data) + len(loaded.clean) - confusing
    batch = min(confusion.batch_size, count)
    stages = {
        "train": float(sum(settings.focus_for(data).sizes(count, settings.recipe.epochs))),
        "confuse": float(confusion.steps(count, confusing) * (batch + min(batch, confusing))),
        "score": _PASS * (confusing + (2 + confusion.looks) * count),
    }
    if job.prove:
        stages |= {"retrain-before": ordinary, "retrain-after": ordinary}
    return stages


def _rate(job: DatasetJob, loaded: Loaded) -> float:
    """Measure how many samples a second the network is trained on."""
    recipe, device, seed = DatasetSettings().recipe, torch.device(job.device), Seed(job.seed)
    data = _feed(job, loaded, device)
    model = fresh_network(loaded.data, loaded.network, seed)
    some = next(data.ordered()).inputs[:2].cpu()
    check_answers(model, some, classes=loaded.data.classes)
    model.to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batches = data.endless(recipe.batch_size, seed=child(seed, "estimate"))
    ended: list[float] = []

    def on_step(step: Step) -> None:
        step.loss.item()  # waits for the device
        ended.append(time.monotonic())

    fit(
        model,
        itertools.islice(batches, _STEPS + 2),
        sgd(model, recipe),
        precision=recipe.precision,
        replay=True,
        on_step=on_step,
    )
    took = statistics.median(after - before for before, after in itertools.pairwise(ended[1:]))
    return min(recipe.batch_size, data.pool_size) / took


def _feed(job: DatasetJob, loaded: Loaded, device: torch.device) -> Feed:
    return feed(
        loaded.data.inputs,
        loaded.data.labels,
        preprocess=loaded.preprocess or Preprocess.of(loaded.data.inputs),
        device=device,
        memory_mb=job.device_mb,
    )


def time_of(seconds: float) -> str:
    """Say how long something takes, roughly."""
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
