"""Measure how the search of the models audit grows with the number of classes.

Time does not depend on the weights, so the networks are untrained and the labels made up.
"""

import argparse
import time

import torch

import grid
from assay.audits.models import Delivery, ModelsSettings
from assay.audits.models.respond import examined
from assay.audits.models.survey import survey
from assay.fitting import Preprocess
from assay.networks import resnet
from assay.randomness import Seed
from assay.results import Forgetful
from assay.triggers import Pool
from dataset_audit import shard

RESULTS = grid.HERE / "results" / "models-cost"
CLASSES = (10, 43, 200, 1000)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--shard", type=shard, default=(0, 1))
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    groups = [_group(asked.device, asked.threads, classes) for classes in CLASSES]
    failed = grid.run(groups, RESULTS, device=asked.device, shard=asked.shard)
    cells = [cell.path(RESULTS) for group in groups for cell in group.cells]
    there = [grid.read(path) for path in cells if path.exists()]
    found = {cell["recipe"]["classes"]: cell["result"]["wall_s"] for cell in there}
    for classes, seconds in found.items():
        ratio = seconds / min(found.values())
        print(f"{classes:5} classes: {seconds:6.1f} s, {ratio:.2f} of the least")
    return 1 if failed else 0


def _group(device: torch.device, threads: int, classes: int) -> grid.Group:
    settings = ModelsSettings()
    cell = grid.Cell(
        name=f"models-cost-{classes}",
        kind="models cost",
        recipe={
            "classes": classes,
            "threads": threads,
            "device": device.type,
            "method": repr((settings.kinds, settings.elimination)),
        },
        measure=lambda: _measure(device, classes, settings),
    )
    return grid.Group(name=cell.name, cells=(cell,))


def _measure(device: torch.device, classes: int, settings: ModelsSettings) -> grid.Result:
    random = torch.Generator().manual_seed(0)
    images = torch.rand(2000, 3, 32, 32, generator=random).to(device)
    labels = (torch.arange(1000) % classes).to(device)
    searched, held = (Pool(images=part, labels=labels) for part in images.split(1000))
    plain = Preprocess(mean=(0.5,) * 3, std=(0.25,) * 3)
    models = [
        examined(
            Delivery(name=str(i), model=resnet(classes=classes), preprocess=plain, digest={}),
            images,
        )
        for i in range(2)
    ]
    started = time.perf_counter()
    found = [
        survey(
            kind,
            models,
            searched,
            held,
            classes,
            elimination=settings.elimination,
            seed=Seed(0),
            store=Forgetful(),
            done=lambda: None,
        )
        for kind in settings.kinds
    ]
    # with many classes, too few samples of each are left to ask about single source classes
    asked = sum(each.asked for each in found if each is not None)
    return {"wall_s": time.perf_counter() - started, "asked": asked}


if __name__ == "__main__":
    raise SystemExit(main())
