"""`assay dataset` around a quick audit: exit codes, what is written where, and hostile input."""

import pathlib
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from assay.cli import perform

from .conftest import Run, parsed, save

Files = tuple[pathlib.Path, pathlib.Path]
Calls = list[dict[str, Any]]


def test_flagged_data_exit_with_1_and_leave_a_whole_run(
    run: Run, files: Files, quick: Calls
) -> None:
    data, clean = files
    result = run("dataset", data, "--clean", clean, "--out", "out", "--seed", 7)
    assert result.exit_code == 1, result.stderr
    assert "Flagged" in result.stdout
    assert quick[0]["seed"] == 7
    written = {p.name for p in pathlib.Path("out").iterdir()}
    assert {"findings.json", "samples.parquet", "classes.parquet", "report.html"} <= written
    samples = pq.read_table("out/samples.parquet").to_pydict()
    assert [i for i, bad in enumerate(samples["is_poison_issue"]) if bad] == [1, 11, 21, 31, 41, 51]
    assert parsed(pathlib.Path("out/run.json").read_text())["state"] == "completed"


def test_exit_codes_of_the_other_verdicts(run: Run, files: Files, quick: Calls) -> None:
    data, clean = files
    assert run("dataset", clean, "--clean", clean, "--out", "nothing").exit_code == 0
    save(data, torch.zeros(40, 8, 8, dtype=torch.uint8), torch.arange(40) % 2)
    save(clean, torch.ones(6, 8, 8, dtype=torch.uint8), torch.arange(6) % 2)
    assert run("dataset", data, "--clean", clean, "--out", "unknown").exit_code == 2
    zero = run("dataset", data, "--clean", clean, "--out", "unknown2", "--exit-zero")
    assert zero.exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("dataset",), 4, "Missing argument"),
        (("dataset", "data.npz"), 4, "--clean"),
        (("dataset", "data.npz", "--clean", "nowhere.npz"), 4, "nowhere.npz"),
        (("dataset", "data.npz", "--clean", "clean.npz", "--nonsense"), 4, "--nonsense"),
        (("dataset", "data.npz", "--clean", "clean.npz", "--seed", "x"), 4, "--seed"),
        (("dataset", "data.npz", "--clean", "clean.npz", "--alpha", "1.5"), 4, "--alpha"),
        (("dataset", "data.npz", "--clean", "clean.npz", "--device", "abacus"), 4, "abacus"),
        (("dataset", "data.npz", "--clean", "clean.npz", "--device", "cuda:99"), 4, "cuda:99"),
        (("dataset", "data.npz", "--clean", "clean.npz", "--mean", "0.5"), 4, "--std"),
        (("dataset", "data.npz", "--clean", "clean.npz", "--mean", "a", "--std", "b"), 4, "--mean"),
        (("dataset", "data.npz", "--clean", "clean.npz", "--model", "no.such:net"), 4, "no.such"),
        (("dataset", "data.npz", "--clean", "other.npz"), 3, "shape"),
        (("dataset", "data.npz", "--clean", "colour.npz"), 3, "channels"),
        (("dataset", "text.npz", "--clean", "clean.npz"), 3, "text.npz"),
        (("dataset", "data.npz", "--clean", "data.npz", "--prove"), 3, "hold some out"),
        (("dataset", "data.npz", "--clean", "clean.npz", "--cleanse", "no/x.npz"), 4, "folder"),
        (("dataset", "data.npz", "--clean", "clean.npz", "--cleanse", "x.csv"), 4, ".npz"),
        (
            ("dataset", "data.npz", "--clean", "clean.npz", "--out", "q.npz", "--cleanse", "q.npz"),
            4,
            "beside the run",
        ),
        (("dataset", ".", "--clean", "clean.npz", "--out", "inside"), 4, "outside"),
        (("nonsense",), 4, "nonsense"),
        (("report", "nowhere"), 4, "nowhere"),
        (("runs", "resume", "nowhere"), 4, "nowhere"),
        (("runs", "list", "nowhere"), 4, "nowhere"),
        (("doctor", "--device", "abacus"), 2, ""),
    ],
)
@pytest.mark.usefixtures("files", "quick")
def test_mistakes_end_in_a_sentence_and_their_exit_code(
    run: Run, arguments: tuple[str, ...], code: int, said: str
) -> None:
    pathlib.Path("text.npz").write_text("this is no archive")
    save(pathlib.Path("other.npz"), torch.ones(30, 9, 9, dtype=torch.uint8), torch.arange(30) % 2)
    colour = torch.ones(30, 8, 8, 3, dtype=torch.uint8)
    save(pathlib.Path("colour.npz"), colour, torch.arange(30) % 2)
    result = run(*arguments)
    assert result.exit_code == code, result.stderr
    assert said in result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    assert not pathlib.Path("runs").exists(), "a mistake leaves no run behind"


