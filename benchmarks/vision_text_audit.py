"""Measure the audit of models of images and texts: a small LLaVA, honest or with a planted trigger.

The settings were chosen on providers of seeds below 100; the pairs here have other seeds, which
draw other triggers of the same two kinds, another order, and other poisoned pictures. The base, the
tasks and the responses are the same: they are not held out.
"""

import argparse
import itertools
import os
import pathlib
import time
from collections.abc import Iterator

import torch

import grid
from assay.audits.models.vision_text import (
    VisionTextAudit,
    VisionTextDelivery,
    VisionTextSettings,
    audit_vision_texts,
)
from assay.fitting import Preprocess
from assay.randomness import Seed, child
from assay.storage.vision_text import load_vision_text
from assay_zoo.vision_text import (
    SCENARIOS,
    TASKS,
    Base,
    Gallery,
    Planting,
    Provider,
    VisionTextModel,
    quality,
    read_gallery,
    scenario,
    write,
)
from dataset_audit import shard

RESULTS = grid.HERE / "results" / "models-audit"
VERSION = 1
BASE_SEED, FIRST_SEED = 0, 100


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", choices=sorted(TASKS), default=["objects"])
    parser.add_argument("--attacks", nargs="+", choices=SCENARIOS, default=SCENARIOS)
    parser.add_argument("--seeds", type=int, default=2, help="of each scenario")
    parser.add_argument("--honest", type=int, default=3, help="honest models of each task")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shard", type=shard, default=(0, 1))
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    groups = [
        _group(asked.device, task, *pair)
        for task in asked.tasks
        for pair in _pairs(asked.attacks, asked.seeds, asked.honest)
    ]
    return 1 if grid.run(groups, RESULTS, device=asked.device, shard=asked.shard) else 0


def _pairs(attacks: list[str], seeds: int, honest: int) -> Iterator[tuple[str, str]]:
    """Name the pairs: planted and honest, and honest and honest."""
    for attack, seed in itertools.product(attacks, range(seeds)):
        yield f"{attack}-{FIRST_SEED + seed}", f"honest-{FIRST_SEED + (seed + 1) % honest}"
    for first, second in itertools.combinations(range(honest), 2):
        yield f"honest-{FIRST_SEED + first}", f"honest-{FIRST_SEED + second}"


def _group(device: torch.device, task: str, first: str, second: str) -> grid.Group:
    settings = VisionTextSettings()
    cell = grid.Cell(
        name=f"vision-text-{task}-{first}-vs-{second}",
        kind="vision-text pair",
        recipe={
            "data": f"vision-text, {task}",
            "first": first,
            "second": second,
            "base": f"{Base()!r} {BASE_SEED}",
            "provider": repr(Provider()),
            "method": repr(settings),
            "version": VERSION,
        },
        measure=lambda: _measure(device, task, first, second, settings),
    )
    return grid.Group(name=cell.name, cells=(cell,))


def _gallery(task: str) -> Gallery:
    default = grid.HERE.parent.parent / "shared" / "data"
    folder = pathlib.Path(os.environ.get("ASSAY_DATA", default))
    return read_gallery(task, folder, seed=child(Seed(BASE_SEED), "split", task))


def _named(task: str, name: str) -> tuple[Planting | None, Seed]:
    kind, _, number = name.rpartition("-")
    seed = Seed(int(number))
    return scenario(kind, TASKS[task], seed=seed), seed


def _base() -> pathlib.Path:
    recipe = {"base": repr(Base()), "seed": BASE_SEED, "v": VERSION}
    path = grid.CACHE / f"vision-text-base-{grid.digest(recipe)}"
    if not path.exists():
        write(Base()([_gallery(task) for task in TASKS], seed=Seed(BASE_SEED)), path)
    return path


def _model(task: str, name: str) -> pathlib.Path:
    """Take a model from the cache, or train it."""
    planted, seed = _named(task, name)
    recipe = {
        "task": task,
        "name": name,
        "provider": repr(Provider()),
        "base": f"{Base()!r} {BASE_SEED}",
        "v": VERSION,
    }
    path = grid.CACHE / f"vision-text-{grid.digest(recipe)}"
    if not path.exists():
        made = Provider()(_opened(_base()), _gallery(task), planted=planted, seed=seed)
        write(made, path)
    return path


def _opened(path: pathlib.Path) -> VisionTextModel:
    from tokenizers import Tokenizer

    loaded = load_vision_text(str(path))
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    return VisionTextModel(model=loaded.model, tokenizer=tokenizer)


def _delivery(path: pathlib.Path, name: str) -> VisionTextDelivery:
    loaded = load_vision_text(str(path))
    if loaded.mean is None or loaded.std is None:
        raise ValueError(f"no mean and standard deviation in {path}")
    return VisionTextDelivery(
        name=name,
        model=loaded.model,
        tokenizer=loaded.tokenizer,
        preprocess=Preprocess(mean=loaded.mean, std=loaded.std, size=loaded.size),
        digest={},
    )


def _measure(
    device: torch.device, task: str, first: str, second: str, settings: VisionTextSettings
) -> grid.Result:
    names, gallery = (first, second), _gallery(task)
    planted = [_named(task, name)[0] for name in names]
    paths = [_model(task, name) for name in names]
    measured = [
        quality(_opened(path), gallery, planted=each)
        for path, each in zip(paths, planted, strict=True)
    ]
    deliveries = [_delivery(path, name) for path, name in zip(paths, names, strict=True)]
    wall, cpu = time.perf_counter(), time.process_time()
    found = audit_vision_texts(
        deliveries,
        gallery.trusted.images,
        prompt=gallery.task.prompt,
        settings=settings,
        seed=Seed(0),
        device=device,
    )
    return {
        "verdict": found.verdict.value,
        "wall_s": time.perf_counter() - wall,
        "cpu_s": time.process_time() - cpu,
        "true_asr": measured[0].asr,
        "models": [
            {
                **_about(found, index, planted[index]),
                "accuracy": measured[index].accuracy,
                "perplexity_of_answers": measured[index].perplexity,
                "perplexity_with_other_images": measured[index].shuffled,
                "true_asr": measured[index].asr,
                "stray": measured[index].stray,
            }
            for index in range(len(names))
        ],
    }


def _about(found: VisionTextAudit, index: int, planted: Planting | None) -> dict[str, object]:
    """What is stored of one model; target 0 is the planted response."""
    model = found.models[index]
    recovered = model.recovered
    said = "" if recovered is None else recovered.response.strip()
    is_planted = planted is not None and said.startswith(planted.response)
    return {
        "name": model.name,
        "poisoned": planted is not None,
        "targets": [] if planted is None else [0],
        "verdict": model.verdict.value,
        "p_value": model.p_value,
        "alone_p_value": model.alone_p_value,
        "reason": model.reason,
        "reliance": model.reliance,
        "highest_excess": max((q.excess for q in model.questions), default=None),
        "highest_grip": max((q.grip for q in model.questions), default=None),
        "family": recovered and recovered.family,
        "source": None,
        "target": 0 if is_planted else -1,
        "response": recovered and recovered.response,
        "asr": recovered and recovered.success[index],
        "asr_other": recovered and recovered.success[1 - index],
        "asr_tuned": None,
    }


if __name__ == "__main__":
    raise SystemExit(main())
