import collections
import pathlib

import pytest

from assay.errors import InputError
from assay.providers.secrecy import Secret, choice, commitment, open_secret

NAMES = ["a", "b", "c"]


def secret(number: int) -> Secret:
    return Secret(text=f"{number:064x}")


def test_every_place_is_replicated_as_often_as_any_other() -> None:
    drawn = collections.Counter(
        place
        for number in range(600)
        for place in secret(number).replicated(attempt=0, places=range(6), count=2)
    )
    assert drawn.keys() == set(range(6))
    assert all(140 < count < 260 for count in drawn.values()), drawn


def test_every_provider_is_the_main_one_as_often_as_any_other() -> None:
    drawn = collections.Counter(secret(1).main(sub_run=i, providers=NAMES) for i in range(600))
    assert all(150 < drawn[name] < 250 for name in NAMES), drawn


def test_an_attempt_is_drawn_anew() -> None:
    draws = {secret(1).replicated(attempt=a, places=range(20), count=5) for a in range(5)}
    assert len(draws) == 5


def test_names_of_bundles_tell_nothing() -> None:
    names = {secret(1).bundle(sub_run=i, provider=n) for i in range(9) for n in NAMES}
    assert len(names) == 27
    assert {len(name) for name in names} == {32}


def test_a_commitment_binds_secret_and_choice() -> None:
    promised = choice(secret(1), places=6, count=2)
    assert commitment(promised) == commitment(choice(secret(1), places=6, count=2))
    others = [
        choice(secret(2), places=6, count=2),
        choice(secret(1), places=6, count=3),
        {**promised, "replicated": [0, 1, 2]},
    ]
    assert commitment(promised) not in map(commitment, others)


def test_the_secret_of_a_run_is_drawn_once(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "state" / "secret.txt"
    drawn = open_secret(path)
    assert open_secret(path).text == drawn.text != open_secret(tmp_path / "other").text
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text("short")
    with pytest.raises(InputError, match="secret"):
        open_secret(path)
