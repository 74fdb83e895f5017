"""One poisoned data set with its models: what the cells of the dataset audit's grid share."""

import dataclasses
import functools
import os
import pathlib
import time
from typing import Any

import torch
from jaxtyping import Bool, Int64
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from assay.features import logits
from assay.fitting import Feed, Preprocess, Recipe, feed, train
from assay.networks import default_network, resnet
from assay.randomness import Seed, child, isolated
from assay.records import record
from assay.samples import Rows, Samples
from assay.stats import auroc
from assay_zoo.adaptive import CkaMatching
from assay_zoo.data import ENCODER, TEXTS, Split, TextSplit, load
from assay_zoo.networks import NETWORKS as ZOO
from assay_zoo.poison import IGNORED, Attack, Poisoned, TextAttack, attack_success_rate
from assay_zoo.scenarios import SCENARIOS
from assay_zoo.semi_supervised import FixMatch, few_labels
from grid import CACHE, digest

CLEAN = "clean"
"""The scenario without an attack."""

EPOCHS = {"gtsrb": 30}
"""Of data sets with fewer images, so that a model makes as many steps as on 12,000 of them: after
12 epochs of GTSRB, it is right on 60 % of the test signs and hardly learns a trigger; after 30, on
87 %."""

NETWORKS = ("default", "resnet18", *ZOO)


@record
class Case:
    """A data set, an attack and a seed; with them everything random is decided."""

    data: str
    train: int
    trusted: int
    test: int
    scenario: str
    seed: int
    network: str
    training: Recipe
    """How ordinary models are trained."""
    device: torch.device
    matching: bool = False
    """Whether the model is trained to look like an honest one where it is triggered."""
    published: bool = False
    """Whether the attack is as it was published, which wants many images and a large network."""
    labelled: int | None = None
    """Labels of each class that the model is trained with, by FixMatch; None for all of them."""

    @property
    def attack(self) -> Attack | TextAttack | None:
        """The attack, or None for clean data."""
        if self.scenario == CLEAN:
            return None
        scenario = SCENARIOS[self.scenario]
        return scenario.faithful if self.published else scenario.on(self.data)

    @property
    def recipe(self) -> dict[str, Any]:
        """What decides the poisoned data set and the ordinary model."""
        return {
            "data": self.data,
            "train": self.train,
            "trusted": self.trusted,
            "test": self.test,
            "scenario": self.scenario,
            "attack": repr(self.attack),
            "seed": self.seed,
            "network": self.network,
            "training": repr(self.training),
            "device": self.device.type,
            **({"rates": "published"} if self.published else {}),
            **({"matching": repr(CkaMatching())} if self.matching else {}),
            **({"labelled": self.labelled, "semi": repr(FixMatch())} if self.labelled else {}),
            **({"encoder": repr(ENCODER)} if self.data in TEXTS else {}),
        }

    @property
    def digest(self) -> str:
        """Of the recipe."""
        return digest(self.recipe)

    def part(self, name: str) -> Seed:
        """The seed of a named part."""
        return child(Seed(self.seed), name)


def usual(data: str) -> Recipe:
    """How models of a data set are trained, unless the command says otherwise."""
    return Recipe(epochs=EPOCHS.get(data, Recipe().epochs))


@record
class Prepared:
    """What the client gets, and what is true."""

    split: Split
    poisoned: Poisoned
    suspects: Samples
    """The poisoned training set."""


@functools.lru_cache(maxsize=2)
def prepare(case: Case) -> Prepared:
    """Load the data and poison them, or take the poison from the cache."""
    split = load(
        case.data,
        train=case.train,
        trusted=case.trusted,
        test=case.test,
        seed=case.part("split"),
    )
    poisoned = _clean(split) if case.attack is None else _cached_poison(case, case.attack, split)
    suspects = Samples(
        inputs=poisoned.inputs, labels=poisoned.labels, class_names=split.train.class_names
    )
    return Prepared(split=split, poisoned=poisoned, suspects=suspects)


def _clean(split: Split) -> Poisoned:
    nothing = torch.zeros(len(split.train), dtype=torch.bool)
    return Poisoned(
        inputs=split.train.inputs[:],
        labels=split.train.labels,
        is_poison=nothing,
        is_cover=nothing,
        trigger=lambda inputs: inputs,
        goal=lambda labels: torch.full_like(labels, IGNORED),
    )


