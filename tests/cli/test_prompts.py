"""`assay prompts`: real audits of prompts that the test tunes for the zoo's small CLIP."""

import json
import os
import pathlib
import shutil
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from rich.table import Table
from safetensors.torch import load_file, save_file

from assay.audits.prompts import PromptsAudit
from assay.cli import repair_prompt
from assay.cli.prompts_job import PromptsJob, load_prompt
from assay.errors import UsageError
from assay.randomness import Seed, child
from assay.repair import Retuned
from assay.results import Verdict, silent
from assay.storage.prompt_learners import load_prompted, write_prompt
from assay.storage.runs import RunFolder
from assay.triggers import Patch
from assay_zoo.clip import BUNDLED
from assay_zoo.prompt_attacks import Schedule
from assay_zoo.prompting import HONEST, Recipe, Tuned, deliver, find_task

from .conftest import Run, parsed, save

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
SEED = Seed(0)


CIFAR = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


def written(folder: pathlib.Path, task_name: str, attack: str, steps: int) -> Tuned:
    """Tune a prompt, and write it in both forms beside class names and clean samples."""
    task = find_task(task_name)
    schedule = Schedule(steps=steps)
    made = deliver(
        Recipe(task=task_name, learner="coop", attack=attack, seed=SEED, schedule=schedule)
    )
    write_prompt(made.prompted, folder / f"{attack}.safetensors")
    write_prompt(made.prompted, folder / f"{attack}.pth.tar-1")
    (folder / "classes.txt").write_text("\n".join(task.class_names))
    images = task.trusted.inputs[:200].permute(0, 2, 3, 1)
    save(folder / "clean.npz", images, task.trusted.labels[:200], names=list(task.class_names))
    return made


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with an honest prompt, class names and clean samples."""
    folder = tmp_path_factory.mktemp("tuned")
    made = written(folder, "digits", HONEST, steps=40)
    assert made.prompted.class_names == NAMES
    assert made.accuracy > 0.8
    return folder


@pytest.fixture
def here(tuned: pathlib.Path, tmp_path: pathlib.Path) -> pathlib.Path:
    shutil.copytree(tuned, tmp_path, dirs_exist_ok=True)
    return tmp_path


OPTIONS = ("--classes", "classes.txt", "--device", "cpu", "--quiet")


def test_a_planted_prompt_is_flagged_shown_and_repaired(
    run: Run, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    try:
        made = written(tmp_path, "cifar10", "badclip", steps=120)
    except UsageError as error:
        pytest.skip(str(error))
    assert made.asr is not None
    assert made.asr > 0.6

    placing = repair_prompt._place

    def ending(work: pathlib.Path, folder: pathlib.Path) -> None:
        placing(work, folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(repair_prompt, "_place", ending)
        ended = run(
            *("prompts", BUNDLED, "badclip.safetensors", *OPTIONS, "--clean", "clean.npz"),
            *("--repair", "fixed.safetensors", "--out", "run"),
        )
        assert ended.exit_code == 130, ended.stderr
    result = run("runs", "resume", "run", "--json", "--quiet")
    assert result.exit_code == 1, result.stderr
    target = CIFAR[child(SEED, "target") % len(CIFAR)]
    found = parsed(result.stdout)
    assert found["audit"] == "prompts"
    assert found["verdict"] == "flagged"
    assert found["subjects"][0]["target"] == target
    assert found["subjects"][0]["evidence"]["asr"] > 0.5
    html = pathlib.Path("run/report.html").read_text()
    for said in ("the backbone alone", target, "Prompt audit", "data:image/png", "Repaired"):
        assert said in html
    repaired = json.loads(pathlib.Path("run/artifacts/repair.json").read_text())["items"][0]
    before, after = repaired["rows"]
    assert after["asr"] < before["asr"] - 0.2
    assert after["accuracy"] > before["accuracy"] - 0.1
    fixed = load_prompted(str(BUNDLED), "fixed.safetensors", CIFAR)
    assert fixed.kind == "coop"
    assert not torch.equal(
        load_file("fixed.safetensors")["ctx"], load_file("badclip.safetensors")["ctx"]
    )


@pytest.mark.usefixtures("here")
def test_an_honest_prompt_is_not_flagged_and_a_run_resumes(run: Run) -> None:
    asked = ("prompts", BUNDLED, "honest.pth.tar-1", *OPTIONS, "--out", "run")
    stopped = run(*asked, "--max-minutes", "0")
    assert stopped.exit_code == 2
    assert json.loads(pathlib.Path("run/findings.json").read_text())["verdict"] == "inconclusive"
    assert "<bdi>honest.pth.tar-1</bdi></h1>" in pathlib.Path("run/report.html").read_text()
    resumed = run("runs", "resume", "run", "--json", "--quiet")
    assert resumed.exit_code == 0, resumed.stderr
    found = parsed(resumed.stdout)
    assert found["verdict"] == "no_indicator"
    assert found["subjects"][0]["target"] is None
    for form, said in (("md", "Prompt audit"), ("sarif", "prompts"), ("junit", "testcase")):
        assert said in run("report", "run", "--format", form).stdout


ASKED = {"audit": "prompts", "settings": {}, "seed": SEED, "inputs": {}}


def asked_to_repair(here: pathlib.Path, **changes: str) -> PromptsJob:
    given = {"clean": str(here / "clean.npz"), "repair": str(here / "fixed.safetensors")} | changes
    return PromptsJob(
        backbone=str(BUNDLED),
        prompt=str(here / "honest.safetensors"),
        classes=str(here / "classes.txt"),
        ood="procedural",
        seed=0,
        device="cpu",
        alpha=0.05,
        memory_mb=4096,
        **given,
    )


def flagged(**changes: object) -> Mock:
    found = Mock(target=0, trigger=Patch(pattern=torch.ones(1, 4, 4), mask=torch.ones(4, 4)))
    given = {"recovered": found, "doubt": "", "doubts_labels": False} | changes
    return Mock(spec=PromptsAudit, verdict=Verdict.FLAGGED, **given)


def untuned(model: torch.nn.Module, *_: object, **__: object) -> Retuned:
    return Retuned(values=dict(model.learner.named_parameters()), rows=(), unseen=0)


def test_a_repair_on_doubted_labels_is_refused(here: pathlib.Path) -> None:
    job = asked_to_repair(here)
    audit = flagged(doubt="check --classes and their order", doubts_labels=True)
    with RunFolder.create(here / "run", **ASKED) as run:
        (said,) = repair_prompt.repair_prompt(run, job, load_prompt(job), audit, silent)
        (item,) = run.read_json("repair")["items"]
    assert str(said).startswith("honest.safetensors: not repaired")
    assert "check --classes and their order" in item["note"]
    assert (item["written"], item["rows"]) == (None, [])
    assert not list(here.glob("fixed*"))


def test_a_repair_that_few_samples_would_prove_is_refused(here: pathlib.Path) -> None:
    held = np.load(here / "clean.npz")
    few = {name: held[name][:99] if len(held[name]) == 200 else held[name] for name in held.files}
    np.savez(here / "few.npz", **few)
    job = asked_to_repair(here, clean=str(here / "few.npz"))
    with RunFolder.create(here / "run", **ASKED) as run:
        (said,) = repair_prompt.repair_prompt(run, job, load_prompt(job), flagged(), silent)
    assert "expected at least 100 clean samples" in str(said)
    assert "got 99; give more with --clean" in str(said)
    assert not list(here.glob("fixed*"))


def test_a_run_killed_between_prompt_and_description_goes_on(
    here: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(work: pathlib.Path, folder: pathlib.Path) -> None:
        os.link(work / "fixed.json", folder / "fixed.json")
        raise KeyboardInterrupt

    monkeypatch.setattr(repair_prompt, "retune", untuned)
    monkeypatch.setattr(repair_prompt, "repair_table", lambda _: Table())
    job = asked_to_repair(here)
    read = load_prompt(job)
    with monkeypatch.context() as patched:
        patched.setattr(repair_prompt, "_place", killed)
        with pytest.raises(KeyboardInterrupt), RunFolder.create(here / "run", **ASKED) as run:
            repair_prompt.repair_prompt(run, job, read, flagged(), silent)
    assert [file.name for file in here.glob("fixed*")] == ["fixed.json"]
    with RunFolder.resume(here / "run", **ASKED) as run:
        repair_prompt.repair_prompt(run, job, read, flagged(), silent)
    assert load_prompted(str(BUNDLED), job.repair, NAMES).kind == "coop"


def test_a_checkpoint_has_no_description_in_its_way(tmp_path: pathlib.Path) -> None:
    (tmp_path / "fixed.pth.json").write_text("mine")
    repair_prompt.check_path(tmp_path / "fixed.pth.tar", "model.pth.tar-50")
    (tmp_path / "fixed.json").write_text("mine")
    with pytest.raises(UsageError, match=r"fixed\.json exists"):
        repair_prompt.check_path(tmp_path / "fixed.safetensors", "model.safetensors")


@pytest.mark.parametrize("appears", ["before", "searching", "writing", "placing"])
@pytest.mark.parametrize("name", ["fixed.json", "fixed.safetensors"])
def test_what_appears_where_a_repaired_prompt_belongs_stays(
    here: pathlib.Path, monkeypatch: pytest.MonkeyPatch, appears: str, name: str
) -> None:
    def mine(now: str) -> None:
        if now == appears and not (here / name).exists():
            (here / name).write_text("mine")

    def tune(model: torch.nn.Module, *_: object, **__: object) -> Retuned:
        mine("searching")
        return untuned(model)

    def write(*arguments: object, **options: object) -> None:
        mine("writing")
        write_prompt(*arguments, **options)

    def link(source: pathlib.Path, target: pathlib.Path) -> None:
        mine("placing")
        linking(source, target)

    linking = os.link
    monkeypatch.setattr(repair_prompt, "retune", tune)
    monkeypatch.setattr(repair_prompt, "write_prompt", write)
    monkeypatch.setattr(os, "link", link)
    job, audit = asked_to_repair(here), flagged()
    read = load_prompt(job)
    path = here / "run"
    mine("before")
    with (
        pytest.raises(UsageError, match=rf"{name} exists; move it away, and resume"),
        RunFolder.create(path, **ASKED) as run,
    ):
        repair_prompt.repair_prompt(run, job, read, audit, silent)
    assert [file.name for file in here.glob("*fixed*")] == [name]
    assert (here / name).read_text() == "mine"
    (here / name).unlink()
    monkeypatch.undo()
    monkeypatch.setattr(repair_prompt, "retune", tune)
    appears = "never"
    with RunFolder.resume(path, **ASKED) as run:
        repair_prompt.repair_prompt(run, job, read, audit, silent)
    assert load_prompted(str(BUNDLED), job.repair, NAMES).kind == "coop"
    assert len(list(here.glob("*fixed*"))) == 2


@pytest.mark.usefixtures("here")
def test_a_dry_run_writes_nothing(run: Run) -> None:
    result = run("prompts", BUNDLED, "honest.pth.tar-1", *OPTIONS, "--dry-run", "--json")
    assert result.exit_code == 0
    found = parsed(result.stdout)
    assert (found["learner"], found["classes"]) == ("CoOp", 10)
    assert not pathlib.Path("runs").exists()


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("changed", "code", "says"),
    [
        ({"backbone": "nowhere"}, 4, "nowhere"),
        ({"prompt": "nowhere.pth.tar-1"}, 4, "nowhere"),
        ({"--classes": "nowhere.txt"}, 4, "nowhere"),
        ({"--classes": "few.txt"}, 3, "10 classes"),
        ({"--ood": "nowhere"}, 4, "nowhere"),
        ({"prompt": "nan.safetensors"}, 3, "NaN"),
        ({"prompt": "other.safetensors"}, 3, "ctx"),
        ({"--alpha": "2"}, 4, "alpha"),
        ({"--repair": "fixed.safetensors"}, 4, "--clean"),
        ({"--ood": "mosaics"}, 4, "--clean"),
        ({"--repair": "clean.npz", "--clean": "clean.npz"}, 4, "exists"),
        ({"--repair": "fixed.pth.tar-1", "--clean": "clean.npz"}, 4, "ends as"),
        ({"--clean": "classes.txt"}, 3, "classes.txt"),
    ],
)
def test_mistakes_are_named(run: Run, changed: dict[str, str], code: int, says: str) -> None:
    pathlib.Path("few.txt").write_text("\n".join(NAMES[:4]))
    ctx = load_file("honest.safetensors")["ctx"]
    save_file({"ctx": ctx * torch.nan}, "nan.safetensors")
    save_file({"ctx": ctx[:, :-1].contiguous()}, "other.safetensors")
    asked = {"backbone": str(BUNDLED), "prompt": "honest.safetensors", "--classes": "classes.txt"}
    asked |= changed
    options = [part for name in asked if name.startswith("--") for part in (name, asked[name])]
    result = run("prompts", asked["backbone"], asked["prompt"], *options, "--quiet")
    assert result.exit_code == code, result.stderr
    assert says in result.stderr
    assert "Traceback" not in result.stderr
