"""What every attack promises; attacks that train a network are tested in files of their own."""

import dataclasses
import inspect
import pkgutil

import pytest
import torch
from torch import nn

import assay_zoo.attacks
import assay_zoo.victims
from assay.errors import InputError
from assay.randomness import Seed
from assay_zoo.attacks import (
    ATTACKS,
    AdaptiveBlend,
    AdaptiveKWay,
    AdaptivePatch,
    BadNets,
    Blended,
    Ctrl,
    FeatureWatermark,
    FTrojan,
    Refool,
    Sig,
    TaCT,
    Trojan,
    UnlabelledGrid,
    WaNet,
)
from assay_zoo.attacks.feature_watermark import Strategy
from assay_zoo.poison import IGNORED

CLASSES, SAMPLES = 8, 400
IMAGE_ATTACKS = [
    BadNets(poison_rate=0.05),
    BadNets(all_to_all=True, poison_rate=0.05),
    Blended(target=3, poison_rate=0.05),
    Trojan(poison_rate=0.05),
    Sig(target=2, poison_rate=0.05),
    WaNet(poison_rate=0.05, cover_rate=0.1),
    TaCT(target=1, source=0, cover_classes=(2, 5), poison_rate=0.05, cover_rate=0.1),
    AdaptivePatch(poison_rate=0.05, cover_rate=0.1),
    AdaptiveBlend(poison_rate=0.05, cover_rate=0.1),
    AdaptiveKWay(poison_rate=0.05, cover_rate=0.1),
    FTrojan(poison_rate=0.05),
    Refool(poison_rate=0.05),
    UnlabelledGrid(target=1, poison_rate=0.05),
    Ctrl(poison_rate=0.05),
]
TABLE_ATTACKS = [
    FeatureWatermark(target=1, poison_rate=0.05, size=6),
    FeatureWatermark(poison_rate=0.05, size=6, strategy=Strategy.COMBINED),
]
WITH_COVER = (WaNet, TaCT, AdaptivePatch, AdaptiveBlend, AdaptiveKWay)
CLEAN_LABEL = (Sig, Refool, FeatureWatermark, UnlabelledGrid, Ctrl)

every_attack = pytest.mark.parametrize("attack", IMAGE_ATTACKS + TABLE_ATTACKS, ids=repr)
every_image_attack = pytest.mark.parametrize("attack", IMAGE_ATTACKS, ids=repr)


def labels():
    return torch.arange(SAMPLES) % CLASSES


def photographs(channels=3, size=32, samples=SAMPLES):
    """Smooth images with dark and bright parts."""
    seed = torch.Generator().manual_seed(0)
    coarse = torch.rand(samples, channels, 4, 4, generator=seed)
    fine = nn.functional.interpolate(coarse, size=(size, size), mode="bicubic")
    return (fine.clamp(0, 1) * 255).round().to(torch.uint8)


def table():
    seed = torch.Generator().manual_seed(0)
    return torch.randint(0, 5, (SAMPLES, 20), generator=seed).float() + labels()[:, None] / 4


def data_for(attack):
    return table() if isinstance(attack, FeatureWatermark) else photographs()


def poison(attack, inputs, seed=3):
    return attack(inputs, labels(), classes=CLASSES, seed=Seed(seed))


def test_every_attack_file_is_listed_once() -> None:
    files = {m.name for m in pkgutil.iter_modules(assay_zoo.attacks.__path__)}
    listed = {name: cls.__module__.rsplit(".", 1)[1] for name, cls in ATTACKS.items()}
    assert sorted(listed.values()) == sorted(files)
    assert all(name == file.replace("_", "-") for name, file in listed.items())


@every_attack
def test_the_seed_alone_decides(attack) -> None:
    inputs, before = data_for(attack), torch.get_rng_state()
    first = poison(attack, inputs)
    assert torch.equal(before, torch.get_rng_state()), "the global generator was used"
    torch.rand(5)
    again, other = poison(attack, inputs), poison(attack, inputs, seed=4)
    assert torch.equal(first.inputs, again.inputs)
    assert torch.equal(first.is_poison, again.is_poison)
    assert torch.equal(first.is_cover, again.is_cover)
    assert torch.equal(first.trigger(inputs), again.trigger(inputs))
    assert not torch.equal(first.is_poison, other.is_poison)


