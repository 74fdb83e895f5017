"""Time the prompts audit beside the published method, on 10 to 1,000 classes.

Time does not depend on the weights, so the CLIP and its prompts are untrained: with the geometry of
ViT-B/16, for an accelerator, or with that of the zoo's small CLIP. The published method searches
one class after the other, each in the same way: a few are timed, and stand for all.
"""

import argparse
import time
from collections.abc import Mapping
from typing import Any

import torch
import transformers

import grid
from assay.audits.prompts import (
    Preflight,
    PromptsSettings,
    PublishedInspection,
    audit_prompts,
    deliver,
)
from assay.errors import InputError
from assay.fitting import answers
from assay.prompting import Backbone, Prompted
from assay.randomness import Seed
from assay_zoo.prompting import fresh, small_clip
from dataset_audit import shard

RESULTS = grid.HERE / "results" / "prompts-cost"
VIT_B_16, SMALL = "vit-b-16", "small"
SETTINGS = PromptsSettings(preflight=Preflight(most_alike=1.0))
"""The defaults, but what an untrained CLIP says of the pool is not looked at."""


def main() -> int:
    asked = _parser().parse_args()
    torch.set_num_threads(asked.threads)
    groups = [
        _group(asked, learner, classes) for classes in asked.classes for learner in asked.learners
    ]
    failed = grid.run(groups, RESULTS, device=asked.device, shard=asked.shard)
    for cell in sorted(grid.read_all(RESULTS), key=_place):
        print(_line(cell))
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--geometry", choices=(VIT_B_16, SMALL), default=VIT_B_16)
    add("--learners", type=lambda text: text.split(","), default=["coop", "cocoop"])
    add("--classes", type=lambda text: [int(c) for c in text.split(",")], default=[50, 10, 200])
    add("--timed", type=int, default=2, help="classes that the published method is timed on")
    add("--device", type=torch.device, default=torch.device("cpu"))
    add("--threads", type=int, default=2)
    add("--shard", type=shard, default=(0, 1), help="such as 0/2: the first of two processes")
    return parser


def _group(asked: argparse.Namespace, learner: str, classes: int) -> grid.Group:
    cell = grid.Cell(
        name=f"prompts-cost-{asked.geometry}-{learner}-{classes}",
        kind=f"prompts cost {asked.geometry} {learner}",
        recipe={
            "geometry": asked.geometry,
            "learner": learner,
            "classes": classes,
            "timed": asked.timed,
            "threads": asked.threads,
            "device": asked.device.type,
            "method": repr(SETTINGS),
            "published": repr(PublishedInspection()),
            "version": 2,
        },
        measure=lambda: _measure(asked, learner, classes),
    )
    return grid.Group(name=cell.name, cells=(cell,))


def _measure(asked: argparse.Namespace, learner: str, classes: int) -> grid.Result:
    backbone = (small_clip() if asked.geometry == SMALL else vit_b_16()).to(asked.device)
    names = [f"object {i}" for i in range(classes)]
    prompted = Prompted(backbone, fresh(learner, backbone, classes=classes, seed=Seed(0)), names)
    prompted.eval().requires_grad_(requires_grad=False)
    random = torch.Generator().manual_seed(0)
    shape = (SETTINGS.most_images, 3, backbone.size, backbone.size)
    pool = torch.randint(256, shape, generator=random, dtype=torch.uint8)
    images = pool.to(asked.device).float() / 255
    answers(prompted, images[:8], batch=8)  # warm; both methods end with results on the CPU
    published = time.perf_counter()
    PublishedInspection()(prompted, images, classes=min(asked.timed, classes), seed=Seed(0))
    began = time.perf_counter()
    audit = audit_prompts(
        deliver(prompted), names, {"noise": pool},
        settings=SETTINGS, seed=Seed(0), device=asked.device,
    )  # fmt: skip
    ended = time.perf_counter()
    if not audit.questions:
        raise InputError(f"expected a search, got {audit.findings.reasons}")
    every = (began - published) * classes / min(asked.timed, classes)
    return {
        "wall_s": ended - began,
        "searched": len({question.target for question in audit.questions}),
        "published_wall_s": every,
        "ratio": every / (ended - began),
    }


def vit_b_16() -> Backbone:
    """Make an untrained CLIP with the geometry of ViT-B/16 that reads the small one's tokens."""
    images = {"patch_size": 16}  # the rest of the defaults is ViT-B/32, and its text encoder
    small = small_clip()
    return Backbone(
        transformers.CLIPModel(transformers.CLIPConfig(vision_config=images)),
        small.encode,
        start=small.start,
        end=small.end,
        mean=small.mean.flatten().tolist(),
        std=small.std.flatten().tolist(),
    )


def _place(cell: Mapping[str, Any]) -> tuple[str, str, str, int]:
    recipe = cell["recipe"]
    return recipe["device"], recipe["geometry"], recipe["learner"], recipe["classes"]


def _line(cell: Mapping[str, Any]) -> str:
    device, geometry, learner, classes = _place(cell)
    found = cell["result"]
    return (
        f"{device} {geometry:8} {learner:12} {classes:5} classes ({found['searched']} searched): "
        f"{found['wall_s']:8.1f} s, as published {found['published_wall_s']:8.1f} s, "
        f"{found['ratio']:.1f} times as long"
    )


if __name__ == "__main__":
    raise SystemExit(main())