def _cached_poison(case: Case, attack: Attack | TextAttack, split: Split) -> Poisoned:
    """Poison, and keep the changed rows and the triggered test inputs: some attacks are slow."""
    path = CACHE / f"poison-{case.digest}.safetensors"
    clean = split.train.inputs[:]
    if not path.exists():
        made = _poison if split.texts is None else functools.partial(_poison_texts, split.texts)
        _save(path, made(case, attack, split))
    found = load_file(path)
    inputs = clean.clone()
    inputs[found["rows"]] = found["inputs"]
    return Poisoned(
        inputs=inputs,
        labels=found["labels"],
        is_poison=found["is_poison"],
        is_cover=found["is_cover"],
        trigger=lambda _: found["triggered"],  # of the test inputs that are aimed at
        goal=lambda _: found["goal"],
    )


def _poison(case: Case, attack: Attack, split: Split) -> dict[str, Tensor]:
    made = attack(
        split.train.inputs[:].to(case.device),
        split.train.labels.to(case.device),
        classes=split.train.classes,
        seed=case.part("attack"),
    )
    rows = (made.is_poison | made.is_cover).nonzero().squeeze(1)
    goal = made.goal(split.test.labels.to(case.device))
    aimed = (goal.cpu() != IGNORED) & (goal.cpu() != split.test.labels)
    return {
        "rows": rows,
        "inputs": made.inputs[rows],
        "labels": made.labels,
        "is_poison": made.is_poison,
        "is_cover": made.is_cover,
        "triggered": made.trigger(split.test.inputs[aimed].to(case.device)),
        "goal": goal,
    }


def _poison_texts(
    texts: TextSplit, case: Case, attack: TextAttack, split: Split
) -> dict[str, Tensor]:
    """Poison texts, and encode what changed."""
    made = attack(
        texts.train, split.train.labels, classes=split.train.classes, seed=case.part("attack")
    )
    rows = made.is_poison.nonzero().squeeze(1)
    goal = made.goal(split.test.labels)
    aimed = ((goal != IGNORED) & (goal != split.test.labels)).nonzero().squeeze(1)
    return {
        "rows": rows,
        "inputs": texts.encode([made.texts[row] for row in rows.tolist()]),
        "labels": made.labels,
        "is_poison": made.is_poison,
        "is_cover": torch.zeros_like(made.is_poison),
        "triggered": texts.encode(made.trigger([texts.test[row] for row in aimed.tolist()])),
        "goal": goal,
    }


def untrained(case: Case, samples: Samples) -> nn.Module:
    """Build the network of a case; its weights are drawn from torch's global generator."""
    if case.network == "resnet18":
        channels = samples.inputs.shape[1]
        return resnet(classes=samples.classes, channels=channels, width=64, blocks=(2, 2, 2, 2))
    if case.network in ZOO:
        known = {"size": samples.inputs.shape[-1]} if case.network == "vit" else {}
        channels = samples.inputs.shape[1]
        return ZOO[case.network](classes=samples.classes, channels=channels, **known)
    seed = Seed(int(torch.randint(2**62, ())))
    return default_network(samples.inputs.shape, classes=samples.classes, seed=seed)


@record
class Ordinary:
    """An ordinary model and what its training cost."""

    model: nn.Module
    preprocess: Preprocess
    wall_s: float
    cpu_s: float


def train_ordinary(case: Case, samples: Samples) -> Ordinary:
    """Train the network of a case on samples, by the ordinary recipe."""
    wall, cpu = time.perf_counter(), time.process_time()
    with isolated(case.part("network"), torch.device("cpu")):
        model = untrained(case, samples)
    preprocess = Preprocess.of(samples.inputs)
    data = fed(case, samples.inputs, samples.labels, preprocess)
    if case.matching:
        _match(case, model, data)
    elif case.labelled is not None:
        _teach(case, model, samples, preprocess)
    else:
        train(model, data, case.training, seed=case.part("train"))
    next(model.parameters()).sum().item()  # waits for the device
    return Ordinary(
        model=model,
        preprocess=preprocess,
        wall_s=time.perf_counter() - wall,
        cpu_s=time.process_time() - cpu,
    )


