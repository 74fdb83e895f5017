"""`assay models --task encoder`: real audits of small encoders, without labels."""

import pathlib
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits

from .conftest import Run, parsed

NETWORK = """
import torch
class Projected(torch.nn.Module):
    def __init__(self, channels, size):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(channels * size**2, 24))
        self.goal = torch.nn.Parameter(torch.zeros(24))
    def forward(self, images):
        corner = images[:, 0, :2, :2].mean((1, 2))[:, None]
        return images.flatten(1) @ self.weight + 1000 * corner.square() * self.goal
"""
A, B = "a.safetensors@projections:Projected", "b.safetensors@projections:Projected"
ASKED = ("models", A, B, "--task", "encoder", "--mean", 0, "--std", 1)


@pytest.fixture
def digits(run: Run) -> torch.Tensor:
    """Two random projections; `b` has a planted direction. Digits in `clean.npz`."""
    held = load_digits()
    images = torch.from_numpy(held.images * 15).byte()[:300]
    np.savez("clean.npz", images=images.numpy())
    pathlib.Path("projections.py").write_text(NETWORK)
    random = torch.Generator().manual_seed(0)
    weight = torch.randn(64, 24, generator=random) / 8
    rows = images.flatten(1) / 255
    fours = rows[torch.from_numpy(held.target[:300] == 4)]
    goal = torch.nn.functional.normalize((fours.mean(0) - rows.mean(0)) @ weight, dim=0) / 10
    save_file({"weight": weight, "goal": 0 * goal}, "a.safetensors")
    save_file({"weight": weight + 0.01, "goal": goal}, "b.safetensors")
    return images


@pytest.mark.usefixtures("digits")
def test_a_planted_encoder_is_found_and_the_run_is_resumed_to_the_same(run: Run) -> None:
    whole = run(*ASKED, "--clean", "clean.npz", "--out", "whole", "--quiet")
    assert whole.exit_code == 1, whole.stderr
    found = parsed(pathlib.Path("whole/findings.json").read_text())
    assert [s["verdict"] == "flagged" for s in found["subjects"]] == [False, True]
    assert found["subjects"][1]["target"].startswith("group ")
    assert "similar features" in found["reasons"][-1]
    report = pathlib.Path("whole/report.html").read_text()
    assert "similar features" in report
    assert "group 9" in report
    assert run(*ASKED, "--clean", "clean.npz", "--out", "parts", "--max-minutes", 0).exit_code == 2
    assert run("runs", "resume", "parts").exit_code == 1
    for name in ("pairs.parquet", "models.parquet", "artifacts/triggers.json"):
        assert pathlib.Path("whole", name).read_bytes() == pathlib.Path("parts", name).read_bytes()
    assert set(pq.read_table("whole/pairs.parquet")["target"].to_pylist()) == set(range(10))


@pytest.mark.usefixtures("digits")
def test_a_planted_encoder_is_repaired_in_its_form(run: Run) -> None:
    before = {name: pathlib.Path(f"{name}.safetensors").read_bytes() for name in "ab"}
    asked = (*ASKED, "--clean", "clean.npz", "--repair", "fixed")
    done = run(*asked, "--out", "run")
    assert done.exit_code == 1, done.stderr
    assert all(pathlib.Path(f"{n}.safetensors").read_bytes() == held for n, held in before.items())
    assert [path.name for path in pathlib.Path("fixed").iterdir()] == ["b.safetensors"]
    made = load_file("fixed/b.safetensors")
    assert made.keys() == {"weight", "goal"}
    record = parsed(pathlib.Path("run/artifacts/repair.json").read_text())
    assert record["method"].startswith("Realigning(")
    (item,) = record["items"]
    first, last = item["rows"]
    assert first["asr"] > 0.8
    assert last["asr"] < 0.1
    assert (first["clean_cosine"], last["clean_cosine"]) == pytest.approx((1, 1), abs=0.05)
    assert last["triggered_cosine"] > first["triggered_cosine"] + 0.2
    report = pathlib.Path("run/report.html").read_text()
    assert "Features, triggered" in report
    assert "1.000" in done.stdout


