import signal
import subprocess
import sys

import pytest
import torch

import grid

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(grid, "CACHE", tmp_path / "cache")


def group(measure, **recipe) -> grid.Group:
    cell = grid.Cell(name="one", kind="some", recipe=recipe, measure=measure)
    return grid.Group(name="group", cells=(cell,))


def run(group: grid.Group, folder) -> int:
    return grid.run([group], folder, device=CPU, shard=(0, 1))


def test_a_stored_cell_is_never_computed_again(tmp_path) -> None:
    calls = []

    def measure() -> grid.Result:
        calls.append(1)
        return {"tpr": 0.5}

    assert run(group(measure, seed=0), tmp_path) == run(group(measure, seed=0), tmp_path) == 0
    assert len(calls) == 1
    run(group(measure, seed=1), tmp_path)
    assert len(calls) == 2
    stored = grid.read_all(tmp_path)
    assert [cell["recipe"]["seed"] for cell in stored] in ([0, 1], [1, 0])
    assert all(cell["result"] == {"tpr": 0.5} for cell in stored)
    assert stored[0]["provenance"]["versions"]["torch"] == torch.__version__


def test_a_failed_cell_is_not_stored_and_does_not_end_the_grid(tmp_path, capsys) -> None:
    def fail() -> grid.Result:
        raise ValueError("no data")

    groups = [group(fail, seed=0), group(lambda: {"tpr": 1.0}, seed=1)]
    assert grid.run(groups, tmp_path, device=CPU, shard=(0, 1)) == 1
    assert [cell["recipe"]["seed"] for cell in grid.read_all(tmp_path)] == [1]
    assert "no data" in capsys.readouterr().err


def test_a_claimed_group_is_left_to_the_other_process(tmp_path) -> None:
    with grid.claimed("group") as granted:
        assert granted
        run(group(lambda: {"tpr": 1.0}), tmp_path)
        assert not grid.read_all(tmp_path)
    run(group(lambda: {"tpr": 1.0}), tmp_path)
    assert grid.read_all(tmp_path)


def test_a_shard_takes_its_own_groups_first_and_then_the_rest(tmp_path) -> None:
    order = []

    def make(index: int) -> grid.Group:
        def measure() -> grid.Result:
            order.append(index)
            return {}

        cell = grid.Cell(name=f"c{index}", kind="some", recipe={"i": index}, measure=measure)
        return grid.Group(name=f"g{index}", cells=(cell,))

    grid.run([make(i) for i in range(4)], tmp_path, device=CPU, shard=(1, 2))
    assert order == [1, 3, 0, 2]


def test_the_claim_of_a_killed_process_is_free(tmp_path) -> None:
    code = (
        "import pathlib, sys, time, grid\n"
        f"grid.CACHE = pathlib.Path({str(grid.CACHE)!r})\n"
        "with grid.claimed('group') as granted:\n"
        "    print(granted, flush=True)\n"
        "    time.sleep(60)\n"
    )
    command = [sys.executable, "-c", code]
    with subprocess.Popen(  # noqa: S603  ourselves
        command, stdout=subprocess.PIPE, text=True, cwd=grid.HERE
    ) as other:
        assert other.stdout.readline() == "True\n"
        with grid.claimed("group") as granted:
            assert not granted
        other.send_signal(signal.SIGKILL)
        other.wait()
    with grid.claimed("group") as granted:
        assert granted
