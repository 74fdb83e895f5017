"""Measure what comparing and judging replicated sub-runs costs the client.

Time and memory do not depend on what the weights are, so they are drawn by chance. A comparison
runs in a process of its own, on files that are read as the client's run reads them.
"""

import argparse
import itertools
import json
import pathlib
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import grid
from assay.audits.training import Comparison, Delivery, compare, judge_training
from assay.providers.weights import digest_weights
from assay.randomness import Seed, child, generator
from dataset_audit import shard

RESULTS = grid.HERE / "results" / "training-cost"
CPU = torch.device("cpu")
VERSION = 2

COMPARED = (
    *((4, parameters) for parameters in (1_000_000, 10_000_000, 100_000_000)),
    *((providers, 10_000_000) for providers in (2, 8, 16)),
)
"""Providers and parameters of a sub-run that is compared."""
JUDGED = (*((4, m) for m in (1, 4, 16, 64)), *((n, 4) for n in (8, 16, 32)))
"""Providers and replicated sub-runs of a training that is judged."""

_LAYER = 2**22  # parameters of a layer, at most: of such size are those of a ViT-B


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shard", type=shard, default=(0, 1))
    parser.add_argument("--in-process", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    if asked.in_process:
        folder, providers, parameters = asked.in_process
        print(json.dumps(_compared(pathlib.Path(folder), int(providers), int(parameters))))
        return 0
    cells = [
        *(_compared_cell(*each, asked.threads) for each in COMPARED),
        *(_judged_cell(*each, asked.threads) for each in JUDGED),
    ]
    groups = [grid.Group(name=cell.name, cells=(cell,)) for cell in cells]
    failed = grid.run(groups, RESULTS, device=CPU, shard=asked.shard)
    for cell in cells:
        if cell.path(RESULTS).exists():
            print(cell.name, grid.brief(grid.read(cell.path(RESULTS))["result"]))
    return 1 if failed else 0


def _compared_cell(providers: int, parameters: int, threads: int) -> grid.Cell:
    return grid.Cell(
        name=f"compare-{providers}-{parameters}",
        kind=f"compare {parameters}",
        recipe={
            "what": "compare",
            "providers": providers,
            "parameters": parameters,
            "threads": threads,
            "version": VERSION,
        },
        measure=lambda: _apart(providers, parameters, threads),
    )


def _apart(providers: int, parameters: int, threads: int) -> grid.Result:
    """Write what came, and compare it in a process that tells its peak."""
    with tempfile.TemporaryDirectory(dir=grid.CACHE) as folder:
        for place in range(providers + 1):
            save_file(dict(_weights(parameters, place)), f"{folder}/{place}.safetensors")
        done = subprocess.run(  # noqa: S603
            [
                *(sys.executable, __file__, "--threads", str(threads), "--in-process"),
                *(folder, str(providers), str(parameters)),
            ],
            capture_output=True,
            text=True,
            check=True,
        )
        return json.loads(done.stdout)


def _weights(parameters: int, place: int) -> Iterator[tuple[str, Tensor]]:
    """Draw layers; those of ends are near those of the start."""
    for layer, first in enumerate(range(0, parameters, _LAYER)):
        count = min(_LAYER, parameters - first)
        drawn = torch.randn(
            count // 100, 100, generator=generator(child(Seed(0), "start", layer), CPU)
        )
        if place:
            own = generator(child(Seed(place), "end", layer), CPU)
            drawn += 1e-3 * torch.randn(drawn.shape, generator=own)
        yield f"layer-{layer}", drawn


def _compared(folder: pathlib.Path, providers: int, parameters: int) -> grid.Result:
    peak, before = _Peak(), _memory_mb()
    with peak:
        started = time.perf_counter()
        start, *ends = (load_file(folder / f"{p}.safetensors") for p in range(providers + 1))
        for end in ends:
            digest_weights(end)
        hashed = time.perf_counter() - started
        named = {f"provider-{place}": end for place, end in enumerate(ends)}
        compare(start, named, sub_run=0, network=None, probes=None)
        compared = time.perf_counter() - started - hashed
    return {
        "load_and_hash_s": hashed,
        "compare_s": compared,
        "weights_mb": 4 * parameters * (providers + 1) / 2**20,
        "one_delivery_mb": 4 * parameters / 2**20,
        "own_memory_mb": peak.highest - before,
    }


class _Peak:
    """The most memory that a process held by itself: pages of mapped files do not count."""

    def __init__(self) -> None:
        self.highest = 0.0
        self._ended = threading.Event()
        self._watch = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._ended.wait(0.02):
            self.highest = max(self.highest, _memory_mb())

    def __enter__(self) -> None:
        self._watch.start()

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._watch.join()


def _memory_mb() -> float:
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 2**10


def _judged_cell(providers: int, sub_runs: int, threads: int) -> grid.Cell:
    return grid.Cell(
        name=f"judge-{providers}-{sub_runs}",
        kind="judge",
        recipe={
            "what": "judge",
            "providers": providers,
            "sub_runs": sub_runs,
            "threads": threads,
            "version": VERSION,
        },
        measure=lambda: _judged(providers, sub_runs),
    )


def _judged(providers: int, sub_runs: int) -> grid.Result:
    """Judge trainings with one provider who deviates, by the statistical tier."""
    names = [f"provider-{place:02}" for place in range(providers)]
    random = generator(Seed(0), CPU)
    comparisons = [
        Comparison(
            sub_run=index,
            providers=tuple(names),
            distances={name: _distances(providers, random) for name in ("layers", "update")},
        )
        for index in range(sub_runs)
    ]
    deliveries = [
        Delivery(
            provider=name,
            sub_run=index,
            replicated=True,
            environment="one",
            digest=f"{place:032x}{index:032x}",
            fault=None,
        )
        for index, (place, name) in itertools.product(range(sub_runs), enumerate(names))
    ]
    started = time.perf_counter()
    found = judge_training(deliveries, comparisons, profile=None)
    return {
        "judge_s": time.perf_counter() - started,
        "flagged": [p.name for p in found.providers if p.verdict.value == "flagged"],
    }


def _distances(providers: int, random: torch.Generator) -> Tensor:
    """Honest ones about 0.02 apart; the first one 0.5 from them all."""
    drawn = torch.randn(providers, providers, generator=random, dtype=torch.float64)
    apart = 0.02 * (0.1 * drawn).exp()
    apart[0] = 0.5
    apart = apart.triu(1)
    return apart + apart.T


if __name__ == "__main__":
    raise SystemExit(main())
