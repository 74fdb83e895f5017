import pytest
import torch

from assay.errors import InputError
from assay.stats import contamination


def drawn(seed, *, poison, above, clean=1000, trusted=100):
    random = torch.Generator().manual_seed(seed)
    scores = torch.randn(clean + poison, generator=random) * 2 + 5
    scores[clean:] += above
    return scores, torch.randn(trusted, generator=random) * 2 + 5


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_probabilities_are_about_right_where_groups_overlap(share):
    poison = int(1000 * share / (1 - share))
    scores, trusted = drawn(0, poison=poison, above=6, trusted=1000)
    likely = contamination(scores, trusted).double()
    assert likely.mean().item() == pytest.approx(share, rel=0.2)
    some = (likely > 0.3) & (likely < 0.7)
    assert 0.2 < (some[1000:].sum() / some.sum()).item() < 0.8


def test_clean_scores_are_hardly_suspected():
    for seed in range(10):
        scores, trusted = drawn(seed, poison=0, above=0)
        assert (contamination(scores, trusted) > 0.5).double().mean() < 0.1


def test_nothing_below_the_trusted_mean_is_suspected():
    scores, trusted = drawn(1, poison=200, above=3)
    assert contamination(scores, trusted)[scores < trusted.mean()].eq(0).all()


@pytest.mark.parametrize(("seed", "width", "far"), [(0, 0.3, 6.5), (1, 0.3, 7.0), (2, 2.0, 12.0)])
def test_a_higher_score_is_never_less_likely(seed, width, far):
    random = torch.Generator().manual_seed(seed)
    poison = 4 + width * torch.randn(100, generator=random)
    scores = torch.cat([torch.randn(900, generator=random), poison, torch.tensor([far, far])])
    likely = contamination(scores, torch.randn(500, generator=random))
    assert (likely[scores.argsort()].diff() >= 0).all()
    assert likely[-2:].min() > 0.9


def test_equal_trusted_scores_are_borne():
    likely = contamination(torch.tensor([0.0, 0.0, 1.0, 1.0]), torch.zeros(5))
    assert likely.round().tolist() == [0, 0, 1, 1]


def test_nan_and_too_few_are_refused():
    with pytest.raises(InputError, match="finite"):
        contamination(torch.tensor([0.0, torch.nan]), torch.zeros(3))
    with pytest.raises(InputError, match="at least 2"):
        contamination(torch.zeros(3), torch.zeros(1))
