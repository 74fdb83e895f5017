"""Models of every form give the outputs that they gave before they were saved."""

import copy
import json
import pathlib
import sys

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from assay.errors import InputError, UsageError
from assay.storage import digest, huggingface, load_factory, load_model

IMAGES = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(0))


class Small(nn.Module):
    """Every kind of part that an exported graph has to carry."""

    def __init__(self, classes: int = 4, channels: int = 3) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(channels, 8, 3, padding=1), nn.BatchNorm2d(8), nn.GELU(), nn.MaxPool2d(2)
        )
        self.attention = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.head = nn.Linear(8, classes)
        self.register_buffer("scale", torch.tensor([0.5]))

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.body(images).flatten(2).transpose(1, 2)
        first, second = self.attention(tokens).chunk(2, dim=1)
        return self.head(torch.cat([first, second], 1).mean(1)) * self.scale + torch.ones(4)


def small(classes: int, channels: int) -> nn.Module:
    return Small(classes, channels).eval()


@pytest.fixture(scope="module")
def trained() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)  # noqa: TID251
        model = Small().eval()
    model.body[1].running_mean.uniform_(generator=torch.Generator().manual_seed(2))
    return model


@pytest.fixture(scope="module")
def archive(trained: nn.Module, tmp_path_factory) -> pathlib.Path:
    path = tmp_path_factory.mktemp("export") / "model.pt2"
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    torch.export.save(torch.export.export(trained, (IMAGES,), dynamic_shapes=shapes), path)
    return path


@pytest.fixture
def factory(monkeypatch, request) -> str:
    """This module's `small`, importable by name."""
    monkeypatch.setitem(sys.modules, "networks_of_the_user", request.module)
    return "networks_of_the_user:small"


def test_exported_networks(archive, trained) -> None:
    loaded = load_model(str(archive))
    assert (loaded.size, loaded.digest) == (16, digest(str(archive)))
    for batch in (IMAGES, IMAGES[:1]):
        assert torch.allclose(loaded.model(batch), trained(batch), atol=1e-6)
    state = loaded.model.state_dict()
    assert torch.equal(state["head.weight"], trained.head.weight)
    assert sum(p.numel() for p in loaded.model.parameters()) == sum(
        p.numel() for p in trained.parameters()
    )


def test_exported_networks_have_gradients_and_copies(archive, trained) -> None:
    model = copy.deepcopy(load_model(str(archive)).model)
    ours, theirs = IMAGES.clone().requires_grad_(), IMAGES.clone().requires_grad_()
    model(ours)[:, 1].sum().backward()
    trained(theirs)[:, 1].sum().backward()
    assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)
    assert model.get_parameter("head.weight").grad.abs().sum() > 0


