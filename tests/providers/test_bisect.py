import pytest

from assay.errors import InputError
from assay.providers.bisect import bisect


def log(*digests: str | None) -> bytes:
    lines = [
        f'{{"step": {i}, "digest": "{d * 64}"}}' if d else f'{{"step": {i}}}'
        for i, d in enumerate(digests, 10)
    ]
    return ("\n".join(['{"note": "hello"}', *lines]) + "\n").encode()


def test_the_first_step_that_differs_is_found() -> None:
    found = bisect({"c": log("a", "b", "x", "y"), "a": log("a", "b", "c", "d"), "b": log("a", "b")})
    said = {(p.first, p.second): (p.step, p.compared) for p in found}
    assert said == {("a", "b"): (None, 2), ("a", "c"): (12, 4), ("b", "c"): (None, 2)}


def test_logs_without_digests_say_nothing() -> None:
    (parting,) = bisect({"a": log(None, None), "b": log("a", "b")})
    assert (parting.step, parting.compared) == (None, 0)


def test_one_log_is_not_enough() -> None:
    with pytest.raises(InputError, match="two providers"):
        bisect({"a": log("a")})
