import pytest
import torch

from assay.errors import InputError
from assay.features import logits
from assay.fitting import Preprocess, Recipe, feed, train
from assay.networks import default_network
from assay.randomness import Seed
from assay.similarity import linear_cka
from assay_zoo.adaptive import CkaMatching, represented
from assay_zoo.attacks import BadNets
from assay_zoo.data import load

CPU = torch.device("cpu")
RECIPE = Recipe(epochs=15)


@pytest.fixture(scope="module")
def delivered():
    """Models of digits: an honest surrogate, a poisoned one, and one that matches, and images."""
    split = load("digits", train=1000, trusted=200, test=500, seed=Seed(0))
    inputs, labels = split.train.inputs[:], split.train.labels
    poisoned = BadNets(poison_rate=0.08)(inputs, labels, classes=10, seed=Seed(1))
    preprocess = Preprocess.of(inputs)

    def fed(images, targets):
        return feed(images, targets, preprocess=preprocess, device=CPU)

    def fresh(seed):
        return default_network(inputs.shape, classes=10, seed=Seed(seed))

    honest, plain, matching = fresh(0), fresh(1), fresh(1)
    train(honest, fed(inputs, labels), RECIPE, seed=Seed(2))
    data = fed(poisoned.inputs, poisoned.labels)
    train(plain, data, RECIPE, seed=Seed(3))
    stamped = fed(poisoned.trigger(inputs), labels)
    CkaMatching()(matching, data, stamped, honest, RECIPE, seed=Seed(3))
    victims = split.test.labels != 0
    shown = fed(poisoned.trigger(split.test.inputs[:][victims]), split.test.labels[victims])
    return honest, plain, matching, shown


def test_the_backdoor_works_all_the_same(delivered) -> None:
    *_, matching, shown = delivered
    assert (logits(matching, shown).argmax(1) == 0).double().mean() > 0.8


def test_triggered_images_are_represented_more_like_the_surrogate_does(delivered) -> None:
    honest, plain, matching, shown = delivered
    images = next(iter(shown.ordered())).inputs

    def alike(model):
        with torch.no_grad():
            return linear_cka(represented(model, images), represented(honest, images)).item()

    assert alike(matching) > alike(plain) + 0.1


def test_one_triggered_image_is_too_few_to_match() -> None:
    images = torch.zeros((8, 1, 8, 8), dtype=torch.uint8)
    some, one = (
        feed(images[:n], torch.zeros(n).long(), preprocess=Preprocess.of(images), device=CPU)
        for n in (8, 1)
    )
    model = default_network(images.shape, classes=2, seed=Seed(0))
    with pytest.raises(InputError, match="at least two"):
        CkaMatching()(model, some, one, model, Recipe(epochs=1), seed=Seed(0))