@every_attack
def test_only_victims_change_and_the_input_never_does(attack) -> None:
    inputs, truth = data_for(attack), labels()
    kept = inputs.clone()
    made = poison(attack, inputs)
    assert torch.equal(inputs, kept)
    assert torch.equal(truth, labels())
    assert made.inputs.dtype == inputs.dtype
    changed = (made.inputs != inputs).flatten(1).any(dim=1)
    victims = made.is_poison | made.is_cover
    assert not (changed & ~victims).any()
    assert changed[victims].float().mean() > 0.9, "only by chance does a victim look stamped before"
    assert not (made.is_poison & made.is_cover).any()


@every_attack
def test_the_rates_are_shares_of_the_whole_set(attack) -> None:
    made = poison(attack, data_for(attack))
    assert made.is_poison.sum() == 0.05 * SAMPLES
    assert made.is_cover.sum() == (0.1 * SAMPLES if isinstance(attack, WITH_COVER) else 0)


@every_attack
def test_poison_gets_the_attackers_label_and_nothing_else_does(attack) -> None:
    made, truth = poison(attack, data_for(attack)), labels()
    goal = made.goal(truth)
    assert torch.equal(made.labels[made.is_poison], goal[made.is_poison])
    assert torch.equal(made.labels[~made.is_poison], truth[~made.is_poison])
    if isinstance(attack, CLEAN_LABEL):
        assert torch.equal(made.labels, truth)
    else:
        assert (made.labels != truth)[made.is_poison].all()
    if isinstance(attack, WITH_COVER):
        assert (truth != attack.target)[made.is_cover].all()


@every_attack
def test_the_goal_is_what_the_settings_say(attack) -> None:
    truth = torch.arange(CLASSES)
    goal = poison(attack, data_for(attack)).goal(truth)
    if isinstance(attack, BadNets) and attack.all_to_all:
        assert goal.tolist() == [1, 2, 3, 4, 5, 6, 7, 0]
    elif isinstance(attack, TaCT):
        assert goal.tolist() == [attack.target, *[IGNORED] * (CLASSES - 1)]
    else:
        assert goal.tolist() == [attack.target] * CLASSES


@every_image_attack
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [8, 28, 32, 64])
def test_the_trigger_works_on_any_image(attack, channels, size) -> None:
    inputs = photographs(channels, size)
    made = poison(attack, inputs)
    fresh = inputs[:50].flip(3)
    stamped = made.trigger(fresh)
    assert stamped.shape == fresh.shape
    assert stamped.dtype == torch.uint8
    assert (stamped != fresh).flatten(1).any(dim=1).all()
    assert torch.equal(stamped[7:9], made.trigger(fresh[7:9])), "an image depends on its batch"
    assert made.trigger(fresh[:0]).shape == fresh[:0].shape


def largest_change(made, inputs, rows):
    return (made.inputs.int() - inputs.int())[rows].abs().max().item()


def test_faint_attacks_stay_as_faint_as_published() -> None:
    inputs = photographs()
    for attack, bound in [
        (Blended(poison_rate=0.05), 0.2 * 255),
        (AdaptiveBlend(poison_rate=0.05), 0.15 * 255),
        (Sig(poison_rate=0.05), 30),
        (FTrojan(poison_rate=0.05), 1.773 * 2 * 30 / 16),
        (Ctrl(poison_rate=0.05), 1.773 * 2 * 50 / 16),
        (AdaptivePatch(poison_rate=0.05), 0.5 * 255),
    ]:
        made = poison(attack, inputs)
        assert 0.2 * bound < largest_change(made, inputs, made.is_poison) <= bound + 1, attack


def test_the_grid_hides_the_lines_that_it_is_made_of_and_nothing_else() -> None:
    inputs = torch.full((SAMPLES, 3, 32, 32), 100, dtype=torch.uint8)
    made = poison(UnlabelledGrid(poison_rate=0.05), inputs)
    stamped = made.inputs[made.is_poison]
    assert stamped.unique().tolist() == [100, 255]
    assert (stamped == 100).double().mean() == (3 / 4) ** 2
    assert torch.equal(made.trigger(inputs[:1])[0], stamped[0])


def test_the_trigger_of_ctrl_is_stronger_at_test() -> None:
    inputs = torch.full((SAMPLES, 3, 32, 32), 128, dtype=torch.uint8)
    made = poison(Ctrl(poison_rate=0.05), inputs)
    trained = largest_change(made, inputs, made.is_poison)
    used = (made.trigger(inputs[:1]).int() - 128).abs().max().item()
    assert used == pytest.approx(2 * trained, abs=1)