class Tied(nn.Module):
    """Two names for one weight, and two buffers that share memory."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Linear(8, 8, bias=False) for _ in range(2))
        self.second.weight = self.first.weight
        table = torch.arange(160.0).reshape(20, 8) / 160
        self.register_buffer("table", table)
        self.register_buffer("high", table[10:])

    def forward(self, features: Tensor) -> Tensor:
        said = self.second(self.first(features).relu())
        return torch.cat([said @ self.table.t(), said @ self.high.t()], 1)


def test_exported_networks_with_shared_weights(tmp_path) -> None:
    with torch.random.fork_rng(devices=[]):
        tied, features = Tied().eval(), torch.rand(3, 8)
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(tied, (features,), dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "m.pt2")
    loaded = load_model(f"{tmp_path}/m.pt2").model
    assert torch.equal(loaded(features), tied(features))
    assert loaded.first.weight is loaded.second.weight
    assert loaded.high.data_ptr() == loaded.table[10:].data_ptr()


def test_exported_networks_need_a_free_batch_size(trained, tmp_path) -> None:
    torch.export.save(torch.export.export(trained, (IMAGES,)), tmp_path / "m.pt2")
    with pytest.raises(InputError, match="dynamic_shapes"):
        load_model(f"{tmp_path}/m.pt2")


def test_exported_networks_must_be_in_evaluation_mode(tmp_path) -> None:
    network = nn.Sequential(nn.Dropout(0.5), nn.Flatten(), nn.Linear(3 * 16 * 16, 2))
    shapes = ({0: torch.export.Dim.DYNAMIC},)
    program = torch.export.export(network.train(), (IMAGES,), dynamic_shapes=shapes)
    torch.export.save(program, tmp_path / "m.pt2")
    with pytest.raises(InputError, match=r"model\.eval"):
        load_model(f"{tmp_path}/m.pt2")


@pytest.mark.parametrize("suffix", ["safetensors", "pt", "pth", "bin"])
def test_weights_with_a_factory(trained, tmp_path, factory, suffix: str) -> None:
    path = tmp_path / f"w.{suffix}"
    (save_file if suffix == "safetensors" else torch.save)(trained.state_dict(), path)
    before = torch.get_rng_state()
    loaded = load_model(f"{path}@{factory}", classes=4, channels=3, size=16)
    torch.set_rng_state(before)
    assert torch.equal(loaded.model(IMAGES), trained(IMAGES))
    assert loaded.digest == digest(str(path))
    assert not loaded.model.training


def test_weights_must_fit(trained, tmp_path, factory) -> None:
    weights = trained.state_dict()
    weights["more"] = torch.ones(1)
    del weights["scale"]
    save_file(weights, tmp_path / "w.safetensors")
    with pytest.raises(InputError, match=r"4 differences.*head\.bias: \(7,\).*\(4,\)") as caught:
        load_model(f"{tmp_path}/w.safetensors@{factory}", classes=7, channels=3)
    assert "more: no such tensor in the model" in str(caught.value)


def test_factories(factory) -> None:
    network = load_factory(factory)(classes=2, channels=1, size=8, dims=3)
    assert network.head.out_features == 2
    assert network.body[0].in_channels == 1
    with pytest.raises(InputError, match="channels"):
        load_factory(factory)(classes=2)
    with pytest.raises(InputError, match=r"torch\.nn\.Module"):
        load_factory("argparse:Namespace")(classes=2)
    with pytest.raises(InputError, match=r"a network from .*:small, got RuntimeError"):
        load_factory(factory)(classes=-2, channels=1, size=8)
    for source in ("builtins:dict", "no.such:thing", "json:nothing", "json:__doc__", ":x", "json:"):
        with pytest.raises(UsageError, match="expected"):
            load_factory(source)


@pytest.mark.parametrize("source", ["missing", "missing.pt2", "w.pt@json:loads", "json:loads"])
def test_models_that_do_not_exist(tmp_path, source: str) -> None:
    with pytest.raises(UsageError, match="expected a file or a folder"):
        load_model(f"{tmp_path}/{source}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> tuple[pathlib.Path, Tensor]:
    """A folder that transformers wrote, and the model's logits."""
    from transformers import ResNetConfig, ResNetForImageClassification

    path = tmp_path_factory.mktemp("hf") / "model"
    names = dict(enumerate(["ant", "bee", "cat"]))
    config = ResNetConfig(
        embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic", id2label=names
    )
    with torch.random.fork_rng(devices=[]):
        model = ResNetForImageClassification(config).eval()
    model.save_pretrained(path)
    said = {"image_mean": [0.5] * 3, "image_std": [0.25] * 3, "size": {"shortest_edge": 16}}
    (path / "preprocessor_config.json").write_text(json.dumps(said))
    return path, model(IMAGES).logits.detach()


def test_hugging_face_folders(folder) -> None:
    path, logits = folder
    loaded = load_model(str(path))
    assert torch.allclose(loaded.model(IMAGES).logits, logits, atol=1e-6)
    assert loaded.class_names == ("ant", "bee", "cat")
    assert (loaded.mean, loaded.std, loaded.size) == ((0.5,) * 3, (0.25,) * 3, 16)
    assert loaded.digest == digest(str(path))
    assert not loaded.model.training


