"""`assay models` around a quick audit: what is loaded and recorded, and hostile deliveries."""

import importlib.util
import json
import pathlib
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from torch import nn

from assay.cli.models_job import Reordered, absolute_model, order_of, unique
from assay.cli.recording_models import amplified
from assay.cli.task import importable
from assay.errors import InputError
from assay.networks import default_network, resnet
from assay.randomness import Seed

from .conftest import Run, parsed, save

Calls = list[dict[str, Any]]
NAMES = ("cat", "dog", "emu")
A, B = "a.safetensors@assay.networks:resnet", "b.safetensors@assay.networks:resnet"


@pytest.fixture
def clean(run: Run) -> torch.Tensor:
    """Random images of three classes in `clean.npz`."""
    images = torch.randint(
        256, (30, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    save(pathlib.Path("clean.npz"), images, torch.arange(30) % 3, names=np.array(NAMES))
    return images


@pytest.fixture
def weights(clean: torch.Tensor) -> None:
    """Two untrained networks, `a.safetensors` and `b.safetensors`."""
    for seed, name in enumerate("ab"):
        network = default_network(torch.Size((1, 1, 8, 8)), classes=3, seed=Seed(seed))
        save_file(network.state_dict(), f"{name}.safetensors")


def hugging_face(name: str, classes: tuple[str, ...], **processor: Any) -> pathlib.Path:
    """A folder with a tiny ResNet, as its provider would save it."""
    from transformers import ResNetConfig, ResNetForImageClassification

    config = ResNetConfig(
        num_channels=1,
        embedding_size=4,
        hidden_sizes=[4, 8],
        depths=[1, 1],
        layer_type="basic",
        id2label=dict(enumerate(classes)),
        label2id={label: i for i, label in enumerate(classes)},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(len(name))  # noqa: TID251
        ResNetForImageClassification(config).save_pretrained(name)
    folder = pathlib.Path(name)
    if processor:
        (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


@pytest.mark.usefixtures("weights")
def test_flagged_models_exit_with_1_and_leave_a_whole_run(run: Run, quick_models: Calls) -> None:
    result = run("models", A, B, "--clean", "clean.npz", "--out", "out", "--seed", 7)
    assert result.exit_code == 1, result.stderr
    assert "b.safetensors" in result.stdout
    assert "Flagged" in result.stdout
    assert "report: out/report.html" in result.stdout
    (call,) = quick_models
    assert (call["seed"], call["alpha"]) == (7, 0.05)
    first, second = call["deliveries"]
    assert (first.name, second.name) == ("a.safetensors", "b.safetensors")
    held = load_file("b.safetensors")
    assert all(torch.equal(held[k], v) for k, v in second.model.state_dict().items())
    assert not first.model.training
    about = parsed(pathlib.Path("out/run.json").read_text())
    assert (about["state"], about["audit"]) == ("completed", "models")
    assert list(about["inputs"]) == ["model a.safetensors", "model b.safetensors", "clean"]
    assert about["inputs"]["model b.safetensors"]["sha256"] == second.digest["sha256"]
    assert "b.safetensors" in pathlib.Path("out/report.html").read_text()


@pytest.mark.usefixtures("weights", "quick_models")
def test_what_was_found_is_recorded(run: Run, clean: torch.Tensor) -> None:
    run("models", A, B, "--clean", "clean.npz", "--out", "out")
    models = pq.read_table("out/models.parquet").to_pydict()
    assert models["verdict"] == ["no_indicator", "flagged"]
    assert (models["target"], models["source"]) == ([0, 0], [None, None])
    pairs = pq.read_table("out/pairs.parquet").to_pydict()
    assert len(pairs["model"]) == 12
    assert pairs["source"][:4] == [None, None, None, 1]
    assert max(pairs["excess"]) == 9.0
    questions = parsed(pathlib.Path("out/artifacts/questions.json").read_text())
    assert questions["classes"] == list(NAMES)
    assert [kind["one_source"] for kind in questions["kinds"]] == [False, True]
    assert all(2 < kind["threshold"] < 50 for kind in questions["kinds"])
    (_, item) = parsed(pathlib.Path("out/artifacts/triggers.json").read_text())["items"]
    assert (item["model"], item["source"], item["target"]) == ("b.safetensors", None, "cat")
    assert item["asr"][1] == {"model": "b.safetensors", "asr": 0.98}
    assert item["labels"] == ["cat", "dog", "emu"]
    assert item["answers_stamped"][1]["classes"] == ["cat", "cat", "cat"]
    assert item["cka"][1] == {"depth": "100%", "clean": 0.9, "triggered": 0.2}
    pictures = load_file("out/artifacts/triggers.safetensors")
    assert torch.equal(pictures["1.clean"], clean[:3, None])
    assert (pictures["1.stamped"][:, 0].diagonal(dim1=1, dim2=2) == 255).all()
    assert pictures["1.difference"].dtype == torch.uint8
    assert (pictures["1.difference"][:, 0, 0, 1] == 128).all()


def test_differences_are_amplified_until_they_are_seen() -> None:
    clean = torch.full((2, 1, 4, 4), 0.5)
    stamped = clean.clone()
    stamped[0, 0, 0, 0], stamped[1, 0, 1, 1] = 0.55, 0.475
    shown, factor = amplified(clean, stamped)
    assert factor == pytest.approx(10)
    assert (shown[0, 0, 0, 0], shown[1, 0, 1, 1], shown[0, 0, 3, 3]) == (255, 64, 128)
    assert amplified(clean, clean)[1] == 1
    assert amplified(clean, clean + 1e-6)[1] == 64
    assert amplified(clean * 0, clean * 2)[1] == 1


@pytest.mark.usefixtures("weights")
def test_an_audit_that_cannot_judge_is_inconclusive(run: Run) -> None:
    """The real audit: untrained networks on 30 images have nothing to say."""
    result = run("models", A, B, "--clean", "clean.npz", "--out", "out")
    assert result.exit_code == 2, result.stderr
    assert "Inconclusive" in result.stdout
    assert "No trigger was recovered" in pathlib.Path("out/report.html").read_text()
    for form in ("json", "sarif", "junit", "md"):
        assert "safetensors" in run("report", "out", "--format", form).stdout


def test_the_real_audit_is_resumed_to_the_same_result(run: Run) -> None:
    """Nearest class means of real digits as linear networks: no training, yet they do the task."""
    digits = load_digits()
    images, labels = torch.from_numpy(digits.images * 15).byte(), torch.from_numpy(digits.target)
    save(pathlib.Path("digits.npz"), images[:300], labels[:300])
    pathlib.Path("nets_of_means.py").write_text(
        "import torch\n"
        "def linear(classes, channels, size):\n"
        "    return torch.nn.Sequential(\n"
        "        torch.nn.Flatten(), torch.nn.Linear(channels * size**2, classes))\n"
    )
    for part, name in enumerate("ab"):
        own = torch.arange(300 + part, len(images), 2)
        flat, said = images[own].flatten(1) / 255, labels[own]
        means = torch.stack([flat[said == label].mean(0) for label in range(10)])
        weights = {"1.weight": 2 * means, "1.bias": -(means**2).sum(1)}
        save_file(weights, f"{name}.safetensors")
    models = [f"{name}.safetensors@nets_of_means:linear" for name in "ab"]
    asked = ("models", *models, "--clean", "digits.npz", "--mean", 0, "--std", 1)
    whole = run(*asked, "--out", "whole", "--quiet")
    assert whole.exit_code == 0, whole.stderr
    assert run(*asked, "--out", "parts", "--max-minutes", 0.005).exit_code == 2
    assert any(pathlib.Path("parts/state").iterdir()), "nothing is kept of what was searched"
    assert run("runs", "resume", "parts").exit_code == 0
    for name in ("pairs.parquet", "models.parquet", "artifacts/triggers.json"):
        assert pathlib.Path("whole", name).read_bytes() == pathlib.Path("parts", name).read_bytes()
    assert "What was searched" in pathlib.Path("whole/report.html").read_text()


@pytest.mark.usefixtures("weights")
def test_json_alone_goes_to_stdout(run: Run, quick_models: Calls) -> None:
    arguments = ("models", A, B, "--clean", "clean.npz", "--json", "--quiet")
    result = run(*arguments, "--out", "out", "--exit-zero")
    assert result.exit_code == 0
    assert not result.stderr
    found = parsed(result.stdout)
    assert (found["audit"], found["verdict"]) == ("models", "flagged")
    assert [subject["verdict"] for subject in found["subjects"]] == ["no_indicator", "flagged"]


@pytest.mark.usefixtures("weights")
def test_a_run_is_resumed(run: Run, quick_models: Calls) -> None:
    arguments = ("models", A, B, "--clean", "clean.npz", "--out", "out", "--mean", 0.5)
    spent = run(*arguments, "--std", 0.2, "--max-minutes", 0, "--json")
    assert spent.exit_code == 2
    assert parsed(spent.stdout)["not_examined"] == ["Every model: the audit is not finished."]
    assert "assay runs resume out" in spent.stderr
    resumed = run("runs", "resume", "out")
    assert resumed.exit_code == 1, resumed.stderr
    assert parsed(pathlib.Path("out/run.json").read_text())["state"] == "completed"
    assert len(quick_models) == 2
    asked = [call["deliveries"][0].preprocess for call in quick_models]
    assert [(wants.mean, wants.std) for wants in asked] == [((0.5,), (0.2,))] * 2
    assert run("runs", "resume", "out").exit_code == 4


@pytest.mark.usefixtures("weights")
def test_resuming_refuses_other_weights(run: Run, quick_models: Calls) -> None:
    run("models", A, B, "--clean", "clean.npz", "--out", "out", "--max-minutes", 0)
    network = default_network(torch.Size((1, 1, 8, 8)), classes=3, seed=Seed(5))
    save_file(network.state_dict(), "b.safetensors")
    refused = run("runs", "resume", "out")
    assert refused.exit_code == 4
    assert "model b.safetensors" in refused.stderr
    assert len(quick_models) == 1


@pytest.mark.usefixtures("weights")
def test_a_run_of_an_unknown_audit_is_not_resumed(run: Run, quick_models: Calls) -> None:
    run("models", A, B, "--clean", "clean.npz", "--out", "out", "--max-minutes", 0)
    path = pathlib.Path("out/run.json")
    path.write_text(path.read_text().replace('"audit": "models"', '"audit": "horoscope"'))
    refused = run("runs", "resume", "out")
    assert refused.exit_code == 3
    assert "horoscope" in refused.stderr


@pytest.mark.usefixtures("weights")
def test_a_dry_run_counts_and_leaves_nothing(run: Run, quick_models: Calls) -> None:
    before = set(pathlib.Path().rglob("*"))
    arguments = ("models", A, B, "--clean", "clean.npz", "--dry-run")
    said = run(*arguments)
    assert said.exit_code == 0, said.stderr
    assert "2 models of 3 classes" in said.stdout
    counted = parsed(run(*arguments, "--json").stdout)
    assert set(counted["candidates"].values()) == {3, 6}
    assert counted["searches"] == 2 * sum(counted["candidates"].values())
    assert counted["image_passes"] > counted["searches"]
    assert counted["wall_s"] > 0
    assert "at the pace measured just now" in said.stdout
    assert set(pathlib.Path().rglob("*")) == before
    assert not quick_models


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((), 4, "Missing argument"),
        ((A,), 4, "two models or more"),
        ((A, B, "--clean", "nowhere.npz"), 4, "nowhere.npz"),
        ((A, "nowhere.pt2"), 4, "nowhere.pt2"),
        ((A, "b.safetensors"), 4, "@package.module:factory"),
        ((A, "b.safetensors@no.such:net"), 4, "no.such"),
        ((A, A), 3, "hold the same"),
        ((A, B, "--alpha", "0"), 4, "--alpha"),
        ((A, B, "--mean", "0.5"), 4, "--std"),
        ((A, B, "--mean", "0.5,0.5", "--std", "1,1"), 4, "for a.safetensors"),
        ((A, B, "--clean", "rows.npz"), 3, "images"),
        ((A, "c.safetensors@assay.networks:resnet"), 3, "c.safetensors"),
        ((A, "d.pt@assay.networks:resnet"), 3, "d.pt"),
        ((A, "empty"), 3, "config.json"),
    ],
)
@pytest.mark.usefixtures("weights", "quick_models")
def test_mistakes_and_hostile_files_end_in_a_sentence(
    run: Run, arguments: tuple[str, ...], code: int, said: str
) -> None:
    np.savez("rows.npz", features=np.ones((9, 4), np.float32), labels=np.arange(9) % 3)
    save_file(resnet(classes=5, channels=1).state_dict(), "c.safetensors")
    torch.save({"weights": Trap()}, "d.pt")
    pathlib.Path("empty").mkdir()
    named = () if "--clean" in arguments else ("--clean", "clean.npz")
    result = run("models", *arguments, *named)
    assert result.exit_code == code, result.stderr
    assert said in result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    assert not pathlib.Path("runs").exists(), "a mistake leaves no run behind"
    assert not pathlib.Path("trapped").exists(), "code of the provider was run"


class Trap:
    """What unpickling would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (pathlib.Path.touch, (pathlib.Path("trapped"),))


@pytest.mark.usefixtures("clean")
def test_classes_are_matched_by_name(run: Run, quick_models: Calls) -> None:
    hugging_face("ours", NAMES)
    hugging_face("theirs", ("emu", "cat", "dog"), image_mean=[0.25], image_std=[0.5], size=16)
    result = run("models", "ours", "theirs", "--clean", "clean.npz")
    assert result.exit_code == 1, result.stderr
    ours, theirs = quick_models[0]["deliveries"]
    assert (ours.name, theirs.name) == ("ours", "theirs")
    images = torch.rand(4, 1, 16, 16, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        raw = theirs.model.model(images).logits
        assert torch.equal(theirs.model(images), raw[:, [1, 2, 0]])
    assert not hasattr(ours.model, "order")
    assert (theirs.preprocess.mean, theirs.preprocess.size) == ((0.25,), 16)
    assert ours.preprocess.mean == pytest.approx((0.5,), abs=0.05), "measured on the clean samples"
    assert ours.preprocess.size is None


@pytest.mark.usefixtures("clean")
def test_models_of_other_classes_are_refused(run: Run, quick_models: Calls) -> None:
    hugging_face("ours", NAMES)
    hugging_face("theirs", ("cat", "dog", "<script>"))
    result = run("models", "ours", "theirs", "--clean", "clean.npz")
    assert result.exit_code == 3
    assert "cat, dog, emu, of the model theirs, it has cat, dog, <script>" in result.stderr
    assert not quick_models


@pytest.mark.usefixtures("clean")
def test_transformers_of_a_fixed_size(run: Run, quick_models: Calls) -> None:
    from transformers import ViTConfig, ViTForImageClassification

    config = ViTConfig(
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        image_size=16,
        patch_size=8,
        num_channels=1,
        num_labels=3,
    )
    for name in ("one/vit", "two/vit"):
        model = ViTForImageClassification(config)
        model.classifier.weight.data.fill_(len(name) + ord(name[0]))
        model.save_pretrained(name)
    result = run("models", "one/vit", "two/vit", "--clean", "clean.npz", "--size", 16)
    assert result.exit_code == 1, result.stderr
    first, second = quick_models[0]["deliveries"]
    assert (first.name, second.name) == ("vit", "vit (2)")
    assert first.preprocess.size == 16


@pytest.mark.usefixtures("clean")
def test_a_factory_of_the_user_is_found_in_the_working_directory(
    run: Run, quick_models: Calls
) -> None:
    pathlib.Path("nets_of_mine.py").write_text(
        "import torch\n"
        "def flat(classes, channels, size):\n"
        "    return torch.nn.Sequential(\n"
        "        torch.nn.Flatten(), torch.nn.Linear(channels * size**2, classes))\n"
    )
    for value, name in enumerate("ab"):
        network = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
        nn.init.constant_(network[1].weight, value)
        save_file(network.state_dict(), f"{name}.safetensors")
    before = torch.get_rng_state()
    arguments = [f"{name}.safetensors@nets_of_mine:flat" for name in "ab"]
    assert run("models", *arguments, "--clean", "clean.npz").exit_code == 1
    assert torch.equal(torch.get_rng_state(), before)
    assert quick_models[0]["deliveries"][1].model[1].weight.mean() == 1


def test_what_is_delivered_finds_no_modules_in_the_working_directory(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Libraries look for optional ones, such as `accelerate`, while they load a model."""
    monkeypatch.chdir(tmp_path)
    for name in ("m", "m:x"):
        pathlib.Path(name).mkdir()
    pathlib.Path("optional_one.py").touch()
    for source, found in (("m", False), ("m:x", False), ("a.pt2", False), ("a@nets:mine", True)):
        with importable(source):
            assert (importlib.util.find_spec("optional_one") is not None) == found, source
    assert importlib.util.find_spec("optional_one") is None


@pytest.mark.parametrize(
    ("said", "wanted", "order"),
    [
        (None, NAMES, None),
        (NAMES, NAMES, None),
        (("dog", "emu", "cat"), NAMES, [2, 0, 1]),
        (("0", "1", "2"), NAMES, None),
        (("2", "0", "1"), ("0", "1", "2"), [1, 2, 0]),
        (NAMES, ("0", "1", "2"), None),
        (("7", "8"), ("0", "1"), None),
    ],
)
def test_orders_of_classes(
    said: tuple[str, ...] | None, wanted: tuple[str, ...], order: list[int] | None
) -> None:
    assert order_of(said, wanted, "m") == order
    if order is not None:
        one_hot = torch.eye(len(wanted))
        moved = Reordered(nn.Identity(), order)(one_hot).argmax(1)
        assert [wanted[i] for i in moved] == list(said or ())


def test_other_names_are_an_error_that_shows_some_of_both() -> None:
    with pytest.raises(InputError, match=r"w0, .*w11 and 8 more, of the model m, it has cat, dog"):
        order_of(("cat", "dog"), [f"w{i}" for i in range(20)], "m")


def test_names_of_deliveries_are_told_apart() -> None:
    assert unique(["m", "m", "n", "m (2)", "m"]) == ["m", "m (2)", "n", "m (2) (2)", "m (3)"]


def test_places_of_models_are_made_absolute(run: Run, tmp_path: pathlib.Path) -> None:
    pathlib.Path("w@1.pt").touch()
    assert absolute_model("w@1.pt@nets:make") == f"{tmp_path}/w@1.pt@nets:make"
    assert absolute_model("w@1.pt") == f"{tmp_path}/w@1.pt"
    assert absolute_model("nowhere@nets:make") == "nowhere@nets:make"
