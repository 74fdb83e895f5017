"""What every trigger family promises, and what each one does."""

import math
import pkgutil

import pytest
import torch

import assay.triggers
from assay.errors import InputError
from assay.triggers import TRIGGERS, Additive, Blend, Frequency, Patch, Reflection, Warp
from assay.triggers.additive import sinusoid
from assay.triggers.frequency import CHROMA
from assay.triggers.reflection import ghost, out_of_focus

CPU = torch.device("cpu")
SIZES = [(1, 8, 8), (3, 8, 8), (1, 28, 28), (3, 32, 32), (3, 20, 36), (4, 64, 64)]


def images(shape, batch=5, seed=0):
    return torch.rand(batch, *shape, generator=torch.Generator().manual_seed(seed))


def family(shape):
    """One trigger of each family, for images of this shape."""
    channels, height, width = shape
    corner = torch.zeros(height, width)
    corner[-2:, -2:] = 1
    flow = 0.1 * images((height, width, 2), batch=1, seed=2)
    return [
        Patch(pattern=torch.ones(channels, height, width), mask=corner),
        Blend(pattern=images(shape, batch=1, seed=1)[0]),
        Additive(signal=sinusoid(height, width, amplitude=0.1, cycles=6, device=CPU)),
        Warp(flow=flow),
        Frequency(window=8, positions=((3, 3), (7, 7))),
        Reflection(layer=ghost(images(shape, batch=1, seed=1), offset=1, transmission=0.6)),
    ]


every_shape = pytest.mark.parametrize("shape", SIZES, ids=str)
every_family = pytest.mark.parametrize(
    "index", range(6), ids=lambda i: type(family(SIZES[0])[i]).__name__
)


def test_every_family_is_listed_once() -> None:
    files = {m.name for m in pkgutil.iter_modules(assay.triggers.__path__)} - {
        "families",
        "search",
        "shapes",
    }
    assert set(TRIGGERS) == files
    assert all(cls.__module__.endswith(f".{name}") for name, cls in TRIGGERS.items())


@every_shape
@every_family
def test_a_trigger_changes_images_and_stays_in_range(shape, index) -> None:
    before = images(shape)
    kept = before.clone()
    after = family(shape)[index](before)
    assert torch.equal(before, kept), "the input was changed"
    assert after.shape == before.shape
    assert after.dtype == before.dtype
    assert 0 <= after.min() <= after.max() <= 1
    assert (after != before).any(dim=(1, 2, 3)).all()


@every_family
def test_a_trigger_treats_images_one_by_one_and_follows_their_dtype(index) -> None:
    shape = (3, 16, 16)
    trigger, batch = family(shape)[index], images(shape)
    assert torch.allclose(trigger(batch)[2:3], trigger(batch[2:3]), atol=1e-6)
    assert trigger(batch.double()).dtype == torch.float64
    assert trigger(batch[:0]).shape == (0, *shape)


@pytest.mark.parametrize("index", [0, 1, 2, 3, 5])
def test_a_trigger_for_another_size_is_refused(index) -> None:
    with pytest.raises(InputError, match="expected"):
        family((3, 16, 16))[index](images((3, 8, 8)))


def test_a_pattern_for_another_number_of_channels_is_refused() -> None:
    with pytest.raises(InputError, match="expected"):
        Blend(pattern=torch.ones(2, 8, 8))(images((3, 8, 8)))


def test_a_patch_leaves_the_rest_alone_and_mixes_by_opacity() -> None:
    mask = torch.zeros(8, 8)
    mask[:2] = 1
    before = images((3, 8, 8))
    after = Patch(pattern=torch.ones(1, 8, 8), mask=mask, opacity=0.25)(before)
    assert torch.equal(after[:, :, 2:], before[:, :, 2:])
    assert torch.allclose(after[:, :, :2], 0.75 * before[:, :, :2] + 0.25)


def test_a_blend_is_the_weighted_mean() -> None:
    before, pattern = images((3, 8, 8)), images((3, 8, 8), batch=1, seed=1)[0]
    after = Blend(pattern=pattern, alpha=0.3)(before)
    assert torch.allclose(after, 0.7 * before + 0.3 * pattern)


def test_the_sinusoid_has_the_asked_cycles_and_amplitude() -> None:
    wave = sinusoid(4, 60, amplitude=0.1, cycles=6, device=CPU)[0]
    assert torch.equal(wave[0], wave[3]), "the wave runs along the width"
    assert torch.fft.rfft(wave[0]).abs().argmax() == 6
    assert wave.abs().max() <= 0.1
    assert wave.abs().max() > 0.095


