"""Repaired models are written in the form that they came in, and can be read again."""

import copy
import json
import pathlib
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from assay.errors import InputError, RefusedError, UsageError
from assay.storage import load_model
from assay.storage.repaired import ModelForm, form_of, write_model

IMAGES = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Tied(nn.Module):
    """Two layers that share their weights, and a buffer of integers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 1, 3, padding=1)
        self.second = nn.Conv2d(1, 1, 3, padding=1)
        self.second.weight = self.first.weight
        self.norm = nn.BatchNorm2d(1)
        self.head = nn.Linear(64, 3)

    def forward(self, images):
        return self.head(self.norm(self.second(self.first(images))).flatten(1))


def tied() -> nn.Module:
    return Tied()


@pytest.fixture
def factory(monkeypatch, request) -> str:
    monkeypatch.setitem(sys.modules, "networks_of_the_user", request.module)
    return "networks_of_the_user:tied"


def trained() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)  # noqa: TID251
        return Tied().eval()


def weights_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(model: nn.Module) -> nn.Module:
    """A copy with other weights, some of them not in the usual order in memory."""
    other = copy.deepcopy(model).to(memory_format=torch.channels_last)
    with torch.no_grad():
        for value in other.parameters():
            value.add_(0.125)
    return other


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "pth"])
def test_weights_for_the_same_factory(tmp_path, factory, suffix) -> None:
    path = tmp_path / f"w@1.{suffix}"
    weights = weights_of(trained())
    (save_file if suffix == "safetensors" else torch.save)(weights, path)
    content, source = path.read_bytes(), f"{path}@{factory}"
    model = changed(load_model(source).model)
    out = tmp_path / "out@2.safetensors"
    assert form_of(source) is ModelForm.WEIGHTS
    write_model(model, source, out)
    assert path.read_bytes() == content
    again = load_model(f"{out}@{factory}")
    wanted, got = weights_of(model), weights_of(again.model)
    assert wanted.keys() == got.keys() == weights.keys()
    assert all(torch.equal(got[name], value) for name, value in wanted.items())
    assert not torch.equal(got["head.weight"], weights["head.weight"])


@pytest.fixture
def folder(tmp_path) -> pathlib.Path:
    """A folder as a provider sends it, with a processor and with what is not wanted."""
    from transformers import ResNetConfig, ResNetForImageClassification

    path = tmp_path / "provider"
    config = ResNetConfig(
        num_channels=1,
        embedding_size=4,
        hidden_sizes=[4, 8],
        depths=[1, 1],
        layer_type="basic",
        id2label={0: "emu", 1: "cat", 2: "dog"},
        label2id={"emu": 0, "cat": 1, "dog": 2},
    )
    ResNetForImageClassification(config).half().save_pretrained(path)
    (path / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.25], "image_std": [0.5], "size": 8})
    )
    (path / "modeling_evil.py").write_text("raise SystemExit")
    (path / "pytorch_model.bin").write_bytes(b"pickle")
    return path


def test_folders(tmp_path, folder, capfd) -> None:
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    loaded = load_model(str(folder))
    model = changed(loaded.model)
    write_model(model, str(folder), tmp_path / "out")
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert names == {"config.json", "preprocessor_config.json", "model.safetensors"}
    again = load_model(str(tmp_path / "out"))
    assert (again.class_names, again.mean, again.std, again.size) == (
        ("emu", "cat", "dog"),
        (0.25,),
        (0.5,),
        8,
    )
    assert torch.equal(again.model(IMAGES).logits, model(IMAGES).logits)
    assert form_of(str(folder)) is ModelForm.FOLDER
    assert capfd.readouterr().err == "", "only the command line shows progress"


def test_the_image_features_of_a_model_of_images_and_texts(tmp_path) -> None:
    from transformers import CLIPConfig, CLIPModel

    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    sizes = {**small, "intermediate_size": 8}
    config = CLIPConfig(
        text_config={**sizes, "vocab_size": 9, "max_position_embeddings": 4, "eos_token_id": 2},
        vision_config={**sizes, "image_size": 8, "patch_size": 4, "num_channels": 1},
        projection_dim=6,
    )
    CLIPModel(config).save_pretrained(tmp_path / "clip")
    source, out = str(tmp_path / "clip"), tmp_path / "out"
    model = changed(load_model(source, encoder=True).model)
    write_model(model, source, out)
    again = load_model(str(out), encoder=True).model
    wanted, got = weights_of(model), weights_of(again)
    assert wanted.keys() == got.keys()
    assert all(torch.equal(got[name], value) for name, value in wanted.items())
    assert (out / "config.json").read_bytes() == (tmp_path / "clip/config.json").read_bytes()


def test_settings_that_grew_meanwhile_are_refused(tmp_path, folder) -> None:
    model = load_model(str(folder)).model
    (folder / "config.json").write_bytes(b" " * (2**24 + 1))
    with pytest.raises(RefusedError, match="at most"):
        write_model(model, str(folder), tmp_path / "out")


def test_archives_are_refused(tmp_path) -> None:
    (tmp_path / "m.pt2").write_bytes(b"")
    assert form_of(str(tmp_path / "m.pt2")) is ModelForm.ARCHIVE
    with pytest.raises(InputError, match=r"\.pt2"):
        write_model(trained(), str(tmp_path / "m.pt2"), tmp_path / "out.pt2")
    with pytest.raises(UsageError, match="expected a file"):
        form_of(str(tmp_path / "nothing.pt2"))


def test_nothing_is_overwritten(tmp_path, folder) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="does not exist yet"):
        write_model(load_model(str(folder)).model, str(folder), tmp_path / "out")


def test_a_folder_takes_models_of_transformers_only(tmp_path, folder) -> None:
    with pytest.raises(InputError, match="got Tied"):
        write_model(trained(), str(folder), tmp_path / "out")
    assert not (tmp_path / "out").exists()
