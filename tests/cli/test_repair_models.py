"""`assay models --repair` around a quick audit: real training, what is written, and resuming."""

import pathlib
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from assay.audits.models import ModelsSettings
from assay.audits.models.halves import halves
from assay.cli import repair_models
from assay.cli.models_job import Reordered
from assay.cli.repair_models import entries, outcome, shortfall
from assay.fitting import answers, behind
from assay.networks import default_network
from assay.randomness import Seed
from assay.repair import Measured, Unlearning
from assay.stats import wilson
from assay.storage.models import load_model

from .conftest import Run, parsed, save
from .test_models import NAMES, hugging_face

Calls = list[dict[str, Any]]
A, B = "a.safetensors@assay.networks:resnet", "b.safetensors@assay.networks:resnet"
REPAIR = ("--repair", "fixed")
CPU = torch.device("cpu")


@pytest.fixture
def clean(run: Run) -> None:
    """Images of three classes, told apart by their brightness, in `clean.npz`."""
    random = torch.Generator().manual_seed(0)
    images = torch.randint(60, (120, 8, 8), generator=random, dtype=torch.uint8)
    labels = torch.arange(120) % 3
    save(pathlib.Path("clean.npz"), images + 60 * labels[:, None, None].byte(), labels,
         names=np.array(NAMES))  # fmt: skip


@pytest.fixture
def weights(clean: None) -> None:
    """Two untrained networks, `a.safetensors` and `b.safetensors`."""
    for seed, name in enumerate("ab"):
        network = default_network(torch.Size((1, 1, 8, 8)), classes=3, seed=Seed(seed))
        save_file(network.state_dict(), f"{name}.safetensors")


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch, quick_models: Calls) -> Calls:
    """Trains for 40 steps; returns what the quick audit was called with."""
    true = repair_models.unlearn

    def unlearn(*args: Any, **options: Any) -> Any:
        return true(*args, method=Unlearning(steps=40, rate=0.05), **options)

    monkeypatch.setattr(repair_models, "unlearn", unlearn)
    return quick_models


def audit(run: Run, *models: str, options: tuple[object, ...] = REPAIR) -> Any:
    return run("models", *models, "--clean", "clean.npz", "--out", "out", *options)


def record() -> Any:
    return parsed(pathlib.Path("out/artifacts/repair.json").read_text())


def everything(folder: str) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in pathlib.Path(folder).rglob("*") if p.is_file()}


@pytest.mark.usefixtures("weights")
def test_the_flagged_model_alone_is_repaired_and_proved(run: Run) -> None:
    before = {name: pathlib.Path(f"{name}.safetensors").read_bytes() for name in "ab"}
    result = audit(run, A, B)
    assert result.exit_code == 1, result.stderr
    assert [p.name for p in pathlib.Path("fixed").iterdir()] == ["b.safetensors"]
    assert all(pathlib.Path(f"{n}.safetensors").read_bytes() == c for n, c in before.items())
    assert load_model("fixed/" + B, classes=3, channels=1).model is not None
    (item,) = record()["items"]
    assert (item["model"], item["written"], item["note"]) == ("b.safetensors",) * 2 + ("",)
    assert (item["measured_on"], item["triggered"]) == (60, 40)
    assert [row["model"] for row in item["rows"]] == ["before", "after"]
    after = item["rows"][1]
    assert after["accuracy"] > 0.9, "it learned from the clean samples"
    assert after["accuracy_low"] <= after["accuracy"] <= after["accuracy_high"]
    assert 0 <= after["asr_low"] <= after["asr"] <= after["asr_high"] <= 1
    assert "/fixed/b.safetensors\n" in result.stdout
    assert "trigger succeeds" in result.stdout
    shown = f"{100 * after['accuracy']:.1f} %"
    page = pathlib.Path("out/report.html").read_text()
    assert 'id="repair"' in page
    assert shown in page
    assert shown in run("report", "out", "--format", "md").stdout
    assert not [p for p in pathlib.Path().iterdir() if p.name.startswith(".")]