def test_no_flow_is_no_warp_and_a_flow_of_one_pixel_shifts() -> None:
    before = images((3, 9, 9))
    still = torch.zeros(1, 9, 9, 2)
    assert torch.allclose(Warp(flow=still)(before), before, atol=1e-6)
    still[..., 0] = 2 / 8
    shifted = Warp(flow=still)(before)
    assert torch.allclose(shifted[..., :-1], before[..., 1:], atol=1e-5)
    assert torch.allclose(shifted[..., -1], before[..., -1], atol=1e-5), "the edge is repeated"


def test_each_image_can_have_a_flow_of_its_own() -> None:
    before, flow = images((1, 8, 8), batch=2), torch.zeros(2, 8, 8, 2)
    flow[1] = 0.3
    after = Warp(flow=flow)(before)
    assert torch.allclose(after[0], before[0], atol=1e-6)
    assert not torch.allclose(after[1], before[1], atol=0.01)


def cosine_transform(block):
    size = len(block)
    place = (torch.arange(size) + 0.5) / size
    basis = torch.cos(math.pi * torch.arange(size)[:, None] * place) * math.sqrt(2 / size)
    basis[0] /= math.sqrt(2)
    return basis @ block @ basis.T


def test_the_frequencies_asked_for_are_raised_in_every_block_and_no_other() -> None:
    before = torch.full((1, 1, 16, 16), 0.5)
    after = Frequency(window=8, positions=((3, 5),), magnitude=0.2)(before)
    for block in (after[0, 0, :8, :8], after[0, 0, 8:, :8], after[0, 0, 8:, 8:]):
        raised = cosine_transform(block) - cosine_transform(before[0, 0, :8, :8])
        assert raised[3, 5].item() == pytest.approx(0.2, abs=1e-5)
        raised[3, 5] = 0
        assert raised.abs().max() < 1e-5


def test_colour_images_keep_their_brightness() -> None:
    before = 0.25 + images((3, 32, 32)) / 2
    change = Frequency()(before) - before
    luma = torch.tensor([0.299, 0.587, 0.114])
    assert change.abs().max() > 0.01
    assert torch.einsum("c,nchw->nhw", luma, change).abs().max() < 1e-3
    assert torch.allclose(change[:, 0] * CHROMA[2], change[:, 2] * CHROMA[0], atol=1e-5)


def test_a_frequency_outside_of_the_window_is_refused() -> None:
    with pytest.raises(InputError, match="positions"):
        Frequency(window=8, positions=((8, 0),))


def test_a_ghost_shows_the_picture_twice() -> None:
    picture = torch.zeros(1, 1, 16, 16)
    picture[0, 0, 4, 4] = 1
    light = ghost(picture, offset=5, transmission=0.6, second=0.25)[0, 0]
    assert light[4, 4].item() == pytest.approx(0.4 * 0.75)
    assert light[9, 9].item() == pytest.approx(0.4 * 0.25)
    assert light.sum().item() == pytest.approx(0.4)


def test_out_of_focus_is_blurred_and_fades_to_the_edges() -> None:
    picture = torch.zeros(1, 1, 33, 33)
    picture[0, 0, 16, 16] = 1
    light = out_of_focus(picture, sigma=2.0, transmission=0.6)[0, 0]
    assert light[16, 16] < 0.1
    assert light[16, 18] > light[16, 20] > 0
    flat = out_of_focus(torch.ones(1, 1, 33, 33), sigma=2.0, transmission=0.6)[0, 0]
    assert flat[16, 16].item() == pytest.approx(0.7)
    assert flat[0, 0] < 0.1


def test_a_reflection_adds_light() -> None:
    before = images((3, 8, 8))
    dark = Reflection(layer=torch.zeros(1, 1, 8, 8), transmission=1.0)(before)
    assert torch.allclose(dark, before, atol=1e-5)
    lit = Reflection(layer=torch.full((1, 1, 8, 8), 0.2), transmission=1.0)(before)
    assert (lit > before).all()


def test_families_draw_nothing() -> None:
    before = torch.get_rng_state()
    for trigger in family((3, 16, 16)):
        trigger(images((3, 16, 16)))
    assert torch.equal(before, torch.get_rng_state())
