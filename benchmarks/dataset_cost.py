"""Measure what the dataset audit costs beside one ordinary training of the same network.

Against the number of samples and of classes. Both are timed in one process, so that the machine
matters little for their ratio. Images are poisoned, so that flagged classes are looked at twice;
rows are made up, because no data set at hand has 1,000 classes.
"""

import argparse
import itertools
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

import grid
from assay.audits.dataset import DatasetSettings, audit_dataset
from assay.fitting import Recipe
from assay.randomness import Seed, child, generator
from assay.records import record
from assay.samples import Samples
from assay_zoo.attacks import BadNets
from assay_zoo.data import load
from dataset_audit import shard
from experiment import CLEAN, Case, train_ordinary, untrained

RESULTS = grid.HERE / "results" / "dataset-cost"

VERSION = 1
"""To be raised when the code changes what is measured."""

ATTACK = BadNets(poison_rate=0.01)

ROWS = "rows"
DIMS = 64
"""Columns of made-up rows."""

MOST = {"cifar10": 20_000}
"""Training images at hand; of more, the rest are repeated."""

WARM_UP = 512
"""Samples of a first training that is not timed: devices and libraries start slowly."""


@record
class Size:
    """How much is audited."""

    data: str
    samples: int
    classes: int
    trusted: int
    network: str = "default"

    @property
    def name(self) -> str:
        """Readable, for file names and the command line."""
        named = "" if self.network == "default" else f"-{self.network}"
        return f"{self.data}-{self.samples}-{self.classes}{named}"


SERIES = {
    "samples of Fashion-MNIST": tuple(
        Size(data="fashion-mnist", samples=samples, classes=10, trusted=2_000)
        for samples in (5_000, 10_000, 20_000, 50_000)
    ),
    "classes of images": (
        Size(data="fashion-mnist", samples=5_000, classes=2, trusted=2_000),
        Size(data="fashion-mnist", samples=5_000, classes=10, trusted=2_000),
        Size(data="gtsrb", samples=5_000, classes=43, trusted=1_290),
    ),
    "classes of rows": tuple(
        Size(data=ROWS, samples=20_000, classes=classes, trusted=4_000)
        for classes in (10, 100, 1_000)
    ),
    "samples of CIFAR-10, with ResNet-18 (for an accelerator)": tuple(
        Size(data="cifar10", samples=samples, classes=10, trusted=2_000, network="resnet18")
        for samples in (10_000, 50_000)
    ),
}
"""What grows in each; 5,000 images of ten classes stand in two of them, and are measured once."""

LARGE = [size.name for size in SERIES["samples of CIFAR-10, with ResNet-18 (for an accelerator)"]]

SIZES = {size.name: size for size in itertools.chain(*SERIES.values())}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    small = [name for name in SIZES if name not in LARGE]
    add("--only", nargs="+", choices=SIZES, default=small, help="sizes; default: all but ResNet-18")
    add("--device", type=torch.device, default=torch.device("cpu"))
    add("--threads", type=int, default=1)
    add("--shard", type=shard, default=(0, 1), help="such as 0/2: the first of two processes")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    cells = [_cell(SIZES[name], asked.device, asked.threads) for name in asked.only]
    groups = [grid.Group(name=cell.name, cells=(cell,)) for cell in cells]
    failed = grid.run(groups, RESULTS, device=asked.device, shard=asked.shard)
    print(table(stored(asked.device, asked.threads)))
    return 1 if failed else 0


def stored(device: torch.device, threads: int) -> dict[str, Mapping[str, Any]]:
    """Read what is measured under the present settings, by the names of the sizes."""
    paths = {name: _cell(size, device, threads).path(RESULTS) for name, size in SIZES.items()}
    return {name: grid.read(path) for name, path in paths.items() if path.exists()}


def _cell(size: Size, device: torch.device, threads: int) -> grid.Cell:
    return grid.Cell(
        name=f"dataset-cost-{size.name}",
        kind=f"dataset cost of {size.samples} {size.data}",
        recipe={
            "data": size.data,
            "samples": size.samples,
            "classes": size.classes,
            "trusted": size.trusted,
            "attack": None if size.data == ROWS else repr(ATTACK),
            "training": repr(Recipe()),
            "method": repr(DatasetSettings()),
            "threads": threads,
            "device": device.type,
            "version": VERSION,
            **({"network": size.network} if size.network != "default" else {}),
        },
        measure=lambda: _measure(size, device),
    )


