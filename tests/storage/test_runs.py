import fcntl
import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from assay.errors import InputError, UsageError
from assay.randomness import Seed
from assay.results import Cost, Findings, Store, Verdict
from assay.storage.runs import Input, RunFolder, list_runs

ASKED = {
    "audit": "dataset",
    "settings": {"rounds": 2, "method": {"weight": 20.0, "note": None}},
    "seed": Seed(7),
    "inputs": {"data": Input(path="/data/a", sha256="ab" * 32)},
}
FINDINGS = Findings(
    audit="dataset",
    verdict=Verdict.FLAGGED,
    alpha=0.05,
    reasons=("because",),
    subjects=(),
    cost=Cost(wall_s=1.0, device="cpu", peak_memory_mb=2.0),
    not_examined=(),
)


@pytest.fixture
def run(tmp_path):
    with RunFolder.create(tmp_path / "run", **ASKED) as made:
        yield made


def test_a_run_says_what_it_was_asked_and_with_what(run) -> None:
    info = RunFolder.open(run.path).info
    assert (info.audit, info.seed, info.settings) == ("dataset", 7, ASKED["settings"])
    assert info.inputs["data"].path == "/data/a"
    assert info.versions["torch"] == str(torch.__version__)
    assert {"assay", "python", "platform"} <= info.versions.keys()
    assert (info.state, info.ended) == ("running", None)


@pytest.mark.parametrize(
    ("error", "state"),
    [(None, "completed"), (KeyboardInterrupt(), "interrupted"), (ValueError("no"), "failed")],
)
def test_the_end_of_the_block_is_the_end_of_the_run(tmp_path, error, state) -> None:
    def work() -> None:
        with RunFolder.create(tmp_path / "run", **ASKED):
            if error is not None:
                raise error

    if error is None:
        work()
    else:
        with pytest.raises(type(error)):
            work()
    ended = RunFolder.open(tmp_path / "run")
    assert ended.info.state == state
    assert ended.info.ended is not None
    assert ended.events()[-1]["state"] == state


def test_a_folder_that_holds_something_is_left_alone(tmp_path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UsageError, match=r"thesis\.tex"):
        RunFolder.create(tmp_path, **ASKED)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(UsageError, match="is a file"):
        RunFolder.create(tmp_path / "thesis.tex", **ASKED)


def test_a_run_is_not_overwritten(run) -> None:
    run.finish("interrupted")
    run.close()
    before = (run.path / "run.json").read_bytes()
    with pytest.raises(UsageError, match="holds a run already"):
        RunFolder.create(run.path, **ASKED)
    assert (run.path / "run.json").read_bytes() == before


def test_a_run_killed_in_its_first_moment_can_be_begun_again(tmp_path) -> None:
    (tmp_path / "lock").write_text("123\n")
    (tmp_path / ".run.json.123.tmp").write_text('{"half')
    with RunFolder.begin(tmp_path, **ASKED):
        pass
    assert sorted(p.name for p in tmp_path.iterdir()) == ["events.jsonl", "lock", "run.json"]


def test_settings_that_json_cannot_hold_leave_no_folder(tmp_path) -> None:
    with pytest.raises(InputError, match=r"settings\.device"):
        RunFolder.create(tmp_path / "run", **{**ASKED, "settings": {"device": torch.device("cpu")}})
    assert not (tmp_path / "run").exists()


def test_the_same_question_goes_on(run) -> None:
    run.store().save("round-0", {"weights": torch.arange(3)})
    run.finish("interrupted")
    run.close()
    moved = {"data": Input(path="/elsewhere/a", sha256="ab" * 32)}
    with RunFolder.begin(run.path, **{**ASKED, "inputs": moved}) as again:
        assert again.info.state == "running"
        assert torch.equal(again.store().load("round-0")["weights"], torch.arange(3))
    assert [e["kind"] for e in again.events()] == ["created", "finished", "resumed", "finished"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"seed": Seed(8)}, r"seed was 7, is now 8"),
        ({"audit": "models"}, r'audit was "dataset", is now "models"'),
        ({"settings": {"rounds": 2, "method": {"weight": 1.0}}}, r"weight was 20.0, is now 1.0"),
        ({"settings": {"rounds": 2, "method": {"weight": 1.0}}}, r"note was null, is now not set"),
        ({"inputs": {"data": Input(path="/data/a", sha256="cd" * 32)}}, r"inputs\.data was \"abab"),
    ],
)
def test_another_question_does_not(run, change, message) -> None:
    run.finish("interrupted")
    run.close()
    with pytest.raises(UsageError, match=message):
        RunFolder.resume(run.path, **{**ASKED, **change})
    assert RunFolder.open(run.path).info.state == "interrupted"
    RunFolder.resume(run.path, **ASKED).close()


