"""Measure the training loop against the usual one, and its memory on data beyond its budget."""

import argparse
import itertools
import json
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import grid
from assay.fitting import Augment, Feed, Preprocess, Recipe, feed, fit, sgd
from assay.networks import default_network
from assay.randomness import Seed, child, generator
from assay.samples import Samples
from assay.storage import FileRows, read_samples
from assay_zoo.data import DATA_SETS, load

RESULTS = grid.HERE / "results" / "training-speed"

CPU = torch.device("cpu")
SEED = Seed(0)
RECIPE = Recipe(augment=Augment())
VERSION = 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--data", choices=DATA_SETS, default="cifar10")
    add("--samples", type=int, default=6_000)
    add("--repeats", type=int, default=5)
    add("--threads", type=int, default=2)
    add("--workers", type=int, nargs="+", default=[0, 2], help="of the usual loop; the best counts")
    add("--stream-samples", type=int, default=200_000, help="3 x 32 x 32 images on disk")
    add("--budget-mb", type=int, default=64)
    add("--stream", type=pathlib.Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.stream is not None:
        print(json.dumps(streamed(asked.stream, asked.budget_mb)))
        return 0
    settings = {
        "version": VERSION,
        "machine": {k: v for k, v in grid.machine(CPU).items() if k != "load"},
    }
    speed = {k: getattr(asked, k) for k in ("data", "samples", "repeats", "workers")}
    memory = {k: getattr(asked, k) for k in ("stream_samples", "budget_mb")}
    cells = (
        grid.Cell(
            name=f"speed-{asked.data}-{asked.samples}",
            kind="speed",
            recipe={**settings, **speed, "training": repr(RECIPE)},
            measure=lambda: compared(asked.data, asked.samples, asked.repeats, asked.workers),
        ),
        grid.Cell(
            name=f"memory-{asked.stream_samples}",
            kind="memory",
            recipe={**settings, **memory},
            measure=lambda: streamed_apart(asked.stream_samples, asked.budget_mb, asked.threads),
        ),
    )
    group = grid.Group(name="training-speed", cells=cells)
    return 1 if grid.run([group], RESULTS, device=CPU, shard=(0, 1)) else 0


def compared(data: str, samples: int, repeats: int, workers: list[int]) -> grid.Result:
    """Train one epoch in each loop, in turn; ratios are of neighbouring epochs."""
    train = load(data, train=samples, trusted=0, test=0, seed=SEED).train
    preprocess = Preprocess.of(train.inputs)
    resident = feed(train.inputs, train.labels, preprocess=preprocess, device=CPU)
    loops: dict[str, Callable[[int], None]] = {"ours": lambda epoch: _ours(resident, train, epoch)}
    for count in workers:
        loops[f"usual, {count} workers"] = _usual(train, preprocess, count)
    for loop in loops.values():
        loop(-1)
    speeds: dict[str, list[float]] = {name: [] for name in loops}
    for epoch in range(repeats):
        for name, loop in loops.items():
            started = time.perf_counter()
            loop(epoch)
            speeds[name].append(samples / (time.perf_counter() - started))
    usual = max(
        (name for name in speeds if name != "ours"), key=lambda n: statistics.median(speeds[n])
    )
    ratios = [ours / other for ours, other in zip(speeds["ours"], speeds[usual], strict=True)]
    return {
        "ratio_median": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "against": usual,
        "samples_per_s": speeds,
    }


def _ours(data: Feed, train: Samples, epoch: int) -> None:
    model = default_network(train.inputs.shape, classes=train.classes, seed=SEED)
    model.to(memory_format=torch.channels_last)
    batches = data.shuffled(
        RECIPE.batch_size, seed=child(SEED, "epoch", epoch), augment=RECIPE.augment
    )
    fit(model, batches, sgd(model, RECIPE))


class _PerSample(torch.utils.data.Dataset[tuple[Tensor, Tensor]]):
    """Transforms one image at a time, as is usual: pad and crop, to float, standardise."""

    def __init__(self, train: Samples, preprocess: Preprocess) -> None:
        self.images, self.labels = train.inputs[:], train.labels
        self.mean = torch.tensor(preprocess.mean).reshape(-1, 1, 1)
        self.std = torch.tensor(preprocess.std).reshape(-1, 1, 1)
        self.pad = int(Augment().shift * self.images.shape[-1])
        self.random = generator(SEED, CPU)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        image = self.images[row].float() / 255
        height, width = image.shape[1:]
        padded = nn.functional.pad(image[None], (self.pad,) * 4, mode="reflect")[0]
        top, left = torch.randint(2 * self.pad + 1, (2,), generator=self.random).tolist()
        cropped = padded[:, top : top + height, left : left + width]
        return (cropped - self.mean) / self.std, self.labels[row]


def _usual(train: Samples, preprocess: Preprocess, workers: int) -> Callable[[int], None]:
    loader = torch.utils.data.DataLoader(
        _PerSample(train, preprocess),
        batch_size=RECIPE.batch_size,
        shuffle=True,
        num_workers=workers,
        generator=generator(SEED, CPU),
    )

    def epoch(_: int) -> None:
        model = default_network(train.inputs.shape, classes=train.classes, seed=SEED)
        optimizer = sgd(model, RECIPE)
        model.train()
        for images, labels in loader:
            optimizer.zero_grad(set_to_none=True)
            loss = nn.functional.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()

    return epoch


def streamed_apart(samples: int, budget_mb: int, threads: int) -> grid.Result:
    """Write images to disk and train on them in a process of its own, which tells its peak."""
    random = generator(SEED, CPU)
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "images.safetensors"
        images = torch.randint(256, (samples, 32, 32, 3), dtype=torch.uint8, generator=random)
        save_file({"images": images, "labels": torch.arange(samples) % 10}, path)
        command = [sys.executable, __file__, "--stream", str(path)]
        command += ["--budget-mb", str(budget_mb), "--threads", str(threads)]
        done = subprocess.run(  # noqa: S603  ourselves
            command, capture_output=True, text=True, check=True
        )
    return json.loads(done.stdout)


def streamed(path: pathlib.Path, budget_mb: int) -> grid.Result:
    """Train a linear model for one epoch; what it needs itself is taken off."""
    samples = read_samples(str(path), memory_mb=budget_mb)
    assert isinstance(samples.inputs, FileRows), "larger than the budget"  # noqa: S101
    preprocess = Preprocess.of(samples.inputs)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3072, 10))
    optimizer = sgd(model, Recipe(peak_rate=1e-4))
    few = samples.subset(torch.arange(1024))
    warm = feed(few.inputs, few.labels, preprocess=preprocess, device=CPU)
    fit(model, warm.shuffled(128, seed=SEED, augment=Augment()), optimizer)
    pathlib.Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = _peak_mb()
    data = feed(
        samples.inputs, samples.labels, preprocess=preprocess, device=CPU, memory_mb=budget_mb
    )
    started, seen = time.perf_counter(), itertools.count(1)
    batches = data.shuffled(128, seed=SEED, augment=Augment())
    fit(model, batches, optimizer, on_step=lambda _: next(seen))
    seconds = time.perf_counter() - started
    return {
        "data_mb": samples.inputs.shape.numel() / 2**20,
        "budget_mb": budget_mb,
        "growth_mb": _peak_mb() - before,
        "peak_mb": _peak_mb(),
        "within_budget": _peak_mb() - before <= budget_mb,
        "samples_per_s": len(samples) / seconds,
        "steps": next(seen) - 1,
    }


def _peak_mb() -> float:
    """The most memory that this process held. `getrusage` would count its parent's, too."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    peak = next(line for line in lines if line.startswith("VmHWM:"))
    return int(peak.split()[1]) / 1024


if __name__ == "__main__":
    raise SystemExit(main())