def _measure(size: Size, device: torch.device) -> grid.Result:
    suspects, trusted = sized(size)
    case = Case(
        data=size.data,
        train=size.samples,
        trusted=size.trusted,
        test=0,
        scenario=CLEAN,
        seed=0,
        network=size.network,
        training=Recipe(),
        device=device,
    )
    train_ordinary(case, suspects.subset(torch.arange(WARM_UP)))
    ordinary = train_ordinary(case, suspects)
    wall, cpu = time.perf_counter(), time.process_time()
    found = audit_dataset(
        suspects,
        trusted,
        network=lambda: untrained(case, suspects),
        seed=case.part("audit"),
        device=device,
    )
    return {
        "audit_wall_s": time.perf_counter() - wall,
        "audit_cpu_s": time.process_time() - cpu,
        "audit_passes": found.sample_passes,
        "train_wall_s": ordinary.wall_s,
        "train_cpu_s": ordinary.cpu_s,
        "train_passes": case.training.epochs * size.samples,
        "verdict": found.verdict.value,
        "flagged": len(found.flagged),
    }


def sized(size: Size) -> tuple[Samples, Samples]:
    """Return suspects and trusted samples of the first so many classes."""
    if size.data == ROWS:
        return _made_up(size)
    known = len(load(size.data, train=1, trusted=1, test=0, seed=Seed(0)).train.class_names)
    wanted = size.samples * known // size.classes
    split = load(
        size.data,
        train=min(wanted, MOST.get(size.data, wanted)),
        trusted=size.trusted * known // size.classes,
        test=0,
        seed=Seed(0),
    )
    rows = torch.arange(wanted) % len(split.train)  # again from the start, where there are fewer
    clean = _first(split.train.subset(rows), size.classes)
    poisoned = ATTACK(clean.inputs[:], clean.labels, classes=size.classes, seed=Seed(0))
    suspects = Samples(
        inputs=poisoned.inputs, labels=poisoned.labels, class_names=clean.class_names
    )
    return suspects, _first(split.trusted, size.classes)


def _first(samples: Samples, classes: int) -> Samples:
    kept = samples.subset((samples.labels < classes).nonzero().squeeze(1))
    return Samples(
        inputs=kept.inputs, labels=kept.labels, class_names=samples.class_names[:classes]
    )


def _made_up(size: Size) -> tuple[Samples, Samples]:
    """Draw a round cloud of rows a class."""
    random = generator(child(Seed(0), size.name), torch.device("cpu"))
    middles = torch.randn(size.classes, DIMS, generator=random)

    def drawn(count: int) -> Samples:
        labels = torch.arange(count) % size.classes
        return Samples(
            inputs=middles[labels] + torch.randn(count, DIMS, generator=random) / 2,
            labels=labels,
            class_names=tuple(str(label) for label in range(size.classes)),
        )

    return drawn(size.samples), drawn(size.trusted)


def table(cells: Mapping[str, Mapping[str, Any]]) -> str:
    """Render what is measured, by the names of the sizes: times, ratios, and how they grow."""
    lines = []
    for title, sizes in SERIES.items():
        there = [(size, cells[size.name]) for size in sizes if size.name in cells]
        if there:
            lines += [f"Against {title}:", _HEAD, *(_row(*each) for each in there)]
        if len(there) > 1:
            lines.append(_growth(there))
    return "\n".join(lines)


_HEAD = (
    "data           samples classes  training, s  audit, s  ratio  ratio of passes  "
    "audit, ms a sample  verdict"
)

_Measured = tuple[Size, Mapping[str, Any]]


def _row(size: Size, cell: Mapping[str, Any]) -> str:
    result = cell["result"]
    training, audit = _seconds(cell)
    passes = result["audit_passes"] / result["train_passes"]
    return (
        f"{size.data:<14} {size.samples:7,} {size.classes:7,} {training:12.1f} {audit:9.1f} "
        f"{audit / training:6.2f} {passes:16.2f} {1000 * audit / size.samples:19.2f}  "
        f"{result['verdict']}"
    )


def _growth(measured: Sequence[_Measured]) -> str:
    """Compare the last with the first of a series."""
    (small, first), (large, last) = measured[0], measured[-1]
    times = [after / before for before, after in zip(_seconds(first), _seconds(last), strict=True)]
    return (
        f"{large.samples / small.samples:g} times the samples and "
        f"{large.classes / small.classes:g} times the classes: {times[0]:.2f} times the training, "
        f"{times[1]:.2f} times the audit\n"
    )


def _seconds(cell: Mapping[str, Any]) -> tuple[float, float]:
    """Of the training and of the audit: processor time on a CPU, wall time elsewhere."""
    clock = "cpu" if cell["recipe"]["device"] == "cpu" else "wall"
    return cell["result"][f"train_{clock}_s"], cell["result"][f"audit_{clock}_s"]


if __name__ == "__main__":
    raise SystemExit(main())
