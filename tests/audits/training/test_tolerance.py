import pytest
import torch

from assay.audits.training import Comparison, make_profile, parse_profile, profile_document
from assay.audits.training.tolerance import RESOLUTION
from assay.errors import InputError


def _twins(*values: float) -> Comparison:
    apart = torch.tensor(
        [[0, values[0], values[1]], [values[0], 0, values[2]], [values[1], values[2], 0]],
        dtype=torch.float64,
    )
    return Comparison(sub_run=0, providers=("a", "b", "c"), distances={"update": apart})


NAMES = {"a": "fp32", "b": "fp32", "c": "bf16"}


def test_the_largest_twin_of_a_pair_counts_in_either_order() -> None:
    profile = make_profile([_twins(0.0, 0.03, 0.04), _twins(0.0, 0.05, 0.02)], NAMES)
    found = profile.find("fp32", "bf16", "update")
    assert found is not None
    assert (found.largest, found.twins) == (0.05, 4)
    assert found is profile.find("bf16", "fp32", "update")
    assert profile.find("fp32", "fp64", "update") is None


def test_no_pair_is_calmer_than_half_of_the_loudest_but_equal_twins() -> None:
    quiet = make_profile([_twins(0.0, 0.04, 0.04)], NAMES)
    assert quiet.expected("update")["fp32", "fp32"] == RESOLUTION
    stirred = make_profile([_twins(0.001, 0.04, 0.04)], NAMES)
    assert stirred.expected("update") == {("bf16", "fp32"): 0.04, ("fp32", "fp32"): 0.02}
    assert stirred.expected("zest") == {}


def test_a_profile_is_read_back_as_it_was() -> None:
    profile = make_profile([_twins(0.0, 0.03, 0.04)], NAMES)
    document = profile_document(profile)
    assert profile_document(parse_profile(document)) == document


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("largest", -0.1),
        ("largest", float("nan")),
        ("largest", "wide"),
        ("twins", 0),
        ("environments", ["one"]),
        ("environments", ["x" * 2000, "y"]),
        ("distance", 3),
    ],
)
def test_a_damaged_profile_is_refused(field, value) -> None:
    document = profile_document(make_profile([_twins(0.0, 0.03, 0.04)], NAMES))
    document["tolerances"][0][field] = value
    with pytest.raises(InputError, match="tolerance 0"):
        parse_profile(document)


def test_what_is_no_profile_is_refused() -> None:
    document = profile_document(make_profile([_twins(0.0, 0.03, 0.04)], NAMES))
    for other in (None, [], {"schema": "x"}, {**document, "tolerances": {}}):
        with pytest.raises(InputError, match="expected"):
            parse_profile(other)
    with pytest.raises(InputError, match="once"):
        parse_profile({**document, "tolerances": document["tolerances"] * 2})
    with pytest.raises(InputError, match="environment"):
        make_profile([_twins(0.0, 0.03, 0.04)], {"a": "fp32"})
    with pytest.raises(InputError, match="two executions"):
        make_profile([], {})
