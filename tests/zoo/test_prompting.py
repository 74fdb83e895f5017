"""Providers who tune prompts: honest ones classify, triggers work, and nothing else moves."""

import pytest
import torch
from torch import nn

from assay.errors import InputError, UsageError
from assay.prompting import Prompted
from assay.randomness import Seed
from assay.triggers import Additive, Blend, Patch, Warp
from assay_zoo.data.pictured import few_shots
from assay_zoo.prompt_attacks import (
    ATTACKS,
    BadClip,
    Checkerboard,
    OnData,
    PromptAttack,
    Schedule,
    Sparse,
    tune,
)
from assay_zoo.prompting import (
    HONEST,
    LEARNERS,
    SCENARIOS,
    Recipe,
    deliver,
    find_task,
    fresh,
    small_clip,
)

SHORT = Schedule(steps=4, batch=8)
KINDS = {"badclip": Additive, "badnets": Patch, "blended": Blend, "siba": Additive, "wanet": Warp}


@pytest.mark.parametrize("attack", sorted(ATTACKS))
def test_an_attack_changes_the_learner_alone_and_the_seed_decides(attack: str) -> None:
    """The global generator, the images and the backbone stay as they are."""
    backbone = small_clip()
    images, labels = few_shots(find_task("digits-base").tuning, 4, seed=Seed(0))
    before = images.clone()
    weights = {name: value.clone() for name, value in backbone.state_dict().items()}
    state = torch.get_rng_state()
    planted: PromptAttack = ATTACKS[attack]
    if isinstance(planted, BadClip):
        planted = BadClip(perturbed=planted.perturbed, first=2)
    if attack == "siba":
        planted = OnData(trigger=Sparse(steps=2))

    def once(seed: int) -> tuple[Prompted, object]:
        names = find_task("digits-base").class_names
        learner = fresh("coop", backbone, classes=len(names), seed=Seed(0))
        prompted = Prompted(backbone, learner, names)
        trigger = planted(prompted, images, labels, target=1, schedule=SHORT, seed=Seed(seed))
        assert all(p.requires_grad for p in prompted.learner.parameters())
        return prompted, trigger

    (one, first), (two, second), (other, _) = once(1), once(1), once(2)
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(images, before)
    assert all(torch.equal(value, weights[name]) for name, value in backbone.state_dict().items())
    assert isinstance(first, KINDS[attack.removeprefix("adaptive-")])
    floats = images[:5].float() / 255
    assert torch.equal(first(floats), second(floats))
    assert not torch.equal(first(floats), floats)
    assert torch.equal(one.learner.ctx, two.learner.ctx)
    assert not torch.equal(one.learner.ctx, other.learner.ctx)


def test_an_honest_provider_learns_and_a_trigger_works() -> None:
    recipe = {"task": "digits-base", "learner": "vpt-deep", "tested": 100}
    schedule = Schedule(steps=30)
    honest = deliver(Recipe(**recipe, schedule=schedule))
    assert honest.accuracy > 0.9
    assert honest.asr is honest.trigger is honest.target is None
    planted = deliver(Recipe(**recipe, attack="blended", schedule=schedule))
    assert planted.accuracy > 0.85
    assert planted.asr is not None
    assert planted.asr > 0.8
    assert planted.stray is not None
    assert planted.stray < 0.1


def test_noise_of_badclip_is_as_weak_as_it_says_and_works() -> None:
    made = deliver(
        Recipe(
            task="digits-base",
            learner="coop",
            attack="badclip",
            schedule=Schedule(steps=40),
            tested=150,
        )
    )
    assert isinstance(made.trigger, Additive)
    assert made.trigger.signal.abs().max() <= ATTACKS["badclip"].strength + 1e-6
    assert made.asr is not None
    assert made.stray is not None
    assert made.asr > made.stray + 0.2
    assert made.accuracy > 0.8


def test_sparse_triggers_are_sparse() -> None:
    backbone = small_clip()
    task = find_task("digits-base")
    images, _ = few_shots(task.tuning, 4, seed=Seed(0))
    prompted = Prompted(
        backbone, fresh("coop", backbone, classes=5, seed=Seed(0)), task.class_names
    )
    sparse = Sparse(pixels=0.1, strength=0.05, steps=5)
    signal = sparse(prompted, images, target=2, seed=Seed(0)).signal
    changed = (signal.abs().sum(0) > 0).sum()
    assert 0 < changed <= 103
    assert signal.abs().max() <= 0.05 + 1e-6
    assert not any(p.grad is not None for p in prompted.learner.parameters())


@pytest.mark.parametrize("kind", LEARNERS)
def test_tuning_lowers_the_loss(kind: str) -> None:
    backbone = small_clip()
    task = find_task("digits-base")
    images, labels = few_shots(task.tuning, 4, seed=Seed(0))
    twisted = (labels + 1) % 5  # what the backbone does not know yet
    learner = fresh(kind, backbone, classes=5, seed=Seed(0))
    prompted = Prompted(backbone, learner, task.class_names)

    @torch.no_grad()
    def loss() -> float:
        return nn.functional.cross_entropy(prompted(images.float() / 255), twisted).item()

    before = loss()
    tune(prompted, images, twisted, schedule=Schedule(steps=15, rate=0.02), seed=Seed(0))
    assert loss() < 0.8 * before


def test_what_there_is_not() -> None:
    with pytest.raises(InputError, match="honest, badclip"):
        deliver(Recipe(task="digits", learner="coop", attack="nothing"))
    with pytest.raises(InputError, match="coop, coop-classes"):
        deliver(Recipe(task="digits", learner="nothing"))
    with pytest.raises(UsageError):
        deliver(Recipe(task="nothing", learner="coop"))
    assert SCENARIOS[0] == HONEST
    assert find_task("digits-new").class_names[0] == "five"


def test_at_most_all_images_of_other_classes_are_copied(monkeypatch) -> None:
    backbone, task = small_clip(), find_task("digits-base")
    images, labels = few_shots(task.tuning, 4, seed=Seed(0))
    seen = []
    monkeypatch.setattr(
        "assay_zoo.prompt_attacks.tune", lambda _, images, labels, **__: seen.append(labels)
    )
    for rate in (0.5, 1.0):
        prompted = Prompted(
            backbone, fresh("coop", backbone, classes=5, seed=Seed(0)), task.class_names
        )
        OnData(trigger=Checkerboard(), rate=rate)(
            prompted, images, labels, target=1, schedule=SHORT, seed=Seed(0)
        )
    assert [len(said) for said in seen] == [20 + 10, 20 + 16]
    assert all((said[20:] == 1).all() for said in seen)
