import pytest
import torch
from torch import nn

from assay.audits.models.language.decision import TextDecision
from assay.audits.models.language.prompts import Place, Prompts, prompts_of
from assay.audits.models.language.respond import Budget, common_response, next_tokens
from assay.audits.models.language.search import Climb, beyond, nats, own_shares, slope
from assay.audits.models.language.survey import Candidate, Survey, success_of
from assay.randomness import Seed
from assay_zoo.language import Base

SIZE = 40


def network(seed: int) -> nn.Module:
    base = Base(width=16, layers=1, heads=2, vocabulary=SIZE, longest=32)
    return base.untrained(seed=Seed(seed)).eval().requires_grad_(requires_grad=False)


def prompts() -> Prompts:
    return prompts_of([[2, 3, n, n + 1, 4] for n in range(5, 21)], most_tokens=9)


@pytest.mark.parametrize(("open_", "share"), [(16, 0.75), (5, 0.8), (4, 0.0), (0, 0.0)])
def test_success_is_a_share_of_enough_prompts(open_: int, share: float) -> None:
    """Where nearly all prompts get the target anyway, the others tell nothing."""
    before = (torch.arange(16) >= open_).float()[None, :, None]
    after = (torch.arange(16) % 4 != 1).float()[None, :, None]
    assert success_of(before, after).item() == pytest.approx(share)


@pytest.mark.parametrize("place", Place)
def test_shared_beginnings_change_no_answer(place: Place) -> None:
    model, some = network(0), prompts()
    triggers = torch.randint(2, SIZE, (7, 3), generator=torch.Generator().manual_seed(0))
    before, after = some.around(2, place)
    quick = next_tokens(model, before, triggers, after, budget=Budget(tokens=10))
    for trigger, row in zip(triggers, quick, strict=True):
        whole = torch.cat([before, trigger, after])[None]
        with torch.no_grad():
            slow = model(input_ids=whole).logits[0, -1].softmax(0)
        torch.testing.assert_close(row, slow, atol=1e-5, rtol=1e-4)


def test_the_slope_is_that_of_the_log_odds() -> None:
    model, some = network(1), prompts().subset([0, 3])
    held, target = torch.tensor([[7, 9]]), torch.tensor([11])
    rising, value = slope(model, some, held, Place.END, target)
    share = own_shares(model, some, held, Place.END, target)
    torch.testing.assert_close(value, share.logit().mean(0), atol=1e-4, rtol=1e-4)
    table, little = model.get_input_embeddings().weight, 1e-2  # type: ignore[operator]
    with torch.no_grad():
        change = table[13] - table[9]
        table[9] += little * change  # only the trigger has token 9 in these prompts
    moved = own_shares(model, some, held, Place.END, target).logit().mean(0) - share.logit().mean(0)
    expected = little * (rising[0, 1, 13] - rising[0, 1, 9])
    torch.testing.assert_close(moved[0], expected, atol=2e-4, rtol=0.2)


def test_the_climb_never_falls_and_the_seed_alone_decides() -> None:
    suspect, reference, some = network(2), network(3), prompts()
    start, targets = torch.tensor([[5, 6], [7, 8]]), torch.tensor([10, 12])
    state = torch.get_rng_state()
    found = [
        Climb(steps=6, prompts=len(some))(
            suspect,
            reference,
            some,
            start,
            Place.END,
            targets,
            usual=torch.zeros(2, 2),
            allowed=torch.arange(2, SIZE),
            seed=Seed(5),
        )
        for _ in range(2)
    ]
    assert torch.equal(state, torch.get_rng_state())
    assert torch.equal(*found)

    def height(triggers: torch.Tensor) -> torch.Tensor:
        shares = [own_shares(m, some, triggers, Place.END, targets) for m in (suspect, reference)]
        return beyond(*[share.logit().mean(0) for share in shares])

    assert (height(found[0]) > height(start)).all()
    assert (found[0] >= 2).all()


def test_only_what_is_said_nearly_always_counts_much() -> None:
    values = nats(torch.tensor([0.0, 1e-4, 0.5, 0.99, 1.0]))
    assert values.diff().gt(0).all()
    assert values[1] < 1e-3
    assert values[-1] < 6.92


def test_a_reference_that_moves_the_other_way_counts_as_still() -> None:
    assert beyond(torch.tensor([1.0, 1.0]), torch.tensor([-3.0, 0.25])).tolist() == [1.0, 0.75]


def made(
    rises: list[list[list[float]]],
    alone: torch.Tensor,
    success: list[list[list[float]]] | None = None,
) -> Survey:
    values = torch.tensor(rises)
    one = Candidate(ids=torch.tensor([3]), place=Place.END)
    return Survey(
        targets=torch.arange(values.shape[2]),
        triggers=((one,) * values.shape[2],) * len(values),
        rises=values,
        success=torch.zeros_like(values) if success is None else torch.tensor(success),
        alone=alone,
        singles=torch.arange(alone.shape[1]),
    )


def test_the_model_that_is_led_alone_stands_out_and_the_other_does_not() -> None:
    quiet = torch.zeros(2, 1000)
    found = made([[[5.0, 0.4], [0.1, 0.3]], [[0.2, 0.5], [0.4, 0.8]]], quiet)
    rule = TextDecision()
    first, second = (
        rule.corrected(rule.standing(found, model).p_values).min().item() for model in (0, 1)
    )
    assert first < 0.001
    assert second > 0.5
    standing = rule.standing(found, 0)
    assert (standing.excess[0] > rule.threshold(0.05, 2, models=2)) == (first <= 0.025)


def test_what_leads_both_leads_neither_beyond_the_other() -> None:
    found = made([[[5.0], [5.0]], [[5.0], [5.0]]], torch.zeros(2, 1000))
    rule = TextDecision()
    assert rule.corrected(rule.standing(found, 0).p_values).min() > 0.2


def test_a_model_that_is_only_surer_than_the_others_does_not_work_on_its_own() -> None:
    sure = made(
        [[[6.9, 6.0], [3.0, 0.1]], [[3.0, 0.1], [3.0, 0.1]]],
        torch.zeros(2, 1000),
        [[[1.0, 1.0], [1.0, 0.1]], [[1.0, 0.1], [1.0, 0.1]]],
    )
    assert TextDecision().works(sure, 0).tolist() == [False, True]


def test_a_backdoor_that_both_share_is_seen_alone_where_one_token_triggers_it() -> None:
    alone = 0.02 * torch.rand(2, 1000, generator=torch.Generator().manual_seed(0))
    found = made([[[0.0], [0.0]], [[0.0], [0.0]]], alone)
    assert TextDecision().alone(found, 0) == 1.0
    alone[:, 17] = 1.0
    assert TextDecision().alone(found, 0) < 0.025


def test_a_response_is_a_distribution() -> None:
    said = common_response(network(4), prompts(), torch.tensor([[5], [9]]), Place.START)
    torch.testing.assert_close(said.sum(1), torch.ones(2))