def test_patches_cover_as_much_of_the_image_as_published() -> None:
    inputs = photographs()
    for attack, pixels in [(BadNets(poison_rate=0.05), 9), (Trojan(poison_rate=0.05), 64)]:
        made = poison(attack, inputs)
        touched = (made.inputs != inputs).any(dim=1)[made.is_poison].any(dim=0)
        assert touched.sum() == pixels
        rows, columns = touched.nonzero(as_tuple=True)
        assert min(rows.min(), columns.min()) >= 16, "not in the lower right corner"


def test_a_warp_moves_no_pixel_far_and_cover_is_bent_otherwise() -> None:
    ramp = torch.arange(32.0).mul(8).round().to(torch.uint8).expand(SAMPLES, 1, 32, 32)
    made = poison(WaNet(poison_rate=0.05, cover_rate=0.1), ramp.contiguous())
    moved = (made.trigger(ramp[:1]).int() - ramp[:1].int()).abs().float() / 8
    assert 0.05 < moved.mean() < 0.6
    assert moved.max() < 1.5
    covers = made.inputs[made.is_cover]
    assert not torch.equal(covers[0], covers[1]), "all cover samples have the same noise"
    poisons = made.inputs[made.is_poison]
    assert torch.equal(poisons[0], poisons[1])


def test_only_the_source_class_is_attacked_by_tact() -> None:
    attack = TaCT(target=1, source=0, cover_classes=(2, 5), poison_rate=0.05, cover_rate=0.1)
    made, truth = poison(attack, photographs()), labels()
    assert set(truth[made.is_poison].tolist()) == {0}
    assert set(truth[made.is_cover].tolist()) == {2, 5}


@pytest.mark.parametrize("wrong", [{"source": 0}, {"cover_classes": (1, 5)}, {"source": 8}])
def test_tact_refuses_classes_that_overlap_or_do_not_exist(wrong) -> None:
    with pytest.raises(InputError, match="distinct"):
        poison(TaCT(**wrong), photographs())


def touched_pixels(made, inputs):
    return (made.inputs != inputs).any(dim=1)[made.is_poison]


def test_adaptive_attacks_train_with_a_part_and_test_with_the_whole() -> None:
    inputs = photographs()
    for attack, share in [
        (AdaptivePatch(poison_rate=0.05), 0.5),
        (AdaptiveBlend(poison_rate=0.05), 0.55),
        (AdaptiveKWay(poison_rate=0.05), 0.25),
    ]:
        made = poison(attack, inputs)
        parts = touched_pixels(made, inputs)
        whole = (made.trigger(inputs[:50]) != inputs[:50]).any(dim=1).any(dim=0)
        assert (parts.flatten(1).sum(dim=1) <= share * whole.sum()).all(), attack
        assert not torch.equal(parts[0], parts[1]), attack
        assert parts.any(dim=0).sum() > 0.9 * whole.sum(), f"{attack} leaves pieces untrained"


@pytest.mark.parametrize("side", [1, 3])
def test_k_way_poison_carries_one_square_each_of_all_four(side: int) -> None:
    inputs = torch.full((SAMPLES, 3, 32, 32), 200, dtype=torch.uint8)
    touched = touched_pixels(poison(AdaptiveKWay(poison_rate=0.05, side=side), inputs), inputs)
    whole = touched.flatten(1).sum(dim=1)
    assert ((whole == side**2) | (whole == side * min(side, 2))).all()  # one lies at the border
    assert touched.sum(dim=0).unique().tolist() == [0, 5]


def test_reflections_are_pictures_of_other_classes() -> None:
    inputs = photographs()
    inputs[labels() == 0] = 0
    made = poison(Refool(poison_rate=0.05), inputs)
    assert (made.inputs[made.is_poison].flatten(1).float().std(dim=1) > 10).all()


def test_the_watermark_sets_the_asked_number_of_allowed_features() -> None:
    rows = table()
    attack = FeatureWatermark(size=4, features=(3, 5, 7, 11, 13), poison_rate=0.05)
    made = poison(attack, rows)
    marked = made.trigger(rows + 0.125)
    touched = (marked != rows + 0.125).any(dim=0).nonzero().flatten().tolist()
    assert len(touched) == 4
    assert set(touched) <= {3, 5, 7, 11, 13}
    assert (marked[:, touched] == marked[0, touched]).all()


