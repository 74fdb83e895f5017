"""`assay prompts`: real audits of prompts that the test tunes for the zoo's small CLIP."""

import contextlib
import json
import pathlib
import shutil
from collections.abc import Iterator

import pytest
import torch
from safetensors.torch import load_file, save_file

from assay.cli import repair_prompt
from assay.errors import UsageError
from assay.randomness import Seed, child
from assay.storage.files import fresh
from assay.storage.prompt_learners import load_prompted, write_prompt
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

    @contextlib.contextmanager
    def ending(out: pathlib.Path) -> Iterator[pathlib.Path]:
        with fresh(out) as partial:
            yield partial
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(repair_prompt, "fresh", ending)
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
    resumed = run("runs", "resume", "run", "--json", "--quiet")
    assert resumed.exit_code == 0, resumed.stderr
    found = parsed(resumed.stdout)
    assert found["verdict"] == "no_indicator"
    assert found["subjects"][0]["target"] is None
    for form, said in (("md", "Prompt audit"), ("sarif", "prompts"), ("junit", "testcase")):
        assert said in run("report", "run", "--format", form).stdout


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
