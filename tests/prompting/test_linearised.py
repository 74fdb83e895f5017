import pytest
import torch

from assay.errors import InputError
from assay.prompting import CoCoOp, CoOp, Linearised, Prompted
from assay.randomness import Seed

from .conftest import NAMES


def prompted(backbone, *, strength: float) -> Prompted:
    """A CoCoOp whose images shift the context by more or less."""
    learner = CoCoOp.fresh(backbone, seed=Seed(0), context=2)
    with torch.no_grad():
        for parameter in learner.meta_net.parameters():
            parameter.mul_(strength)
    return Prompted(backbone, learner, NAMES).requires_grad_(requires_grad=False)


def test_it_is_near_where_images_shift_little_and_exact_where_they_do_not(backbone, images):
    for strength, most in ((0.0, 1e-5), (0.2, 1e-2)):
        model = prompted(backbone, strength=strength)
        exact, near = model(images), Linearised(model, images)(images)
        assert (exact - near).abs().max() <= most * exact.abs().max()


def test_it_follows_what_images_shift(backbone, images):
    """Around shifts that matter it is nearer to the prompt than the prompt without them."""
    model = prompted(backbone, strength=4.0)
    exact, near = model(images), Linearised(model, images)(images)
    still = Linearised(model, images)
    still.slopes = torch.zeros_like(still.slopes)
    assert (exact - near).abs().mean() < 0.5 * (exact - still(images)).abs().mean()


def test_a_unit_that_sleeps_on_the_images_is_followed_when_it_wakes(backbone, images):
    """As one would that a trigger wakes: left out, the search could not see what it does."""
    model = prompted(backbone, strength=1.0)
    first = model.learner.meta_net[0]
    with torch.no_grad():
        first.bias[0] = -1e3
    near = Linearised(model, images)
    assert (near.hidden(model.image_features(images))[:, 0] == 0).all()
    with torch.no_grad():
        first.bias[0] = 1.0
    exact, asleep = model(images), near.slopes.clone()
    asleep[0] = 0
    found = (exact - near(images)).abs().mean()
    near.slopes = asleep
    assert found < 0.7 * (exact - near(images)).abs().mean()


def test_gradients_reach_the_images_as_they_do_through_the_prompt(backbone, images):
    model = prompted(backbone, strength=1.0)
    gradients = []
    for each in (model, Linearised(model, images)):
        pixels = images.clone().requires_grad_()
        gradients.append(torch.autograd.grad(each(pixels)[:, 0].sum(), pixels)[0].flatten())
    assert torch.nn.functional.cosine_similarity(*gradients, dim=0) > 0.99


def test_its_parts_are_the_whole(backbone, images):
    near = Linearised(prompted(backbone, strength=1.0), images)
    assert torch.allclose(near(images), near.logits(near.image_features(images)))


def test_other_learners_are_refused(backbone, images):
    other = Prompted(backbone, CoOp.fresh(backbone, seed=Seed(0), context=2), NAMES)
    with pytest.raises(InputError, match="CoCoOp, got CoOp"):
        Linearised(other, images)
    with pytest.raises(InputError, match="two images"):
        Linearised(prompted(backbone, strength=1.0), images[:1])
