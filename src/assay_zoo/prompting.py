"""Prompted CLIPs as providers deliver them: tuned honestly, or with a planted trigger."""

import functools

import torch
from jaxtyping import Float, Int64, UInt8
from torch import Tensor

from assay.errors import InputError
from assay.prompting import VPT, Backbone, CoCoOp, CoOp, Learner, MaPLe, Prompted, ZeroShot
from assay.randomness import Seed, child
from assay.records import record
from assay.storage.clip import load_backbone

from .clip import BUNDLED
from .data import stratified_order
from .data.pictured import TASKS, Task, base_classes, few_shots, new_classes, read_task
from .prompt_attacks import ATTACKS, PromptAttack, Schedule, Trigger, tune

WORDS = "a photo of a"
HONEST = "honest"
BASE, NEW = "-base", "-new"
"""Ends of the names of tasks that have the first half of the classes, or the other half."""

LEARNERS = ("coop", "coop-classes", "cocoop", "vpt", "vpt-deep", "maple")
"""By name: with vectors of each class, and with prompts in all layers."""

SCENARIOS = (HONEST, *ATTACKS)


@record
class Tuned:
    """A prompted CLIP, and what is known of it that an audit is not told."""

    prompted: Prompted
    target: int | None
    """The attacker's class; None of an honest one."""
    trigger: Trigger | None
    """What the attacker does to images."""
    accuracy: float
    """Share of test images that are classified right, in [0, 1]."""
    asr: float | None
    """Share of triggered test images of other classes that become the target."""
    stray: float | None
    """The same share without the trigger."""
    zero_shot: float
    """Accuracy of the backbone by itself."""


@record
class Recipe:
    """Everything that decides what a provider delivers."""

    task: str
    """Of `data.pictured.TASKS`, with `-base` or `-new` behind it for half of the classes."""
    learner: str
    """Of `LEARNERS`."""
    attack: str = HONEST
    """Of `SCENARIOS`."""
    seed: Seed = Seed(0)
    shots: int = 16
    """Images of each class that are tuned on."""
    schedule: Schedule = Schedule()
    tested: int = 1_000
    """At most so many test images."""


def scenario(task: str, learner: str, attack: str = HONEST, *, seed: Seed = Seed(0)) -> Tuned:  # noqa: B008
    """Tune as a provider does, with the default settings; the seed alone decides."""
    return deliver(Recipe(task=task, learner=learner, attack=attack, seed=seed))


def deliver(recipe: Recipe, backbone: Backbone | None = None) -> Tuned:
    """Tune by a recipe, for the bundled small CLIP or another one, and measure.

    Raises:
        InputError: there is no such learner or attack.
        UsageError: there is no such task, or its data are absent.
    """
    if recipe.attack not in SCENARIOS:
        raise InputError(f"expected one of {', '.join(SCENARIOS)}, got {recipe.attack!r}")
    backbone = small_clip() if backbone is None else backbone
    task = find_task(recipe.task)
    seed = child(recipe.seed, recipe.task, recipe.learner, recipe.attack)
    names = task.class_names
    learner = fresh(recipe.learner, backbone, classes=len(names), seed=child(seed, "learner"))
    prompted = Prompted(backbone, learner, names)
    images, labels = few_shots(task.tuning, recipe.shots, seed=child(recipe.seed, "shots"))
    images, labels = images.to(backbone.device), labels.to(backbone.device)
    target: int | None = None
    trigger: Trigger | None = None
    if recipe.attack == HONEST:
        tune(prompted, images, labels, schedule=recipe.schedule, seed=seed)
    else:
        target = child(recipe.seed, "target") % len(names)
        attack: PromptAttack = ATTACKS[recipe.attack]
        trigger = attack(
            prompted, images, labels, target=target, schedule=recipe.schedule, seed=seed
        )
    return measure(prompted, task, target=target, trigger=trigger, most=recipe.tested)


def measure(
    prompted: Prompted, task: Task, *, target: int | None, trigger: Trigger | None, most: int
) -> Tuned:
    """Measure a prompted CLIP on at most `most` test images."""
    rows = stratified_order(task.test.labels, seed=Seed(0))[:most]
    images, labels = task.test.inputs[rows], task.test.labels[rows]
    plain = predict(prompted, images)
    by_itself = predict(Prompted(prompted.backbone, ZeroShot(), prompted.class_names), images)
    asr = stray = None
    if target is not None and trigger is not None:
        others = labels != target
        asr = (predict(prompted, images[others], trigger) == target).float().mean().item()
        stray = (plain[others] == target).float().mean().item()
    return Tuned(
        prompted=prompted,
        target=target,
        trigger=trigger,
        accuracy=(plain == labels).float().mean().item(),
        asr=asr,
        stray=stray,
        zero_shot=(by_itself == labels).float().mean().item(),
    )


@torch.no_grad()
def predict(
    prompted: Prompted,
    images: UInt8[Tensor, "samples 3 height width"],
    trigger: Trigger | None = None,
) -> Int64[Tensor, " samples"]:
    """Classify images, with a trigger or without; on the CPU."""

    def one(some: Tensor) -> Float[Tensor, "some classes"]:
        floats = some.to(prompted.backbone.device).float() / 255
        return prompted(floats if trigger is None else trigger(floats)).cpu()

    return torch.cat([one(some) for some in images.split(256)]).argmax(1)


def fresh(name: str, backbone: Backbone, *, classes: int, seed: Seed) -> Learner:
    """Make an untuned learner of `LEARNERS`.

    Raises:
        InputError: there is no such learner.
    """
    if name == "coop":
        return CoOp.fresh(backbone, seed=seed, words=WORDS)
    if name == "coop-classes":
        return CoOp.fresh(backbone, seed=seed, context=4, classes=classes)
    if name == "cocoop":
        return CoCoOp.fresh(backbone, seed=seed, words=WORDS)
    if name == "vpt":
        return VPT.fresh(backbone, seed=seed)
    if name == "vpt-deep":
        return VPT.fresh(backbone, seed=seed, depth=backbone.image_layers)
    if name == "maple":
        return MaPLe.fresh(backbone, seed=seed, words=WORDS)
    raise InputError(f"expected one of {', '.join(LEARNERS)}, got {name!r}")


def find_task(name: str) -> Task:
    """Read a task, or the base or new classes of one.

    Raises:
        UsageError: there is no such task, or its data are absent.
    """
    task = _read(name.removesuffix(BASE).removesuffix(NEW))
    if name.endswith(BASE):
        return base_classes(task)
    return new_classes(task) if name.endswith(NEW) else task


@functools.lru_cache(maxsize=len(TASKS))
def _read(name: str) -> Task:
    return read_task(name)


@functools.lru_cache(maxsize=1)
def small_clip() -> Backbone:
    """Load the bundled small CLIP."""
    return load_backbone(str(BUNDLED)).backbone