def test_a_completed_run_does_not_go_on(run) -> None:
    run.finish("completed")
    run.close()
    with pytest.raises(UsageError, match="is completed"):
        RunFolder.resume(run.path, **ASKED)


def test_what_is_no_run_does_not_open(tmp_path) -> None:
    with pytest.raises(UsageError, match=r"no run\.json"):
        RunFolder.open(tmp_path)
    (tmp_path / "run.json").write_text('{"schema": "assay/run/v9"}')
    with pytest.raises(InputError, match="expected schema 'assay/run/v1'"):
        _ = RunFolder.open(tmp_path).info


def test_a_run_opened_for_reading_is_not_written(run) -> None:
    reader = RunFolder.open(run.path)
    for write in (
        lambda: reader.event("x"),
        reader.store,
        lambda: reader.finish("completed"),
        lambda: reader.write_findings(FINDINGS),
        lambda: reader.write_table("subruns", {"a": [1]}),
        lambda: reader.write_tensors("a", {}),
        lambda: reader.write_json("a", 1),
        lambda: reader.write_artifact("a.png", b""),
    ):
        with pytest.raises(UsageError, match="opened for reading"):
            write()


HOLD = """
import sys, pathlib, time
from assay.storage.run_lock import take_lock
take_lock(pathlib.Path(sys.argv[1]))
print("held", flush=True)
time.sleep(60)
"""


def test_two_processes_cannot_work_in_one_run_and_kill_frees_it(run) -> None:
    run.close()
    holder = subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", HOLD, str(run.path)], stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UsageError, match=f"process {holder.pid} works in"):
            RunFolder.resume(run.path, **ASKED)
        assert RunFolder.open(run.path).info.state == "running"
        holder.send_signal(signal.SIGKILL)
    assert RunFolder.open(run.path).info.state == "interrupted"
    RunFolder.resume(run.path, **ASKED).close()


def test_one_process_cannot_work_twice_in_one_run(run) -> None:
    with pytest.raises(UsageError, match=f"process {os.getpid()} works in"):
        RunFolder.resume(run.path, **ASKED)


# Forks a worker for each line that it reads, so that libraries are loaded only once.
WORKERS = """
import os, pathlib, signal, sys
import torch
from assay.randomness import Seed
from assay.storage.runs import Input, RunFolder
from assay.storage.run_info import versions_here
torch.set_num_threads(1)
versions_here()
for line in sys.stdin:
    worker = os.fork()
    if worker == 0:
        path, asked = pathlib.Path(sys.argv[1]), {"audit": "dataset", "settings": {}, "inputs": {}}
        run = RunFolder.begin(path, seed=Seed(1), **asked)
        store = run.store()
        held = store.load("state")
        step = 0 if held is None else int(held["a"][0])
        for done in range(10**9):
            store.save("state", {name: torch.full((100_000,), step + done + 1) for name in "ab"})
            run.event("step", step=step + done + 1)
            if done == 0:
                print(os.getpid(), flush=True)
    os.waitpid(worker, 0)
    print("dead", flush=True)
"""