def test_an_unforeseen_error_ends_in_a_sentence_and_2(
    run: Run, files: Files, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("out of luck\nand of memory")

    monkeypatch.setattr("assay.cli.perform.audit_dataset", fails)
    data, clean = files
    result = run("dataset", data, "--clean", clean, "--out", "out", "--json")
    assert result.exit_code == 2
    assert "RuntimeError: out of luck and of memory" in result.stderr
    assert "Traceback" not in result.stderr
    assert parsed(result.stdout)["error"] == "RuntimeError"
    assert parsed(pathlib.Path("out/run.json").read_text())["state"] == "failed"
    monkeypatch.setenv("ASSAY_DEBUG", "1")
    debugged = run("dataset", data, "--clean", clean, "--out", "out2")
    assert isinstance(debugged.exception, RuntimeError)  # type: ignore[attr-defined]


def test_json_alone_goes_to_stdout(run: Run, files: Files, quick: Calls) -> None:
    data, clean = files
    result = run("dataset", data, "--clean", clean, "--json", "--cleanse", "left.npz")
    found = parsed(result.stdout)
    assert found["schema"] == "assay/findings/v1"
    assert found["verdict"] == "flagged"
    assert "train" in result.stderr, "progress goes to stderr"
    silent = run("dataset", data, "--clean", clean, "--json", "--quiet", "--out", "two")
    assert parsed(silent.stdout)["verdict"] == "flagged"
    assert not silent.stderr


def test_json_tells_an_error_from_a_verdict(run: Run, files: Files) -> None:
    for arguments in (("nowhere.npz",), ("data.npz", "--nonsense")):
        result = run("dataset", *arguments, "--clean", "clean.npz", "--json")
        document = parsed(result.stdout)
        assert document["schema"] == "assay/error/v1"
        assert document["exit_code"] == result.exit_code == 4


def test_nothing_that_exists_is_overwritten(run: Run, files: Files, quick: Calls) -> None:
    data, clean = files
    before = {path: path.read_bytes() for path in files}
    full = pathlib.Path("full")
    full.mkdir()
    (full / "mine.txt").write_text("mine")
    assert run("dataset", data, "--clean", clean, "--out", full).exit_code == 4
    assert run("dataset", data, "--clean", clean, "--out", data).exit_code == 4
    assert run("dataset", data, "--clean", clean, "--cleanse", clean).exit_code == 4
    assert [p.name for p in full.iterdir()] == ["mine.txt"]
    assert before == {path: path.read_bytes() for path in files}
    assert run("dataset", data, "--clean", clean, "--out", "out").exit_code == 1
    assert run("dataset", data, "--clean", clean, "--out", "out").exit_code == 4
    assert not quick[1:], "work was done that could not be stored"


def test_cleansing_writes_the_rest_in_the_same_form(run: Run, files: Files, quick: Calls) -> None:
    data, clean = files
    result = run("dataset", data, "--clean", clean, "--cleanse", "left.npz")
    assert "left.npz" in result.stdout
    with np.load(data) as before, np.load("left.npz") as after:
        white = (before["images"] == 255).all((1, 2))
        assert (after["images"] == before["images"][~white]).all()
        assert (after["labels"] == before["labels"][~white]).all()


def test_where_nothing_is_flagged_nothing_is_cleansed_or_proved(
    run: Run, files: Files, quick: Calls
) -> None:
    _, clean = files
    save(pathlib.Path("more.npz"), torch.ones(20, 8, 8, dtype=torch.uint8), torch.arange(20) % 2)
    arguments = ("--clean", "more.npz", "--cleanse", "left.npz", "--prove", "--out", "out")
    result = run("dataset", clean, *arguments)
    assert result.exit_code == 0
    assert "no cleansed data" in result.stdout
    assert not pathlib.Path("left.npz").exists()
    assert not pathlib.Path("out/artifacts/proof.json").exists()


def test_names_of_classes_are_shown_as_they_are(run: Run, files: Files, quick: Calls) -> None:
    images = torch.zeros(60, 8, 8, dtype=torch.uint8)
    images[1::10] = 255
    names = np.array(["[red]:smile:[/red]", "<script>alert(1)</script>[link=x]"])
    save(pathlib.Path("odd.npz"), images, torch.arange(60) % 2, names=names)
    result = run("dataset", "odd.npz", "--clean", "clean.npz", "--out", "out")
    assert result.exit_code == 1, result.stderr
    assert "<script>alert(1)</script>[link=x]" in result.stdout
    assert "<script>alert" not in pathlib.Path("out/report.html").read_text()
    listed = run("runs", "show", "out", "--json")
    assert parsed(listed.stdout)["subjects"][1]["name"] == names[1]


def test_classes_are_matched_by_name(run: Run, files: Files, quick: Calls) -> None:
    images = torch.arange(60, dtype=torch.uint8)[:, None, None].expand(60, 8, 8).contiguous()
    labels = torch.arange(60) % 2
    save(pathlib.Path("a.npz"), images, labels, names=np.array(["cat", "dog"]))
    save(pathlib.Path("b.npz"), images, labels, names=np.array(["dog", "cat"]))
    save(pathlib.Path("c.npz"), images, labels, names=np.array(["dog", "emu"]))
    assert run("dataset", "a.npz", "--clean", "b.npz").exit_code == 0
    assert quick[0]["trusted"].class_names == ("cat", "dog")
    assert torch.equal(quick[0]["trusted"].labels, 1 - labels)
    wrong = run("dataset", "a.npz", "--clean", "c.npz")
    assert wrong.exit_code == 3
    assert "emu" in wrong.stderr


def test_a_spent_budget_is_inconclusive_and_resumable(run: Run, files: Files, quick: Calls) -> None:
    data, clean = files
    result = run("dataset", data, "--clean", clean, "--out", "out", "--max-minutes", 0, "--json")
    assert result.exit_code == 2
    found = parsed(result.stdout)
    assert found["verdict"] == "inconclusive"
    assert "budget" in found["reasons"][0]
    assert "assay runs resume out" in result.stderr
    resumed = run("runs", "resume", "out", "--json")
    assert resumed.exit_code == 1
    assert parsed(resumed.stdout)["verdict"] == "flagged"


def test_the_users_network_and_preprocessing_reach_the_audit(
    run: Run, files: Files, quick: Calls, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "my_nets.py").write_text(
        "import torch\n"
        "def small(classes, channels, size):\n"
        "    return torch.nn.Sequential(\n"
        "        torch.nn.Flatten(), torch.nn.Linear(channels * size**2, classes))\n"
    )
    arguments = ("--model", "my_nets:small", "--mean", "0.5", "--std", "0.25", "--size", "9")
    assert run("dataset", "data.npz", "--clean", "clean.npz", *arguments).exit_code == 1
    assert quick[0]["network"]()[1].in_features == 81
    preprocess = quick[0]["preprocess"]
    assert (preprocess.mean, preprocess.std, preprocess.size) == ((0.5,), (0.25,), 9)


def test_a_network_whose_code_has_changed_is_not_resumed(
    run: Run, files: Files, quick: Calls, tmp_path: pathlib.Path
) -> None:
    code = tmp_path / "its_nets.py"
    code.write_text("import torch\ndef make(classes): return torch.nn.Flatten()\n")
    asked = ("dataset", "data.npz", "--clean", "clean.npz", "--model", "its_nets:make")
    assert run(*asked, "--out", "out", "--max-minutes", 0).exit_code == 2
    code.write_text(code.read_text() + "# another one\n")
    refused = run("runs", "resume", "out")
    assert refused.exit_code == 4, refused.stderr
    assert "inputs.model" in refused.stderr
    assert len(quick) == 1


def test_a_dry_run_measures_and_leaves_nothing(run: Run, files: Files, quick: Calls) -> None:
    data, clean = files
    before = set(pathlib.Path().rglob("*"))
    arguments = ("dataset", data, "--clean", clean, "--dry-run", "--json")
    alone = run(*arguments)
    assert alone.exit_code == 0, alone.stderr
    proved = parsed(run(*arguments, "--prove").stdout)
    assert parsed(alone.stdout)["wall_s"] > 0
    assert set(proved["stages_s"]) - set(parsed(alone.stdout)["stages_s"]) == {
        "retrain-before",
        "retrain-after",
    }
    said = run(*arguments[:-1]).stdout
    assert "in all about" in said
    assert parsed(alone.stdout)["foreseen"][0] in said
    assert set(pathlib.Path().rglob("*")) == before
    assert not quick


def test_data_that_change_during_the_audit_are_not_cleansed(
    run: Run, files: Files, quick: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, clean = files
    audit = perform.audit_dataset

    def changing(*args: Any, **kwargs: Any) -> Any:
        data.write_bytes(data.read_bytes() + b"x")
        return audit(*args, **kwargs)

    monkeypatch.setattr(perform, "audit_dataset", changing)
    result = run("dataset", data, "--clean", clean, "--out", "out", "--cleanse", "c.npz")
    assert result.exit_code == 3, result.stderr
    assert "has changed" in result.stderr
    assert not pathlib.Path("c.npz").exists()
    assert quick


def test_cleansed_data_of_a_run_that_ended_just_after_them_are_its_own(
    run: Run, files: Files, quick: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, clean = files
    write = perform.datasets.write_samples

    def ending(*args: Any, **kwargs: Any) -> None:
        write(*args, **kwargs)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(perform.datasets, "write_samples", ending)
        ended = run("dataset", data, "--clean", clean, "--out", "out", "--cleanse", "c.npz")
        assert ended.exit_code == 130, ended.stderr
    before = pathlib.Path("c.npz").read_bytes()
    resumed = run("runs", "resume", "out", "--quiet")
    assert resumed.exit_code == 1, resumed.stderr
    assert pathlib.Path("c.npz").read_bytes() == before
    assert quick


def test_a_foreign_file_in_the_place_of_the_cleansed_data(
    run: Run, files: Files, quick: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, clean = files
    audit = perform.audit_dataset

    def planting(*args: Any, **kwargs: Any) -> Any:
        pathlib.Path("c.npz").write_text("precious")
        return audit(*args, **kwargs)

    monkeypatch.setattr(perform, "audit_dataset", planting)
    result = run("dataset", data, "--clean", clean, "--out", "out", "--cleanse", "c.npz")
    assert result.exit_code == 4, result.stderr
    assert "something else lies" in result.stderr
    assert pathlib.Path("c.npz").read_text() == "precious"
    assert quick