@pytest.mark.usefixtures("clean")
def test_a_folder_keeps_its_own_order_of_classes(run: Run, short: Calls) -> None:
    hugging_face("ours", NAMES)
    theirs = hugging_face("theirs", ("emu", "cat", "dog"), image_mean=[0.25], image_std=[0.5])
    result = audit(run, "ours", "theirs")
    assert result.exit_code == 1, result.stderr
    (item,) = record()["items"]
    assert item["written"] == "theirs"
    for name in ("config.json", "preprocessor_config.json"):
        assert pathlib.Path("fixed", "theirs", name).read_bytes() == (theirs / name).read_bytes()
    again = run("models", "ours", "fixed/theirs", "--clean", "clean.npz")
    assert again.exit_code == 1, again.stderr
    delivery = short[1]["deliveries"][1]
    assert isinstance(delivery.model, Reordered)
    held = halves(short[1]["clean"], most=ModelsSettings().most_samples, seed=Seed(0), device=CPU)[
        1
    ]
    respond = behind(delivery.model, delivery.preprocess, CPU)
    right = (answers(respond, held.images).argmax(1) == held.labels).double().mean().item()
    assert right == pytest.approx(item["rows"][1]["accuracy"])
    assert right > item["rows"][0]["accuracy"]


@pytest.mark.usefixtures("weights")
def test_a_pickle_of_weights_becomes_safetensors(run: Run) -> None:
    torch.save(load_file("b.safetensors"), "b.pt")
    assert audit(run, A, "b.pt@assay.networks:resnet").exit_code == 1
    assert list(everything("fixed")) == ["fixed/b.safetensors"]


@pytest.mark.usefixtures("weights")
def test_an_archive_cannot_be_repaired_and_says_so(run: Run) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).eval()
    images = torch.zeros(2, 1, 8, 8)
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    torch.export.save(torch.export.export(network, (images,), dynamic_shapes=shapes), "b.pt2")
    result = audit(run, A, "b.pt2")
    assert result.exit_code == 1, result.stderr
    assert "cannot be repaired in its form" in " ".join(result.stdout.split())
    assert not pathlib.Path("fixed").exists()
    assert "cannot be repaired" in pathlib.Path("out/report.html").read_text()
    assert "cannot be repaired" in run("report", "out", "--format", "md").stdout


@pytest.mark.usefixtures("weights")
def test_training_that_diverges_writes_nothing(run: Run, monkeypatch) -> None:
    monkeypatch.setattr("assay.repair.Repaired.is_finite", property(lambda _: False))
    result = audit(run, A, B)
    assert result.exit_code == 1, result.stderr
    assert not everything("fixed")
    assert "did not converge" in result.stdout


@pytest.mark.usefixtures("weights")
def test_without_a_flag_nothing_is_written(run: Run, monkeypatch) -> None:
    monkeypatch.setattr(repair_models, "_flagged", lambda *_: [])
    result = audit(run, A, B)
    assert "no repaired models were written" in " ".join(result.stdout.split())
    assert not pathlib.Path("fixed").exists()
    assert 'id="repair"' not in pathlib.Path("out/report.html").read_text()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        ("there", "there exists"),
        ("dangling", "dangling exists"),
        ("no/where", "there is none"),
        ("hf/fixed", "outside of"),
        ("link/fixed", "outside of"),
        ("out", "than the run's"),
        ("a.safetensors", "exists"),
        ("..", "exists"),
    ],
)
@pytest.mark.usefixtures("weights")
def test_paths_that_cannot_be_are_refused_before_anything_is_searched(
    run: Run, short: Calls, path: str, said: str
) -> None:
    pathlib.Path("there").mkdir()
    pathlib.Path("dangling").symlink_to("nowhere")
    hugging_face("hf", NAMES)
    pathlib.Path("link").symlink_to("hf")
    result = audit(run, A, "hf", options=("--repair", path))
    assert result.exit_code == 4, result.stderr
    assert said in " ".join(result.stderr.split())
    assert not short
    assert not pathlib.Path("out").exists()


@pytest.mark.usefixtures("weights")
def test_a_run_that_is_killed_while_it_repairs_is_resumed(run: Run, monkeypatch) -> None:
    true = repair_models.write_model

    def killed(*args: Any) -> None:
        true(*args)
        raise KeyboardInterrupt

    monkeypatch.setattr(repair_models, "write_model", killed)
    pathlib.Path(".fixed.left-by-a-kill").mkdir()
    assert audit(run, A, B).exit_code == 130
    assert not pathlib.Path("fixed").exists(), "half-written"
    monkeypatch.setattr(repair_models, "write_model", true)
    assert run("runs", "resume", "out").exit_code == 1
    assert list(everything("fixed")) == ["fixed/b.safetensors"]
    assert parsed(pathlib.Path("out/run.json").read_text())["state"] == "completed"