def test_hugging_face_folders_as_factories(folder) -> None:
    with torch.random.fork_rng(devices=[]):
        network = load_factory(str(folder[0]))(classes=7, channels=1, size=16, dims=0)
    assert network(torch.zeros(2, 1, 16, 16)).logits.shape == (2, 7)


def test_hugging_face_weights_must_fit(folder, tmp_path) -> None:
    config = json.loads((folder[0] / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config))
    save_file({"other": torch.ones(2)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="to fit its model"):
        load_model(str(tmp_path))


TOWER = {
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
SEEN = {**TOWER, "image_size": 16, "patch_size": 8}


def encoders() -> dict[str, nn.Module]:
    """Encoders of images as transformers has them, by their kind."""
    import transformers as t

    read = {**TOWER, "vocab_size": 9, "max_position_embeddings": 4, "bos_token_id": 0}
    both = t.CLIPConfig(
        text_config={**read, "eos_token_id": 1}, vision_config=SEEN, projection_dim=6
    )
    seen = t.CLIPVisionConfig(**SEEN, projection_dim=6)
    small = t.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], layer_type="basic")
    return {
        "clip": t.CLIPModel(both),
        "vision": t.CLIPVisionModel(seen),
        "projected": t.CLIPVisionModelWithProjection(seen),
        "vit": t.ViTModel(t.ViTConfig(**SEEN)),
        "bare": t.ViTModel(t.ViTConfig(**SEEN), add_pooling_layer=False),
        "resnet": t.ResNetModel(small),
    }


@pytest.mark.parametrize(
    ("kind", "field", "dims"),
    [
        ("clip", "pooler_output", 6),
        ("vision", "pooler_output", 8),
        ("projected", "image_embeds", 6),
        ("vit", "pooler_output", 8),
        ("bare", "last_hidden_state", 8),
        ("resnet", "pooler_output", 8),
    ],
)
def test_folders_of_encoders(tmp_path, kind: str, field: str, dims: int) -> None:
    with torch.random.fork_rng(devices=[]):
        model = encoders()[kind].eval()
    model.save_pretrained(tmp_path)
    loaded = load_model(str(tmp_path), encoder=True)
    assert loaded.class_names is None
    assert not loaded.model.training
    ask = model.get_image_features if kind == "clip" else model
    with torch.inference_mode():
        found, wanted = getattr(loaded.model(IMAGES), field), getattr(ask(IMAGES), field)
    assert torch.allclose(found, wanted, atol=1e-6)
    assert dims in found.shape[1:]


def test_a_classifier_is_no_encoder(folder) -> None:
    with pytest.raises(InputError, match="got ResNetForImageClassification"):
        load_model(str(folder[0]), encoder=True)


def test_weights_of_an_encoder_must_fit(tmp_path) -> None:
    with torch.random.fork_rng(devices=[]):
        model = encoders()["vit"]
    model.save_pretrained(tmp_path)
    weights = {k: v.contiguous() for k, v in model.state_dict().items() if "bias" not in k}
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="to fit its model"):
        load_model(str(tmp_path), encoder=True)


@pytest.mark.parametrize(
    ("said", "mean", "std"),
    [
        ({"image_mean": [0.5], "image_std": [0.25]}, 0.5, 0.25),
        ({"do_normalize": False}, 0.0, 1.0),
        ({"do_rescale": False, "image_mean": [51.0], "image_std": [102.0]}, 0.2, 0.4),
        ({"rescale_factor": 1 / 127.5, "image_mean": [1.0], "image_std": [1.0]}, 0.5, 0.5),
    ],
)
def test_what_a_processor_does_to_images_in_0_to_1(tmp_path, said, mean, std) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    found = huggingface.processor(tmp_path)
    assert (found.mean, found.std) == (pytest.approx((mean,)), pytest.approx((std,)))