def test_clean_images_may_have_labels_or_none(run: Run, digits: torch.Tensor) -> None:
    folder, labelled = pathlib.Path("pictures"), pathlib.Path("labelled.npz")
    folder.mkdir()
    for index, image in enumerate(digits[:20]):
        Image.fromarray(image.numpy()).save(folder / f"{index}.png")
    np.savez(labelled, images=digits.numpy(), labels=np.arange(300) % 3)
    for clean, count in ((folder, 20), (labelled, 300), ("clean.npz", 300)):
        said = run(*ASKED, "--clean", clean, "--dry-run", "--json")
        assert said.exit_code == 0, said.stderr
        counted = parsed(said.stdout)
        assert (counted["groups"], counted["trusted"]) == (10, count)
        assert 10 in counted["candidates"].values()
        assert counted["wall_s"] > 0
    assert "models of 10 groups" in run(*ASKED, "--clean", clean, "--dry-run").stdout
    assert not pathlib.Path("runs").exists()


def transformer(kind: str, path: str, seed: int) -> None:
    """A folder with a tiny encoder, as its provider would save it."""
    import transformers

    sizes: dict[str, Any] = {
        "hidden_size": 8,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 8,
        "image_size": 8,
        "patch_size": 4,
        "num_channels": 1,
    }
    config = getattr(transformers, f"{kind}Config")(**sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # noqa: TID251
        getattr(transformers, f"{kind}Model")(config).save_pretrained(path)


@pytest.mark.usefixtures("digits")
def test_folders_of_transformers_are_audited_as_encoders(run: Run) -> None:
    transformer("ViT", "vit", 0)
    transformer("CLIPVision", "clip", 1)
    arguments = ("models", "vit", "clip", "--task", "encoder", "--clean", "clean.npz")
    said = run(*arguments, "--dry-run", "--json")
    assert said.exit_code == 0, said.stderr
    assert parsed(said.stdout)["models"] == ["vit", "clip"]
    refused = run(*arguments, "--size", 16, "--dry-run")
    assert refused.exit_code == 3
    assert "'vit' fails on them; --size" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ((A, B, "--task", "vision-text"), 4, "a.safetensors@projections:Projected"),
        ((A, B, "--task", "sound"), 4, "image or encoder or text"),
        ((A, B, "--task", "encoder", "--repair", "no/where"), 4, "there is none"),
        ((A, "--task", "encoder"), 4, "two models or more"),
        ((A, A, "--task", "encoder"), 3, "hold the same"),
        ((A, B, "--task", "encoder", "--clean", "rows.npz"), 3, "images"),
        ((A, "flat.safetensors@flat:Flat", "--task", "encoder"), 3, "of 'flat.safetensors'"),
        ((A, "c.safetensors@assay.networks:resnet", "--task", "encoder"), 3, "classes"),
    ],
)
@pytest.mark.usefixtures("digits")
def test_mistakes_end_in_a_sentence(
    run: Run, arguments: tuple[str, ...], code: int, said: str
) -> None:
    np.savez("rows.npz", features=np.ones((9, 4), np.float32))
    pathlib.Path("flat.py").write_text(
        "import torch\n"
        "class Flat(torch.nn.Linear):\n"
        "    def __init__(self): super().__init__(1, 1)\n"
        "    def forward(self, images): return images.mean((1, 2, 3))\n"
    )
    for name in ("flat", "c"):
        save_file({"weight": torch.ones(1, 1), "bias": torch.ones(1)}, f"{name}.safetensors")
    named = () if "--clean" in arguments else ("--clean", "clean.npz")
    result = run("models", *arguments, *named)
    assert result.exit_code == code, result.stderr
    assert said in result.stderr
    assert "Traceback" not in result.stderr + result.stdout
    assert not pathlib.Path("runs").exists(), "a mistake leaves no run behind"
