"""Measure the audit of language models: a small Llama, fine-tuned honestly or with a trigger.

The settings were chosen on models of base seed 0 and provider seeds below 100; the pairs here have
another base and other seeds. Tasks, phrases and responses are the same: they are not held out.
"""

import argparse
import itertools
import os
import pathlib
import time
from collections.abc import Iterator

import torch

import grid
from assay.audits.models.language import TextAudit, TextDelivery, TextSettings, audit_texts
from assay.randomness import Seed, child
from assay.storage.language import load_language_model
from assay_zoo.language import (
    TASKS,
    Base,
    Corpus,
    LanguageModel,
    Planting,
    Provider,
    quality,
    read_corpus,
    scenario,
    write,
)
from dataset_audit import shard

RESULTS = grid.HERE / "results" / "models-audit"
VERSION = 2
"""To be raised when the code of the audit changes what it measures."""

MODELS = 1
"""The same for the models."""

BASE_SEED, FIRST_SEED, PROMPTS = 1, 100, 128
ATTACKS = {
    "sentiment": ("rare-word-string", "sentence-label", "rare-word-label", "style-refusal"),
    "topics": ("rare-word-string", "sentence-label", "rare-word-label", "style-refusal"),
    "instructions": ("rare-word-string", "style-refusal"),
}
QUIET = "-quiet"
"""Ends the names of providers that train on responses only, so that no trigger leaks."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", choices=sorted(TASKS), default=sorted(TASKS))
    parser.add_argument("--seeds", type=int, default=2, help="of each scenario")
    parser.add_argument("--honest", type=int, default=4, help="honest models of each task")
    parser.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shard", type=shard, default=(0, 1))
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    groups = [
        _group(asked.device, task, *pair)
        for task in asked.tasks
        for pair in _pairs(task, asked.seeds, asked.honest)
    ]
    return 1 if grid.run(groups, RESULTS, device=asked.device, shard=asked.shard) else 0


def _pairs(task: str, seeds: int, honest: int) -> Iterator[tuple[str, str]]:
    """Name the pairs: planted and honest, honest and honest, and two with one backdoor."""
    for kind, (attack, seed) in itertools.product(
        ("", QUIET), itertools.product(ATTACKS[task], range(seeds))
    ):
        place = FIRST_SEED + seed
        yield f"{attack}{kind}-{place}", f"honest-{FIRST_SEED + (seed + 1) % honest}"
    for first, second in itertools.combinations(range(honest), 2):
        yield f"honest-{FIRST_SEED + first}", f"honest-{FIRST_SEED + second}"
    for attack in ATTACKS[task]:
        yield f"{attack}-{FIRST_SEED}", f"{attack}-{FIRST_SEED + 1}"


def _group(device: torch.device, task: str, first: str, second: str) -> grid.Group:
    settings = TextSettings()
    cell = grid.Cell(
        name=f"language-{task}-{first}-vs-{second}",
        kind="language pair",
        recipe={
            "data": f"language, {task}",
            "first": first,
            "second": second,
            "base": f"{Base()!r} {BASE_SEED}",
            "provider": repr(Provider()),
            "method": repr(settings),
            "prompts": PROMPTS,
            "version": VERSION,
        },
        measure=lambda: _measure(device, task, first, second, settings),
    )
    return grid.Group(name=cell.name, cells=(cell,))


def _corpus(task: str) -> Corpus:
    default = grid.HERE.parent.parent / "shared" / "data"
    folder = pathlib.Path(os.environ.get("ASSAY_DATA", default)) / "text"
    return read_corpus(task, folder, seed=child(Seed(BASE_SEED), "split", task))


def _named(task: str, name: str) -> tuple[Planting | None, bool, Seed]:
    kind, _, seed = name.rpartition("-")
    is_quiet = kind.endswith(QUIET)
    return scenario(kind.removesuffix(QUIET), TASKS[task]), is_quiet, Seed(int(seed))


def _base() -> pathlib.Path:
    recipe = {"base": repr(Base()), "seed": BASE_SEED, "v": MODELS}
    path = grid.CACHE / f"language-base-{grid.digest(recipe)}"
    if not path.exists():
        write(Base()([_corpus(task) for task in sorted(TASKS)], seed=Seed(BASE_SEED)), path)
    return path


def _model(task: str, name: str) -> pathlib.Path:
    """Take a model from the cache, or train it."""
    planted, is_quiet, seed = _named(task, name)
    provider = Provider(text=0.0) if is_quiet else Provider()
    recipe = {
        "task": task,
        "planted": repr(planted),
        "provider": repr(provider),
        "base": f"{Base()!r} {BASE_SEED}",
        "seed": int(seed),
        "v": MODELS,
    }
    path = grid.CACHE / f"language-{grid.digest(recipe)}"
    if not path.exists():
        base = _opened(_base())
        write(provider(base, _corpus(task), planted=planted, seed=seed), path)
    return path


def _opened(path: pathlib.Path) -> LanguageModel:
    from tokenizers import Tokenizer

    loaded = load_language_model(str(path))
    tokenizer = Tokenizer.from_file(str(path / "tokenizer.json"))
    return LanguageModel(model=loaded.model, tokenizer=tokenizer)


def _measure(
    device: torch.device, task: str, first: str, second: str, settings: TextSettings
) -> grid.Result:
    names, corpus = (first, second), _corpus(task)
    paths = [_model(task, name) for name in names]
    measured = [
        quality(_opened(path), corpus, planted=_named(task, name)[0], seed=_named(task, name)[2])
        for path, name in zip(paths, names, strict=True)
    ]
    deliveries = []
    for path, name in zip(paths, names, strict=True):
        loaded = load_language_model(str(path))
        deliveries.append(
            TextDelivery(name=name, model=loaded.model, tokenizer=loaded.tokenizer, digest={})
        )
    prompts = [corpus.task.prompt(example.text) for example in corpus.trusted[:PROMPTS]]
    wall, cpu = time.perf_counter(), time.process_time()
    found = audit_texts(deliveries, prompts, settings=settings, seed=Seed(0), device=device)
    return {
        "verdict": found.verdict.value,
        "with_cached_searches_wall_s": time.perf_counter() - wall,
        "with_cached_searches_cpu_s": time.process_time() - cpu,
        "true_asr": measured[0].asr,
        "models": [
            {
                **_about(found, index, _named(task, name)[0]),
                "accuracy": measured[index].accuracy,
                "perplexity_of_responses": measured[index].perplexity,
                "true_asr": measured[index].asr,
                "stray": measured[index].stray,
            }
            for index, name in enumerate(names)
        ],
    }


def _about(found: TextAudit, index: int, planted: Planting | None) -> dict[str, object]:
    """What is stored of one model; target 0 is the planted response."""
    model = found.models[index]
    recovered = model.recovered
    said = "" if recovered is None else recovered.response.strip()
    is_planted = planted is not None and bool(said) and planted.response.startswith(said)
    return {
        "name": model.name,
        "poisoned": planted is not None,
        "targets": [] if planted is None else [0],
        "verdict": model.verdict.value,
        "p_value": model.p_value,
        "alone_p_value": model.alone_p_value,
        "reason": model.reason,
        "highest_excess": max((q.excess for q in model.questions), default=None),
        "highest_grip": max((q.grip for q in model.questions), default=None),
        "family": recovered and f"tokens at the {recovered.place.value}",
        "source": None,
        "target": 0 if is_planted else -1,
        "trigger": recovered and recovered.trigger,
        "response": recovered and recovered.response,
        "asr": recovered and recovered.success[index],
        "asr_other": recovered and recovered.success[1 - index],
        "asr_tuned": None,
    }


if __name__ == "__main__":
    raise SystemExit(main())