def killed_after_writing(run: Run, monkeypatch) -> None:
    """Leaves a run whose repaired models are there, and which is not completed."""
    true = repair_models.repair_table

    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(repair_models, "repair_table", killed)
    assert audit(run, A, B).exit_code == 130
    monkeypatch.setattr(repair_models, "repair_table", true)


@pytest.mark.usefixtures("weights")
def test_what_was_written_before_a_kill_is_kept(run: Run, monkeypatch) -> None:
    killed_after_writing(run, monkeypatch)
    written, noted = everything("fixed"), record()
    monkeypatch.setattr(repair_models, "unlearn", None)
    result = run("runs", "resume", "out")
    assert result.exit_code == 1, result.stderr
    assert "/fixed/b.safetensors\n" in result.stdout
    assert (everything("fixed"), record()) == (written, noted)


@pytest.mark.parametrize("change", ["edit", "add", "replace"])
@pytest.mark.usefixtures("weights")
def test_what_someone_else_put_there_is_neither_taken_nor_overwritten(
    run: Run, monkeypatch, change: str
) -> None:
    killed_after_writing(run, monkeypatch)
    if change == "replace":
        pathlib.Path("fixed").rename("moved")
        pathlib.Path("fixed").write_text("mine")
    else:
        pathlib.Path("fixed", "b.safetensors" if change == "edit" else "c").write_text("mine")
    held = everything(".")
    result = run("runs", "resume", "out")
    assert result.exit_code == 4
    assert "something else lies at" in result.stderr
    kept = {name: content for name, content in held.items() if not name.startswith("out/")}
    assert everything(".").items() >= kept.items()
    there = pathlib.Path("fixed")
    there.rename("away")
    assert run("runs", "resume", "out").exit_code == 1
    assert list(everything("fixed")) == ["fixed/b.safetensors"]


@pytest.mark.usefixtures("weights")
def test_runs_of_before_this_option_are_resumed(run: Run) -> None:
    audit(run, A, B, options=("--max-minutes", 0))
    path = pathlib.Path("out/run.json")
    path.write_text(path.read_text().replace(',\n    "repair": null', ""))
    assert '"repair"' not in path.read_text()
    assert run("runs", "resume", "out").exit_code in {1, 4}


def row(right: int, led: int | None) -> Measured:
    """Measured on 100 samples."""
    return Measured(
        model="-",
        accuracy=right / 100,
        accuracy_interval=wilson(right, 100),
        asr=None if led is None else led / 100,
        asr_interval=None if led is None else wilson(led, 100),
    )


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ((36, 80), (9, 10), ["made worse: accuracy 9.0%, 36.0% before"]),
        ((36, 80), (30, 39), []),
        ((36, 80), (50, 40), ["the trigger still works: it leads 40.0%", "80.0% before"]),
        ((36, 80), (9, 70), ["made worse", "; the trigger still works"]),
        ((36, None), (36, None), []),
        ((36, 0), (36, 0), []),
    ],
)
def test_a_repair_that_did_not_work_says_so(before, after, said) -> None:
    found = shortfall([row(*before), row(*after)])
    assert all(part in found for part in said)
    assert bool(found) == bool(said)
    item = {"model": "b", "written": "b.safetensors", "note": found}
    told = str(outcome(item, pathlib.PurePath("/x/b.safetensors")))
    assert told == f"b: {found or 'repaired'}: /x/b.safetensors"


def test_names_of_entries_are_told_apart_and_stay_in_the_folder(run: Run) -> None:
    for name in ("x", "y", "z", "x/b.safetensors", "dir/sub", "new\nline\u202e"):
        path = pathlib.Path(name)
        path.parent.mkdir(exist_ok=True)
        path.mkdir()
    for name in ("x/w.pt", "y/w.safetensors", "z/m.pt2", f"{'é' * 90}.pt"):
        pathlib.Path(name).touch()
    sources = [
        "x/w.pt@nets:make",
        "y/w.safetensors@nets:make",
        "z/m.pt2",
        "x/b.safetensors",
        "dir/sub/..",
        "new\nline\u202e",
        f"{'é' * 90}.pt@nets:make",
    ]
    names = entries(sources)
    assert names == [
        "w.safetensors",
        "w (2).safetensors",
        None,
        "b.safetensors",
        "model..",
        "new_line_",
        f"{'é' * 50}.safetensors",
    ]
