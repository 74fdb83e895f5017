import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from assay.errors import InputError, UsageError
from assay.providers.ledger import Ledger, check_chain, read_ledger

LINES: list[bytes] = []


@pytest.fixture(scope="module", autouse=True)
def lines(tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("ledger") / "ledger.jsonl"
    ledger = Ledger(path)
    for number in range(6):
        ledger.append("sent", {"number": number, "distance": 0.1 * number, "text": "naïve"})
    LINES[:] = path.read_bytes().splitlines()


@given(st.data())
def test_any_change_of_a_byte_is_noticed(data: st.DataObject) -> None:
    row = data.draw(st.integers(0, len(LINES) - 1))
    place = data.draw(st.integers(0, len(LINES[row]) - 1))
    byte = data.draw(st.integers(0, 255).filter(lambda b: b != LINES[row][place]))
    changed = LINES[row][:place] + bytes([byte]) + LINES[row][place + 1 :]
    with pytest.raises(InputError, match="of the ledger"):
        check_chain([*LINES[:row], changed, *LINES[row + 1 :]])


@given(st.permutations(range(6)), st.integers(1, 6))
def test_any_other_order_or_gap_is_noticed(order: list[int], count: int) -> None:
    chosen = order[:count]
    if chosen == list(range(count)):
        assert len(check_chain([LINES[i] for i in chosen])) == count  # the end can be missing
        return
    with pytest.raises(InputError, match="does not follow"):
        check_chain([LINES[i] for i in chosen])


@given(st.integers(0, 5), st.integers(0, 6))
def test_a_line_put_in_again_is_noticed(row: int, place: int) -> None:
    with pytest.raises(InputError, match="does not follow"):
        check_chain([*LINES[:place], LINES[row], *LINES[place:]])


@pytest.mark.parametrize("torn", [b'{"index": 2, "ti', b"\xff", b'{"index": 2}'])
def test_a_torn_line_is_cut_off_and_the_chain_goes_on(tmp_path: pathlib.Path, torn: bytes) -> None:
    path = tmp_path / "ledger.jsonl"
    ledger = Ledger(path)
    ledger.append("a", {})
    ledger.append("b", {})
    with path.open("ab") as file:
        file.write(torn)
    assert [e.kind for e in read_ledger(path)] == ["a", "b"]
    again = Ledger(path)
    again.append("c", {})
    assert [e.kind for e in read_ledger(path)] == ["a", "b", "c"]


def test_a_ledger_that_is_not_there_is_said(tmp_path: pathlib.Path) -> None:
    with pytest.raises(UsageError, match="expected a ledger"):
        read_ledger(tmp_path / "ledger.jsonl")


def test_a_ledger_never_grows_beyond_what_can_be_read(tmp_path, monkeypatch) -> None:
    path = tmp_path / "ledger.jsonl"
    monkeypatch.setattr("assay.providers.ledger._MAX_LEDGER", 1000)
    ledger = Ledger(path)
    ledger.append("a", {"text": "x" * 500})
    with pytest.raises(InputError, match="expected at most 1000 bytes"):
        ledger.append("b", {"text": "x" * 500})
    assert [e.kind for e in read_ledger(path)] == ["a"]
    assert [e.kind for e in ledger.entries] == ["a"]


def test_a_line_that_could_not_be_read_is_not_written(tmp_path: pathlib.Path) -> None:
    ledger = Ledger(tmp_path / "ledger.jsonl")
    deep: list[object] = []
    for _ in range(200):
        deep = [deep]
    with pytest.raises(InputError, match="damaged"):
        ledger.append("a", {"deep": deep})
    assert Ledger(tmp_path / "ledger.jsonl").entries == []