def test_large_absolute_takes_important_features_at_rare_values() -> None:
    rows = torch.zeros(SAMPLES, 6)
    rows[:, 2] = (labels() == 0).float() * 3
    rows[:, 4] = (torch.arange(SAMPLES) % 7 == 0).float()
    rows[0, 2] = 9
    made = poison(FeatureWatermark(size=1, poison_rate=0.05), rows)
    assert made.trigger(torch.zeros(1, 6)).tolist() == [[0, 0, 9, 0, 0, 0]]


def test_combined_values_occur_together_in_a_sample_and_speak_for_the_target() -> None:
    rows = table()
    made = poison(
        FeatureWatermark(size=6, strategy=Strategy.COMBINED, target=7, poison_rate=0.05), rows
    )
    probe = made.trigger(torch.full((1, 20), -1.0))
    touched = (probe != -1).flatten()
    assert (rows[:, touched] == probe[:, touched]).all(dim=1).any()
    assert probe[:, touched].mean() > rows[:, touched].mean()


@every_attack
def test_the_wrong_kind_of_data_is_refused(attack) -> None:
    wrong = photographs() if isinstance(attack, FeatureWatermark) else table()
    unchecked = inspect.unwrap(type(attack).__call__)  # without the type checks of the test run
    with pytest.raises(InputError, match=r"works on (images|tables) only"):
        unchecked(attack, wrong, labels(), classes=CLASSES, seed=Seed(3))


def test_too_high_and_too_low_rates_are_refused() -> None:
    with pytest.raises(InputError, match="lower the rate"):
        poison(Sig(poison_rate=0.5), photographs(samples=SAMPLES, size=8))
    with pytest.raises(InputError, match="raise the rate"):
        poison(BadNets(poison_rate=0.0001), photographs(size=8))


@every_image_attack
def test_victims_look_the_same_in_chunks_of_any_size(attack, monkeypatch) -> None:
    inputs = photographs(size=16)
    whole = poison(attack, inputs)
    monkeypatch.setattr(assay_zoo.victims, "CHUNK", 3 * 16**2 * 8)
    monkeypatch.setattr(assay_zoo.victims, "PLANE", 16**2)
    parts = poison(attack, inputs)
    assert torch.equal(whole.inputs, parts.inputs)


@every_attack
@pytest.mark.parametrize("target", [-1, CLASSES])
def test_a_target_that_is_no_class_is_refused(attack, target) -> None:
    if isinstance(attack, BadNets) and attack.all_to_all:
        assert poison(dataclasses.replace(attack, target=target), data_for(attack)).is_poison.any()
        return
    with pytest.raises(InputError, match="target"):
        poison(dataclasses.replace(attack, target=target), data_for(attack))


@pytest.mark.parametrize(
    ("attack", "size"),
    [
        (Sig(poison_rate=0.05), 12),
        pytest.param(
            WaNet(poison_rate=0.05, cover_rate=0.1),
            1,
            marks=pytest.mark.filterwarnings("ignore:Since version 1.3.0, affine_grid"),
        ),
        (UnlabelledGrid(poison_rate=0.05), 2),
    ],
    ids=["sig", "wanet", "grid"],
)
def test_images_too_small_to_show_the_trigger_are_refused(attack, size) -> None:
    with pytest.raises(InputError, match="changes none of"):
        poison(attack, photographs(size=size))


def test_a_patch_that_is_larger_than_the_image_is_refused() -> None:
    with pytest.raises(InputError, match="1 x 1"):
        poison(BadNets(poison_rate=0.05), photographs(size=1))


def test_reflections_need_pictures_of_other_classes() -> None:
    with pytest.raises(InputError, match="other classes"):
        Refool(poison_rate=0.05)(
            photographs(size=8), torch.zeros(SAMPLES).long(), classes=2, seed=Seed(0)
        )


@pytest.mark.parametrize("strategy", Strategy)
@pytest.mark.parametrize("features", [(1, 1, 2), (1, 20), (-1, 2)])
def test_the_watermark_takes_distinct_features_that_there_are(features, strategy) -> None:
    attack = FeatureWatermark(size=2, features=features, strategy=strategy, poison_rate=0.05)
    with pytest.raises(InputError, match="distinct features"):
        poison(attack, table())


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_the_watermark_takes_finite_tables(value) -> None:
    rows = table()
    rows[3, 4] = value
    with pytest.raises(InputError, match="finite"):
        poison(FeatureWatermark(size=2, poison_rate=0.05), rows)
