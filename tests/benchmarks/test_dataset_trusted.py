import pytest

import dataset_audit
import dataset_trusted
from experiment import Case


def case(scenario: str) -> Case:
    asked = ["--data", "digits", "--scenario", scenario, "--train", "400", "--trusted", "100"]
    return dataset_audit.cases(dataset_audit.parser(None).parse_args(asked))[0]


@pytest.mark.parametrize(("way", "suspects", "poison"), [("drawn", 300, 20), ("10 %", 400, 20)])
def test_trusted_sets_are_drawn_or_poisoned(way: str, suspects: int, poison: int) -> None:
    made = dataset_trusted.given(case("badnets"), way)
    assert len(made.suspects) == len(made.is_poison) == suspects
    assert len(made.trusted) == len(made.is_trusted_poison) == 100
    both = int(made.is_poison.sum()) + int(made.is_trusted_poison.sum())
    assert both == (poison if way == "drawn" else poison + 10)


def test_the_table_counts_verdicts_and_names() -> None:
    cells = [
        {
            "recipe": {"data": "digits", "scenario": "badnets", "way": "drawn"},
            "result": {"verdict": verdict, "named": 3, "named_poison": 2},
        }
        for verdict in ("flagged", "inconclusive", "inconclusive")
    ]
    row = "| digits | badnets | drawn | 3 | 1 | 2 | 0 | 9, 6 |"
    assert dataset_trusted.table(cells).splitlines()[-1] == row
    assert dataset_trusted.table([]) == "no cells"
