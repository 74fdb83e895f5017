import pathlib
from typing import IO, Any
from unittest.mock import Mock

import pytest

from assay.storage.runs import RunFolder

from .conftest import Run, parsed

Files = tuple[pathlib.Path, pathlib.Path]
Calls = list[dict[str, Any]]


@pytest.fixture
def stopped(run: Run, files: Files, quick: Calls) -> pathlib.Path:
    """A run that Ctrl-C has ended."""
    data, clean = files
    run("dataset", data, "--clean", clean, "--out", "runs/one", "--max-minutes", 0, "--seed", 5)
    return pathlib.Path("runs/one")


def test_list_tells_how_runs_stand(run: Run, stopped: pathlib.Path, quick: Calls) -> None:
    run("dataset", "data.npz", "--clean", "clean.npz", "--out", "runs/two")
    broken = pathlib.Path("runs/broken")
    broken.mkdir()
    (broken / "run.json").write_text("{")
    listed = parsed(run("runs", "list", "--json").stdout)["runs"]
    assert {line["run"]: (line["state"], line["verdict"]) for line in listed} == {
        "runs/broken": ("damaged", None),
        "runs/one": ("interrupted", "inconclusive"),
        "runs/two": ("completed", "flagged"),
    }
    shown = run("runs", "list").stdout
    assert "interrupted" in shown
    assert "runs/two" in shown


def test_names_are_whole_in_a_pipe(run: Run, files: Files, quick: Calls) -> None:
    data, clean = files
    for _ in range(2):  # in the same second, mostly
        run("dataset", data, "--clean", clean)
    names = {str(path) for path in pathlib.Path("runs").iterdir()}
    assert len(names) == 2
    assert all(name in run("runs", "list").stdout for name in names)


def test_resuming_asks_what_was_asked(run: Run, stopped: pathlib.Path, quick: Calls) -> None:
    resumed = run("runs", "resume", stopped)
    assert resumed.exit_code == 1
    assert [call["seed"] for call in quick] == [5, 5]
    assert parsed((stopped / "run.json").read_text())["state"] == "completed"
    again = run("runs", "resume", stopped)
    assert again.exit_code == 4
    assert "completed" in again.stderr


def test_resuming_refuses_inputs_that_have_changed(
    run: Run, files: Files, stopped: pathlib.Path, quick: Calls
) -> None:
    data, clean = files
    data.write_bytes(clean.read_bytes())
    resumed = run("runs", "resume", stopped)
    assert resumed.exit_code == 4
    assert "data" in resumed.stderr
    assert len(quick) == 1


def test_show_before_and_after(run: Run, stopped: pathlib.Path, quick: Calls) -> None:
    (stopped / "findings.json").unlink()
    early = run("runs", "show", stopped)
    assert early.exit_code == 0
    assert "interrupted" in early.stdout
    assert parsed(run("runs", "show", stopped, "--json").stdout)["seed"] == 5
    run("runs", "resume", stopped)
    assert "Flagged" in run("runs", "show", stopped).stdout


@pytest.mark.parametrize("form", ["html", "json", "sarif", "junit", "md"])
def test_every_format_is_rendered_from_the_run(
    run: Run, files: Files, quick: Calls, form: str
) -> None:
    run("dataset", "data.npz", "--clean", "clean.npz", "--out", "out")
    printed = run("report", "out", "--format", form)
    assert printed.exit_code == 0
    written = run("report", "out", "--format", form, "-o", "report.txt")
    assert written.exit_code == 0
    assert not written.stdout
    assert pathlib.Path("report.txt").read_text().strip() == printed.stdout.strip()
    assert run("report", "out", "--format", form, "-o", "report.txt").exit_code == 4


def test_a_report_that_could_not_be_written_whole_is_not_left_behind(
    run: Run, files: Files, quick: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("dataset", "data.npz", "--clean", "clean.npz", "--out", "out")
    opened = pathlib.Path.open

    def full(path: pathlib.Path, mode: str = "r", **options: str) -> IO[Any]:
        file = opened(path, mode, **options)
        if mode == "x":
            file.write("half of it")
            monkeypatch.setattr(file, "write", Mock(side_effect=OSError(28, "No space left")))
        return file

    monkeypatch.setattr(pathlib.Path, "open", full)
    result = run("report", "out", "--format", "md", "-o", "report.md")
    assert result.exit_code == 4
    assert "No space left" in result.stderr
    assert not pathlib.Path("report.md").exists()


def test_a_run_out_of_time_has_a_report(stopped: pathlib.Path, quick: Calls) -> None:
    page = (stopped / "report.html").read_text()
    assert "This run is interrupted" in page
    assert "The time budget was spent" in page


def test_a_run_is_completed_once_its_report_is_there(
    run: Run, files: Files, quick: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, clean = files

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(RunFolder, "write_report", full)
        run("dataset", data, "--clean", clean, "--out", "one")
    assert parsed(pathlib.Path("one/run.json").read_text())["state"] == "failed"
    assert run("runs", "resume", "one").exit_code == 1
    assert parsed(pathlib.Path("one/run.json").read_text())["state"] == "completed"
    assert "This run is" not in pathlib.Path("one/report.html").read_text()