def test_state_is_whole_whenever_the_process_is_killed(tmp_path) -> None:
    path, steps = tmp_path / "run", [0]
    workers = subprocess.Popen(  # noqa: S603
        [sys.executable, "-c", WORKERS, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    moments = torch.rand(10, generator=torch.Generator().manual_seed(1)).tolist()
    with workers:
        for moment in moments:
            workers.stdin.write("go\n")
            workers.stdin.flush()
            pid = int(workers.stdout.readline())
            time.sleep(0.1 * moment)
            os.kill(pid, signal.SIGKILL)
            assert workers.stdout.readline() == "dead\n"
            assert RunFolder.open(path).info.state == "interrupted"
            with RunFolder.resume(
                path, audit="dataset", settings={}, seed=Seed(1), inputs={}
            ) as run:
                state = run.store().load("state")
                told = [e["step"] for e in run.events() if e["kind"] == "step"]
                run.finish("interrupted")
            assert state["a"].unique().tolist() == state["b"].unique().tolist()
            assert told[-1] <= int(state["a"][0]) <= told[-1] + 1, "a step that was told is lost"
            assert not list(path.rglob("*.tmp"))
            steps.append(int(state["a"][0]))
        workers.stdin.close()
    assert steps == sorted(set(steps)), "a worker did not go on from where the last one was killed"


def test_a_torn_last_event_costs_no_other(run) -> None:
    run.event("first", text="Frösche\n", number=math.nan)
    run.finish("interrupted")
    run.close()
    with (run.path / "events.jsonl").open("ab") as file:
        file.write(b'{"kind": "torn", "te')
    with RunFolder.resume(run.path, **ASKED) as again:
        again.event("last")
        kinds = [event["kind"] for event in again.events()]
    assert kinds == ["created", "first", "finished", "resumed", "last"]
    first = again.events()[1]
    assert first["text"] == "Frösche\n"
    assert math.isnan(first["number"])


def test_the_store_keeps_any_tensors(run) -> None:
    store = run.store()
    assert isinstance(store, Store)
    assert store.load("never-saved") is None
    base = torch.arange(12.0).view(3, 4)
    kept = {
        "strided": base.t(),
        "shared": base,
        "none": torch.empty(0, 3),
        "scalar": torch.tensor(True),
        "half": base.bfloat16(),
        "trained": torch.nn.Parameter(base + 0.5),
        "lasts": base.view(1, 3, 2, 2).to(memory_format=torch.channels_last),
    }
    store.save("all", kept)
    loaded = store.load("all")
    assert loaded.keys() == kept.keys()
    for name, tensor in kept.items():
        assert loaded[name].dtype == tensor.dtype
        assert torch.equal(loaded[name], tensor)
    loaded["shared"].zero_()
    assert torch.equal(store.load("all")["shared"], base), "the file changed with the tensor"


@pytest.mark.parametrize("damage", [b"", b"\0" * 100, None])
def test_damaged_state_is_passed_over_with_an_event(run, damage) -> None:
    store = run.store()
    store.save("round-0", {"weights": torch.arange(100)})
    file = run.path / "state" / "round-0.safetensors"
    file.write_bytes(file.read_bytes()[:-7] if damage is None else damage)
    assert store.load("round-0") is None
    assert run.events()[-1]["kind"] == "state-damaged"
    assert run.events()[-1]["name"] == "round-0"
    store.save("round-0", {"weights": torch.arange(2)})
    assert store.load("round-0") is not None


@pytest.mark.parametrize("name", ["../up", "/etc/passwd", "", ".hidden", "a/b", "a" * 200, "a\0"])
def test_names_do_not_leave_the_folder(run, name) -> None:
    for use in (run.store().load, run.read_table, run.read_json, run.read_tensors):
        with pytest.raises(InputError, match="expected a name"):
            use(name)


def test_findings_come_back(run) -> None:
    with pytest.raises(InputError, match="no findings, it is running"):
        run.read_findings()
    run.write_findings(FINDINGS)
    assert repr(RunFolder.open(run.path).read_findings()) == repr(FINDINGS)
    document = run.document()
    assert document["schema"] == "assay/findings/v1"
    assert document["run"]["inputs"] == {"data": {"path": "/data/a", "sha256": "ab" * 32}}


def test_artifacts_come_back(run) -> None:
    run.write_json("proof", {"rows": [{"asr": None, "accuracy": math.inf}]})
    run.write_tensors("gallery", {"inputs": torch.arange(6, dtype=torch.uint8).view(1, 1, 2, 3)})
    run.write_artifact("trigger.png", b"\x89PNG")
    assert run.read_json("proof") == {"rows": [{"asr": None, "accuracy": math.inf}]}
    assert run.read_tensors("gallery")["inputs"].shape == (1, 1, 2, 3)
    assert (run.path / "artifacts" / "trigger.png").read_bytes() == b"\x89PNG"
    assert run.read_json("none") is None
    assert run.read_tensors("none") is None


SAMPLES = {
    "index": torch.arange(3),
    "id": ["a.png", "\udce9.png", "<b>"],
    "label": [0, 1, 0],
    "poison_score": [0.5, math.nan, None],
    "p_value": torch.tensor([0.25, 0.5, 1.0], dtype=torch.float32),
    "is_poison_issue": torch.tensor([True, False, False]),
}


def test_tables_come_back(run) -> None:
    run.write_table("samples", SAMPLES)
    table = run.read_table("samples")
    assert list(table) == list(SAMPLES)
    assert table["index"] == [0, 1, 2]
    assert table["id"] == ["a.png", "\\udce9.png", "<b>"]
    assert table["p_value"] == [0.25, 0.5, 1.0]
    assert table["is_poison_issue"] == [True, False, False]
    assert table["poison_score"][0] == 0.5
    assert math.isnan(table["poison_score"][1])
    assert table["poison_score"][2] is None
    assert run.read_table("samples", ["label"]) == {"label": [0, 1, 0]}
    assert run.read_table("classes") is None


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({k: v for k, v in SAMPLES.items() if k != "p_value"}, "expected the columns"),
        ({**SAMPLES, "more": [1, 2, 3]}, "expected the columns"),
        ({**SAMPLES, "label": [0, 1]}, "cannot store"),
        ({**SAMPLES, "label": ["a", "b", "c"]}, "cannot store"),
        ({**SAMPLES, "index": torch.tensor([0.5, 1.0, 2.0])}, "cannot store"),
    ],
)
def test_tables_of_another_form_are_refused(run, columns, message) -> None:
    with pytest.raises(InputError, match=message):
        run.write_table("samples", columns)
    assert run.read_table("samples") is None


