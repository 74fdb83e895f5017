import pytest
import torch
from sklearn.datasets import load_digits

from assay.randomness import Seed
from assay_zoo.attacks.issba import Issba
from assay_zoo.learned import some_of
from assay_zoo.victims import to_bytes, to_unit


@pytest.fixture(scope="module")
def learned():
    bunch = load_digits()
    inputs = (torch.from_numpy(bunch.images).float() * 255 / 16).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(bunch.target).long()
    data = some_of(inputs[:1400], labels[:1400], most=1400, seed=Seed(1))
    return Issba(bits=8, steps=80)._learn(data, Seed(2)), to_unit(inputs[1400:])


@torch.no_grad()
def test_the_decoder_reads_the_string_from_unseen_images_as_bytes(learned) -> None:
    hidden, images = learned
    stamped = to_unit(to_bytes(hidden(images)))
    right = (hidden.decoder(stamped) > 0) == hidden.secret.bool()
    assert right.float().mean() > 0.95
    unstamped = (hidden.decoder(images) > 0) == hidden.secret.bool()
    assert unstamped.float().mean() < 0.8


@torch.no_grad()
def test_the_decoder_reads_other_strings_too(learned) -> None:
    hidden, images = learned
    others = torch.randint(0, 2, (len(images), 8), generator=torch.Generator().manual_seed(0))
    read = hidden.decoder(hidden.encoder(images, others.float())) > 0
    assert (read == others.bool()).float().mean() > 0.9


@torch.no_grad()
def test_the_change_is_bounded_faint_and_of_each_image_its_own(learned) -> None:
    hidden, images = learned
    change = (hidden(images) - images).flatten(1)
    assert change.abs().max() <= 24 / 255 + 1e-6
    assert -10 * change.square().mean().log10() > 25, "decibels"
    assert torch.cosine_similarity(change, change.roll(1, 0)).mean() < 0.9
