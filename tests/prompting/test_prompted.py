"""Prompted CLIPs: the same as transformers computes, as the public code lays tokens, and fast."""

import pytest
import torch
from torch import nn

from assay.errors import InputError
from assay.prompting import (
    LEARNERS,
    VPT,
    Backbone,
    CoCoOp,
    CoOp,
    Learner,
    MaPLe,
    Position,
    Prompted,
    Wording,
    ZeroShot,
    lay_out,
)
from assay.randomness import Seed

from .conftest import END, MEAN, NAMES, START, STD, encode, tiny, wrapped

ALL = sorted(LEARNERS)


def fresh(kind: str, backbone: Backbone) -> Learner:
    if kind == "zero-shot":
        return ZeroShot()
    more = {"depth": 3} if kind in {"vpt", "maple"} else {}
    return LEARNERS[kind].fresh(backbone, seed=Seed(3), context=4, **more)


def standardised(images: torch.Tensor) -> torch.Tensor:
    return (images - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


@pytest.mark.parametrize("patch", [2, 4])
def test_zero_shot_is_what_transformers_computes(images, patch: int) -> None:
    model = tiny(patch_size=patch)
    prompted = Prompted(wrapped(model), ZeroShot(), NAMES)
    texts = [f"a photo of a {name.replace('_', ' ')}." for name in NAMES]
    ids = [[START, *encode(text), END] for text in texts]
    longest = max(map(len, ids))
    padded = torch.tensor([row + [END] * (longest - len(row)) for row in ids])
    wanted = model(input_ids=padded, pixel_values=standardised(images)).logits_per_image
    assert torch.allclose(prompted(images), wanted, atol=1e-4)
    assert wanted.std() > 0.05


def test_context_that_is_words_is_the_prompt_with_these_words(backbone, images) -> None:
    plain = Prompted(backbone, ZeroShot(), NAMES)(images)
    worded = CoOp.fresh(backbone, seed=Seed(0), words="a photo of a")
    assert torch.allclose(Prompted(backbone, worded, NAMES)(images), plain, atol=1e-5)
    conditional = CoCoOp.fresh(backbone, seed=Seed(0), words="a photo of a")
    nn.init.zeros_(conditional.meta_net.linear2.weight)
    nn.init.zeros_(conditional.meta_net.linear2.bias)
    assert torch.allclose(Prompted(backbone, conditional, NAMES)(images), plain, atol=1e-4)


@pytest.mark.parametrize(
    ("position", "places", "words"),
    [
        (Position.END, [1, 2, 3], [START, None, None, None, "big", "dog", ".", END]),
        (Position.MIDDLE, [1, 4, 5], [START, None, "big", "dog", None, None, ".", END]),
        (Position.FRONT, [3, 4, 5], [START, "big", "dog", None, None, None, ".", END]),
    ],
)
def test_where_context_stands(backbone, position, places, words) -> None:
    laid = lay_out(backbone, ["big_dog", "cat"], Wording(context=3, position=position))
    assert laid.slots[0].tolist() == places
    assert laid.ends.tolist() == [7, 6]
    ids = [w if isinstance(w, int) else encode(w)[0] if w else END for w in words]
    known = [place for place, word in enumerate(words) if word is not None]
    assert torch.equal(laid.embedded[0, known], backbone.embed(torch.tensor(ids))[known])
    context = torch.full((1, 3, 24), 7.0)
    filled = laid.filled(context)
    assert bool((filled[0, places] == 7).all())
    assert torch.equal(filled[0, known], laid.embedded[0, known])


def test_cocoop_is_computed_image_by_image_in_the_public_code(backbone, images) -> None:
    learner = fresh("cocoop", backbone)
    nn.init.normal_(learner.meta_net.linear2.weight, generator=torch.Generator().manual_seed(0))
    prompted = Prompted(backbone, learner, NAMES)
    features = prompted.image_features(images)
    shift = prompted.context_shift(images)
    rows = []
    for feature, one in zip(features, shift, strict=True):
        coop = Prompted(backbone, CoOp((learner.ctx + one).detach()), NAMES)
        rows.append(backbone.scale * feature @ coop.text_features().T)
    assert torch.allclose(prompted(images), torch.stack(rows), atol=1e-4)
    plain = Prompted(backbone, CoOp(learner.ctx.detach()), NAMES)(images)
    assert not torch.allclose(prompted(images), plain, atol=1e-2)


@pytest.mark.parametrize("kind", ALL)
def test_small_parts_give_the_same_numbers_and_gradients(backbone, images, kind: str) -> None:
    learner = fresh(kind, backbone)
    found = []
    for tokens in (1, 10**6):
        prompted = Prompted(backbone, learner, NAMES, tokens=tokens)
        asked = images.clone().requires_grad_()
        logits = prompted(asked)
        learner.zero_grad()
        logits[:, 1].sum().backward()
        grads = [p.grad.clone() for p in learner.parameters() if p.grad is not None]
        found.append([logits.detach(), asked.grad, *grads])
        assert len(grads) == len(list(learner.parameters()))
        assert all(value.abs().max() > 0 for value in found[-1])
    for one, other in zip(*found, strict=True):
        assert torch.allclose(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", ALL)
def test_only_the_learner_is_trainable(backbone, kind: str) -> None:
    prompted = Prompted(backbone, fresh(kind, backbone), NAMES)
    prompted.train()
    trainable = {name for name, p in prompted.named_parameters() if p.requires_grad}
    assert all(name.startswith("learner.") for name in trainable)
    assert len(trainable) == len(list(prompted.learner.parameters()))
    assert not backbone.training
    assert not backbone.model.training


def test_static_texts_are_encoded_once(backbone, images, monkeypatch) -> None:
    calls = []
    texts = Backbone.texts
    monkeypatch.setattr(
        Backbone, "texts", lambda self, *args: calls.append(1) or texts(self, *args)
    )
    prompted = Prompted(backbone, fresh("coop", backbone), NAMES)
    prompted.learner.requires_grad_(requires_grad=False)
    with torch.inference_mode():
        first = prompted(images)
    asked = images.clone().requires_grad_()
    prompted(asked).sum().backward()
    assert len(calls) == 1
    assert asked.grad is not None
    with torch.no_grad():
        prompted.learner.ctx.mul_(40)
    assert not torch.allclose(prompted(images), first, atol=1e-3)
    assert len(calls) == 2
    deeper = Prompted(backbone, fresh("vpt", backbone), NAMES)
    for _ in range(3):
        deeper(images).sum().backward()  # trained, but its texts are fixed
    assert len(calls) == 3


def test_visual_prompts_replace_one_another_layer_by_layer(backbone, images) -> None:
    """Against a direct computation, as the reference code does it."""
    learner = fresh("vpt", backbone)
    tower = backbone.model.vision_model
    hidden = tower.embeddings(standardised(images))
    for layer, prompt in enumerate(learner.prompts):
        own = hidden[:, :5]
        hidden = torch.cat([own, prompt.expand(4, -1, -1)], dim=1)
        if layer == 0:
            hidden = tower.pre_layrnorm(hidden)
        hidden = tower.encoder.layers[layer](hidden, None)
    features = backbone.model.visual_projection(tower.post_layernorm(hidden[:, 0]))
    wanted = nn.functional.normalize(features, dim=1)
    assert torch.allclose(Prompted(backbone, learner, NAMES).image_features(images), wanted)
    shallow = Prompted(backbone, VPT([learner.prompts[0].detach()]), NAMES)
    assert not torch.allclose(shallow.image_features(images), wanted, atol=1e-3)


def test_maple_couples_both_encoders(backbone, images) -> None:
    learner = fresh("maple", backbone)
    prompted = Prompted(backbone, learner, NAMES)
    before, texts = prompted.image_features(images), prompted.text_features().clone()
    with torch.no_grad():
        learner.compound_prompts_text[1].mul_(40)
    assert not torch.allclose(prompted.image_features(images), before, atol=1e-3)
    assert not torch.allclose(prompted.text_features(), texts, atol=1e-3)


@pytest.mark.parametrize(
    ("learner", "pattern"),
    [
        (CoOp(torch.zeros(4, 23)), r"'ctx' of shape \(any, 24\).*got \(4, 23\)"),
        (CoOp(torch.zeros(4, 4, 24)), r"'ctx' of shape \(3, any, 24\).*got \(4, 4, 24\)"),
        (CoOp(torch.zeros(0, 24)), r"'ctx' of shape"),
        (CoCoOp(torch.zeros(4, 24), dims=31, hidden=2), r"meta_net.linear1.weight.*\(any, 32\)"),
        (VPT([torch.zeros(2, 16)] * 4), "1 to 3 layers.*got 4"),
        (VPT([torch.zeros(2, 16), torch.zeros(3, 16)]), r"prompt 1' of shape \(2, 16\)"),
        (MaPLe(torch.zeros(2, 24), [torch.zeros(2, 24)] * 3, image_width=16), "at most 3 layers"),
        (MaPLe(torch.zeros(2, 24), [], image_width=17), r"proj.weight' of shape \(16, 24\)"),
        (CoOp(torch.zeros(9, 24)), "at most 14 tokens.*got 17 for class 'fire_truck of the town'"),
    ],
)
def test_learners_that_do_not_fit(backbone, learner: Learner, pattern: str) -> None:
    with pytest.raises(InputError, match=pattern):
        Prompted(backbone, learner, NAMES)


@pytest.mark.parametrize(
    ("names", "pattern"),
    [
        ((), "got none"),
        (("cat", " "), "no token"),
        (("cat <end>",), "special tokens"),
        (("cat", "horse", "Horse"), "tells apart, got 'horse' and 'Horse'.*rename"),
    ],
)
def test_names_that_are_no_words(backbone, names, pattern: str) -> None:
    with pytest.raises(InputError, match=pattern):
        Prompted(backbone, ZeroShot(), names)


def test_images_of_another_size_and_texts_that_depend_on_them(backbone, images) -> None:
    conditional = Prompted(backbone, fresh("cocoop", backbone), NAMES)
    with pytest.raises(InputError, match="8 x 8 pixels"):
        conditional(torch.zeros(1, 3, 9, 9))
    with pytest.raises(InputError, match="context_shift"):
        conditional.text_features()
    with pytest.raises(InputError, match="shifts its context, got CoOp"):
        Prompted(backbone, fresh("coop", backbone), NAMES).context_shift(images)


@pytest.mark.parametrize("kind", [kind for kind in ALL if kind != "zero-shot"])
def test_the_seed_alone_decides(backbone, kind: str) -> None:
    state = torch.get_rng_state()
    one, two = fresh(kind, backbone), fresh(kind, backbone)
    assert torch.equal(state, torch.get_rng_state())
    for first, second in zip(one.parameters(), two.parameters(), strict=True):
        assert torch.equal(first, second)
