import pytest
import torch

from assay.audits.models.language.prompts import Place, halves, prompts_of
from assay.errors import InputError
from assay.randomness import Seed


def test_what_all_prompts_share_is_found_and_triggers_go_inside() -> None:
    prompts = prompts_of([[1, 2, 7, 8, 3], [1, 2, 9, 3], [1, 2, 4, 5, 6, 3]], most_tokens=5)
    assert (prompts.head, prompts.tail) == (2, 1)
    before, after = prompts.around(0, Place.START)
    assert (before.tolist(), after.tolist()) == ([1, 2], [7, 8, 3])
    before, after = prompts.around(0, Place.END)
    assert (before.tolist(), after.tolist()) == ([1, 2, 7, 8], [3])
    assert prompts.ids[2].tolist() == [1, 2, 4, 5, 3], "its own text is cut, the form is kept"


def test_prompts_without_a_form_keep_every_token() -> None:
    prompts = prompts_of([[1, 2], [3, 4]], most_tokens=9)
    assert (prompts.head, prompts.tail) == (0, 0)
    assert prompts.around(1, Place.END)[0].tolist() == [3, 4]
    assert len(prompts.around(1, Place.END)[1]) == 0


def test_a_prompt_that_is_only_the_form_keeps_a_token_of_its_own() -> None:
    prompts = prompts_of([[1, 2], [1, 5, 2]], most_tokens=9)
    assert prompts.head + prompts.tail < 2


def test_one_odd_prompt_in_many_does_not_hide_the_form() -> None:
    rows = [[1, 2, n, n + 1, 9] for n in range(10, 50)]
    for odd in ([1, 2, 9], [77, 78, 79, 80, 81]):
        prompts = prompts_of([*rows, odd], most_tokens=9)
        assert (prompts.head, prompts.tail, len(prompts)) == (2, 1, 40)


@pytest.mark.parametrize("rows", [[], [[1], []]])
def test_empty_prompts_are_refused(rows: list[list[int]]) -> None:
    with pytest.raises(InputError):
        prompts_of(rows, most_tokens=9)


def test_halves_share_no_prompt_and_the_seed_alone_decides() -> None:
    prompts = prompts_of([[1, n, 2] for n in range(3, 43)], most_tokens=9)
    state = torch.get_rng_state()
    first, second = halves(prompts, most=30, seed=Seed(1))
    again, _ = halves(prompts, most=30, seed=Seed(1))
    assert torch.equal(state, torch.get_rng_state())
    assert (len(first), len(second)) == (15, 15)
    own = [{tuple(ids.tolist()) for ids in half.ids} for half in (first, second)]
    assert not own[0] & own[1]
    assert [ids.tolist() for ids in again.ids] == [ids.tolist() for ids in first.ids]