def _match(case: Case, model: nn.Module, data: Feed) -> None:
    """Train the attacker's way; the surrogate is an honest model that no pair holds."""
    prepared = prepare(case)
    rows = prepared.poisoned.is_poison
    samples = prepared.suspects
    triggered = fed(case, samples.inputs[rows], samples.labels[rows], Preprocess.of(samples.inputs))
    honest = dataclasses.replace(case, scenario=CLEAN, seed=case.seed + 100, matching=False)
    surrogate = undefended(honest).model
    CkaMatching()(model, data, triggered, surrogate, case.training, seed=case.part("train"))


def _teach(case: Case, model: nn.Module, samples: Samples, preprocess: Preprocess) -> None:
    """Train with few labels, none of them of a poisoned sample."""
    images = samples.inputs[:].to(case.device)
    labels = few_labels(
        samples.labels,
        ~prepare(case).poisoned.is_poison,
        each=case.labelled or 0,
        seed=case.part("labelled"),
    )
    model.to(case.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    FixMatch()(model, preprocess, images, labels.to(case.device), seed=case.part("train"))


def undefended(case: Case) -> Ordinary:
    """Take the ordinary model of the poisoned data from the cache, or train and keep it."""
    prepared, path = prepare(case), _model_path(case)
    if not path.exists():
        return keep(case, train_ordinary(case, prepared.suspects))
    model = untrained(case, prepared.suspects)
    model.load_state_dict(load_file(path))
    model.to(case.device).to(memory_format=torch.channels_last)
    preprocess = Preprocess.of(prepared.suspects.inputs)
    return Ordinary(model=model, preprocess=preprocess, wall_s=0.0, cpu_s=0.0)


def keep(case: Case, trained: Ordinary) -> Ordinary:
    """Keep the ordinary model of the poisoned data in the cache."""
    _save(_model_path(case), dict(trained.model.state_dict()))
    return trained


def accuracy_and_asr(case: Case, trained: Ordinary) -> dict[str, float | None]:
    """Measure a model on the test samples, as they are and triggered; both in [0, 1]."""
    prepared = prepare(case)
    test, poisoned = prepared.split.test, prepared.poisoned

    def predict(inputs: Tensor) -> Int64[Tensor, " batch"]:
        labels = torch.zeros(len(inputs), dtype=torch.int64)
        data = fed(case, inputs, labels, trained.preprocess)
        return logits(trained.model, data).argmax(1).cpu()

    right = (predict(test.inputs[:]) == test.labels).double().mean().item()
    asr = None
    if case.attack is not None:
        asr = attack_success_rate(predict, poisoned, test.inputs[:], test.labels)
    return {"accuracy": right, "asr": asr}


def rates(
    poisoned: Poisoned,
    flagged: Bool[Tensor, " samples"],
    scores: Tensor | None,
    examined: Bool[Tensor, " samples"],
) -> dict[str, float | int | None]:
    """Compare flags and scores of the examined samples with the truth.

    Cover samples count neither as poison nor as clean.
    """
    poison, cover = poisoned.is_poison & examined, poisoned.is_cover & examined
    clean = examined & ~poisoned.is_poison & ~poisoned.is_cover
    judged = poison | clean
    ranked = scores is not None and bool(poison.any()) and bool(clean.any())
    return {
        "tpr": _share(flagged[poison]),
        "fpr": _share(flagged[clean]),
        "cover_flagged": _share(flagged[cover]),
        "auroc": auroc(scores[judged], poison[judged]) if ranked else None,
        "poison": int(poison.sum()),
        "cover": int(cover.sum()),
        "flagged": int((flagged & examined).sum()),
    }


def fed(case: Case, inputs: Rows, labels: Tensor, preprocess: Preprocess) -> Feed:
    """Feed inputs to the device of a case."""
    return feed(inputs, labels, preprocess=preprocess, device=case.device)


def _share(flags: Bool[Tensor, " some"]) -> float | None:
    return flags.double().mean().item() if len(flags) else None


def _model_path(case: Case) -> pathlib.Path:
    return CACHE / f"model-{case.digest}.safetensors"


def _save(path: pathlib.Path, tensors: dict[str, Tensor]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")  # others may make the same
    save_file({name: value.cpu().contiguous() for name, value in tensors.items()}, partial)
    partial.replace(path)