def test_a_damaged_table_is_refused(run) -> None:
    run.write_table("others", {"a": [1, 2], "b": ["x", None]})
    assert run.read_table("others") == {"a": [1, 2], "b": ["x", None]}
    with pytest.raises(InputError, match="no"):
        run.read_table("others", ["c"])
    (run.path / "others.parquet").write_bytes(b"PAR1 and more")
    with pytest.raises(InputError, match="cannot read"):
        run.read_table("others")


def test_runs_are_listed(tmp_path) -> None:
    for name in ("b", "a"):
        RunFolder.create(tmp_path / name, **ASKED).close()
    (tmp_path / "notes").mkdir()
    assert [run.path.name for run in list_runs(tmp_path)] == ["a", "b"]
    assert list_runs(tmp_path)[0].info.state == "interrupted"
    with pytest.raises(UsageError, match="expected a folder"):
        list_runs(tmp_path / "none")


def test_a_lock_that_is_a_link_is_not_followed(run, tmp_path) -> None:
    run.finish("interrupted")
    run.close()
    victim = tmp_path / "victim"
    victim.write_text("years of work")
    (run.path / "lock").unlink()
    (run.path / "lock").symlink_to(victim)
    with pytest.raises(UsageError, match="got a symbolic link"):
        RunFolder.resume(run.path, **ASKED)
    new = tmp_path / "new"
    new.mkdir()
    (new / "lock").symlink_to(victim)
    with pytest.raises(UsageError, match="got a symbolic link"):
        RunFolder.create(new, **ASKED)
    assert victim.read_text() == "years of work"


def test_a_run_whose_lock_is_a_link_is_not_running(run, tmp_path) -> None:
    run.close()
    lock = run.path / "lock"
    lock.rename(tmp_path / "elsewhere")
    lock.symlink_to(tmp_path / "elsewhere")
    with (tmp_path / "elsewhere").open() as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        assert RunFolder.open(run.path).info.state == "interrupted"
