"""Prompt learners in files: read as the public code writes them, and refused where they mislead."""

import json
import pathlib
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from transformers import CLIPConfig, CLIPModel

from assay.errors import InputError, RefusedError, UsageError
from assay.prompting import (
    LEARNERS,
    CoCoOp,
    MaPLe,
    Position,
    Prompted,
    Wording,
    ZeroShot,
    lay_out,
)
from assay.randomness import Seed, isolated
from assay.storage.clip import load_backbone
from assay.storage.prompt_learners import load_prompted, write_prompt

NAMES = ("cat", "dog", "fox")
WORDS = ("a", "photo", "of", "cat", "dog", "fox", ".", "<|startoftext|>", "<|endoftext|>")
IMAGES = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
KINDS = [kind for kind in sorted(LEARNERS) if kind != "zero-shot"]


def write_clip(folder: pathlib.Path, **texts: int) -> pathlib.Path:
    """Write a tiny CLIP with a tokenizer of a few words, as transformers lays folders out."""
    config = CLIPConfig(
        text_config={
            "vocab_size": len(WORDS),
            "hidden_size": 16,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "max_position_embeddings": 12,
            "eos_token_id": 8,
            **texts,
        },
        vision_config={
            "hidden_size": 24,
            "intermediate_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "image_size": 8,
            "patch_size": 4,
        },
        projection_dim=32,
    )
    with isolated(Seed(0), torch.device("cpu")):
        CLIPModel(config).save_pretrained(folder)
    model = {
        "type": "WordLevel",
        "vocab": {word: place for place, word in enumerate(WORDS)},
        "unk_token": "a",
    }
    said = {"version": "1.0", "added_tokens": [], "model": model}
    said["pre_tokenizer"] = {"type": "Whitespace"}
    (folder / "tokenizer.json").write_text(json.dumps(said))
    processor = {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.25, 0.25, 0.25], "size": 8}
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> pathlib.Path:
    return write_clip(tmp_path_factory.mktemp("clip"))


def learner(kind: str, clip: pathlib.Path, **more: Any) -> Prompted:
    backbone = load_backbone(str(clip)).backbone
    more |= {"depth": 2} if kind in {"vpt", "maple"} else {}
    made = LEARNERS[kind].fresh(backbone, seed=Seed(1), context=3, **more)
    return Prompted(backbone, made, NAMES)


@pytest.mark.parametrize("name", ["prompt.safetensors", "model.pth.tar-50"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_is_read(tmp_path, clip, kind: str, name: str) -> None:
    prompted = learner(kind, clip)
    write_prompt(prompted, tmp_path / name)
    state = torch.get_rng_state()
    loaded = load_prompted(str(clip), str(tmp_path / name), NAMES, position=Position.END)
    assert torch.equal(state, torch.get_rng_state())
    assert loaded.kind == kind
    assert torch.equal(loaded.prompted(IMAGES), prompted(IMAGES))
    assert all(p.requires_grad for p in loaded.prompted.learner.parameters())
    assert len(loaded.prompt_digest) == len(loaded.backbone_digest) == 64
    assert loaded.notes == ()
    again = tmp_path / "again.safetensors"
    write_prompt(loaded.prompted, again)
    assert torch.equal(
        load_prompted(str(clip), str(again), NAMES).prompted(IMAGES), prompted(IMAGES)
    )


def test_no_prompt_is_the_zero_shot_classifier(clip) -> None:
    loaded = load_prompted(str(clip), "zero-shot", NAMES)
    wanted = Prompted(load_backbone(str(clip)).backbone, ZeroShot(), NAMES)
    assert loaded.kind == "zero-shot"
    assert torch.equal(loaded.prompted(IMAGES), wanted(IMAGES))
    assert loaded.prompted(IMAGES).std() > 0
    with pytest.raises(InputError, match="zero-shot"):
        write_prompt(loaded.prompted, clip / "none.safetensors")


# checkpoints of the public code


class WarmUp(torch.optim.lr_scheduler.LRScheduler):
    """A schedule that holds the one behind it, as Dassl's do."""

    def __init__(self, optimizer: torch.optim.Optimizer, successor: object) -> None:
        self.successor = successor
        super().__init__(optimizer)

    def get_lr(self) -> list[float]:
        return [1e-5 for _ in self.base_lrs]


def checkpoint(path: pathlib.Path, state: dict[str, torch.Tensor], **more: Any) -> str:
    """Save as Dassl's trainer does, with the optimizer and both schedules."""
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([parameter], lr=0.002, momentum=0.9)
    schedule = WarmUp(optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 50))
    parameter.sum().backward()
    optimizer.step()
    saved = {
        "state_dict": OrderedDict(state),
        "epoch": 50,
        "optimizer": optimizer.state_dict(),
        "scheduler": schedule.state_dict(),
        "val_result": None,
        **more,
    }
    torch.save(saved, path)
    return str(path)


def embedded(clip: pathlib.Path, names: tuple[str, ...], tokens: int) -> torch.Tensor:
    """Embed names as the public code stores them: what follows the context, to the end."""
    backbone = load_backbone(str(clip), max_mb=16).backbone
    laid = lay_out(backbone, names, Wording())
    suffix = torch.zeros(len(names), tokens, 16)
    suffix[:, : laid.embedded.shape[1] - 1] = laid.embedded[:, 1:].detach()
    return suffix.half()


@pytest.mark.parametrize(
    ("tuned", "said"),
    [
        (("dog", "cat", "fox"), r'same order: class 0 is "cat" in your list, and "dog" in'),
        (("cat", "dog", "photo"), r'class 2 is "fox" in your list, and none of your names'),
        (("cat", "dog"), r"the 2 classes that .* got 3 names"),
    ],
)
def test_names_that_a_checkpoint_was_not_tuned_for_are_refused(tmp_path, clip, tuned, said) -> None:
    state = {"prompt_learner.ctx": torch.randn(4, 16)}
    state["prompt_learner.token_suffix"] = embedded(clip, tuned, 7)
    path = checkpoint(tmp_path / "model.pth.tar-50", state)
    with pytest.raises(InputError, match=said):
        load_prompted(str(clip), path, NAMES)


def test_embedded_names_without_a_shape_are_refused(tmp_path, clip) -> None:
    state = {"ctx": torch.randn(4, 16), "token_suffix": torch.tensor(1.0)}
    path = checkpoint(tmp_path / "model.pth.tar-50", state)
    with pytest.raises(InputError, match=r"'token_suffix' in .* as \(classes, .*got \(\)"):
        load_prompted(str(clip), path, NAMES)


def test_learners_of_trainings_on_several_gpus(tmp_path, clip) -> None:
    prompted = learner("maple", clip)
    state = {f"module.prompt_learner.{k}": v for k, v in prompted.learner.state_dict().items()}
    state["module.image_encoder.conv1.weight"] = torch.zeros(24, 3, 4, 4)
    path = checkpoint(tmp_path / "model.pth.tar-5", state)
    loaded = load_prompted(str(clip), path, NAMES)
    assert torch.equal(loaded.prompted(IMAGES), prompted(IMAGES))


def test_embedded_names_of_something_else_are_said(tmp_path, clip) -> None:
    state = {"ctx": torch.randn(4, 16), "token_suffix": torch.randn(3, 7, 16)}
    path = checkpoint(tmp_path / "model.pth.tar-50", state)
    loaded = load_prompted(str(clip), path, NAMES, position=Position.MIDDLE)
    assert [("none of them is one of yours" in note) for note in loaded.notes] == [True]


def test_checkpoints_of_the_public_code(tmp_path, clip) -> None:
    ctx = torch.randn(4, 16).half()
    suffix = embedded(clip, NAMES, 60)
    state = {"ctx": ctx, "token_prefix": torch.randn(3, 1, 16), "token_suffix": suffix}
    path = checkpoint(tmp_path / "model.pth.tar-50", state)
    with zipfile.ZipFile(path) as archive:
        pickled = archive.read(next(n for n in archive.namelist() if n.endswith("data.pkl")))
    assert b"CosineAnnealingLR" in pickled, "the checkpoint holds no schedule"
    loaded = load_prompted(str(clip), path, NAMES)
    assert loaded.kind == "coop"
    assert torch.equal(loaded.prompted.learner.ctx, ctx.float())
    assert [note for note in loaded.notes if "does not say where" in note] == [*loaded.notes]
    front = load_prompted(str(clip), path, NAMES, position=Position.FRONT)
    assert not torch.allclose(front.prompted(IMAGES), loaded.prompted(IMAGES), atol=1e-4)


def test_a_whole_model_in_a_checkpoint_is_not_read(tmp_path, clip) -> None:
    """The public code of MaPLe and VPT saves the backbone too."""
    prompted = learner("maple", clip)
    state = {f"prompt_learner.{k}": v for k, v in prompted.learner.state_dict().items()}
    state["prompt_learner.token_prefix"] = torch.zeros(3, 1, 16)
    state["image_encoder.conv1.weight"] = torch.full((24, 3, 4, 4), 9.0)
    state["text_encoder.transformer.resblocks.0.ln_1.weight"] = torch.full((16,), torch.nan)
    state["logit_scale"] = torch.tensor(0.0)
    path = checkpoint(tmp_path / "model.pth.tar-5", state)
    loaded = load_prompted(str(clip), path, NAMES)
    assert torch.equal(loaded.prompted(IMAGES), prompted(IMAGES))
    assert "3 tensors of a backbone" in loaded.notes[0]


def test_class_specific_contexts_count_the_classes(tmp_path, clip) -> None:
    prompted = learner("coop", clip, classes=3)
    write_prompt(prompted, tmp_path / "p.safetensors")
    path = str(tmp_path / "p.safetensors")
    assert torch.equal(load_prompted(str(clip), path, NAMES).prompted(IMAGES), prompted(IMAGES))
    with pytest.raises(InputError, match=r"3 classes .* same order.*difference is at 0"):
        load_prompted(str(clip), path, ("dog", "cat", "fox"))
    with pytest.raises(InputError, match=r"3 classes .*got 2 names"):
        load_prompted(str(clip), path, NAMES[:2])
    (tmp_path / "p.json").unlink()
    with pytest.raises(InputError, match=r"'ctx' of shape \(2, any, 16\).*got \(3, 3, 16\)"):
        load_prompted(str(clip), path, NAMES[:2])


def test_another_backbone_is_said(tmp_path, clip) -> None:
    path = tmp_path / "p.safetensors"
    write_prompt(learner("coop", clip), path, backbone_digest="0" * 64)
    assert "0" * 64 in load_prompted(str(clip), str(path), NAMES).notes[0]
    digest = load_backbone(str(clip)).digest
    other = tmp_path / "q.safetensors"
    write_prompt(learner("coop", clip), other, backbone_digest=digest)
    assert load_prompted(str(clip), str(other), NAMES).notes == ()
    with pytest.raises(InputError, match="does not exist yet"):
        write_prompt(learner("coop", clip), other)


@pytest.mark.parametrize("name", ["model.pth.tar-50", "prompt.safetensors"])
@pytest.mark.parametrize("start", ["", "module.prompt_learner."])
def test_a_repaired_prompt_has_the_form_in_which_it_came(tmp_path, clip, name, start) -> None:
    given = {
        "ctx": torch.randn(3, 16).half(),
        "token_prefix": torch.randn(3, 1, 16).half(),
        "token_suffix": embedded(clip, NAMES, 7),
    }
    given = {f"{start}{key}": value for key, value in given.items()}
    if name.endswith("safetensors"):
        save_file(given, tmp_path / name)
    else:
        checkpoint(tmp_path / name, given)
    loaded = load_prompted(str(clip), str(tmp_path / name), NAMES, position=Position.FRONT)
    with torch.no_grad():
        loaded.prompted.learner.ctx.add_(1)
    out = tmp_path / f"repaired-{name}"
    write_prompt(loaded.prompted, out, stored=loaded.stored)
    again = load_prompted(str(clip), str(out), NAMES, position=Position.FRONT)
    assert {n: (v.dtype, v.shape) for n, v in again.stored.items()} == {
        n: (v.dtype, v.shape) for n, v in given.items()
    }
    for key, value in given.items():
        assert torch.equal(again.stored[key], value) == ("ctx" not in key)
    assert torch.allclose(again.prompted(IMAGES), loaded.prompted(IMAGES), atol=1e-2)
    with pytest.raises(InputError, match="same order"):
        load_prompted(str(clip), str(out), NAMES[::-1], position=Position.FRONT)


# refusals


CTX = torch.ones(3, 16)
COCOOP = CoCoOp(CTX, dims=32, hidden=2).state_dict()
MAPLE = MaPLe(CTX, [CTX], image_width=24).state_dict()
LATER = "image_encoder.transformer.resblocks.{}.VPT_shallow"


@pytest.mark.parametrize("suffix", ["safetensors", "pth.tar-1"])
@pytest.mark.parametrize(
    ("state", "pattern"),
    [
        ({"ctx": torch.ones(3, 17)}, r"'ctx' of shape \(any, 16\).*got \(3, 17\)"),
        ({"ctx": torch.ones(3)}, r"\(context, width\) or .*got \(3,\)"),
        ({"ctx": torch.ones(0, 16)}, r"got \(0, 16\)"),
        ({"ctx": torch.ones(10, 16)}, "at most 12 tokens"),
        ({"ctx": CTX * torch.nan}, r"NaN or infinity in \['ctx'\]"),
        ({"ctx": CTX * torch.inf}, "NaN or infinity"),
        ({"token_prefix": CTX}, "got none"),
        ({"ctx": CTX, "evil.classnames": CTX}, "got .*'evil.classnames'"),
        ({"ctx": CTX, "adapter.token_prefix": CTX}, "got .*'adapter.token_prefix'"),
        ({"prompt_learner.ctx": CTX, LATER.format(1): CTX}, "other kinds are not audited"),
        ({"other": CTX}, "CoOp, CoCoOp, VPT or MaPLe"),
        ({"ctx": CTX, "more": CTX}, "CoOp, CoCoOp, VPT or MaPLe"),
        ({n: v for n, v in COCOOP.items() if n != "ctx"}, "a tensor 'ctx'"),
        ({n: v for n, v in COCOOP.items() if "linear2" not in n}, r"meta_net.linear2.bias \(16,\)"),
        ({**COCOOP, "meta_net.linear1.weight": torch.ones(2, 31)}, r"linear1.weight.*\(any, 32\)"),
        ({**COCOOP, "meta_net.linear2.weight": torch.ones(16, 3)}, r"linear2.weight \(16, 2\)"),
        ({**COCOOP, "meta_net.linear1.weight": torch.ones(10**6, 1)}, r"linear1.bias \(1000000,\)"),
        ({n: v for n, v in MAPLE.items() if "projections" not in n}, "compound_prompt_projections"),
        ({**MAPLE, "compound_prompts_text.7": CTX}, "'compound_prompts_text.1'"),
        ({**MAPLE, "proj.weight": torch.ones(25, 16)}, "proj.bias"),
        ({"image_encoder.VPT": torch.ones(2, 23)}, r"visual prompt 0' of shape \(any, 24\)"),
        (
            {"image_encoder.VPT": torch.ones(2, 24), LATER.format(2): torch.ones(2, 24)},
            "CoOp, CoCoOp, VPT or MaPLe",
        ),
        ({"image_encoder.VPT": torch.ones(2, 24), "ctx": CTX}, "CoOp, CoCoOp, VPT or MaPLe"),
    ],
)
def test_tensors_that_are_no_learner(tmp_path, clip, suffix, state, pattern: str) -> None:
    path = tmp_path / f"model.{suffix}"
    if suffix == "safetensors":
        save_file({name: value.clone() for name, value in state.items()}, path)
    else:
        torch.save({"state_dict": state, "epoch": 1}, path)
    with pytest.raises(InputError, match=pattern):
        load_prompted(str(clip), str(path), NAMES)


@pytest.mark.parametrize("suffix", ["safetensors", "pth.tar-1"])
@pytest.mark.parametrize(
    "names",
    [
        ("ctx", "prompt_learner.ctx"),
        ("ctx", "module.ctx"),
        ("module.prompt_learner.ctx", "prompt_learner.ctx"),
        ("image_encoder.VPT", "module.image_encoder.VPT"),
        ("image_encoder.VPT", f"module.{LATER.format(1)}"),
        ("ctx", "prompt_learner.token_suffix"),
        ("ctx", *(f"prompt_learner.{name}" for name in MAPLE if name != "ctx")),
    ],
)
def test_whoever_loads_a_learner_loads_all_of_it(tmp_path, clip, suffix, names) -> None:
    """The public code would load one of these tensors and leave the other."""
    path = tmp_path / f"model.{suffix}"
    state = {name: torch.full((3, 16), float(place)) for place, name in enumerate(names)}
    if suffix == "safetensors":
        save_file(state, path)
    else:
        torch.save({"state_dict": state, "epoch": 1}, path)
    with pytest.raises(RefusedError, match=r"once, .*start alike, got .*ctx|VPT.*ask for"):
        load_prompted(str(clip), str(path), NAMES)


def test_foreign_objects_are_named_and_not_made(tmp_path, clip, betraying, marker, forms) -> None:
    path = tmp_path / "model.pth.tar-1"
    for key in ("state_dict", "scheduler", "val_result"):
        checkpoint(path, {"ctx": CTX}, **{key: {"ctx": forms.Betraying(marker)}})
        with pytest.raises(RefusedError, match=r"would import or call .*nothing was run"):
            load_prompted(str(clip), str(path), NAMES)
    torch.save({"state_dict": {"ctx": nn.Linear(2, 2)}}, path)
    with pytest.raises(RefusedError, match=r"torch.nn.modules.linear Linear"):
        load_prompted(str(clip), str(path), NAMES)
    path.write_bytes(betraying)
    with pytest.raises(RefusedError, match="broken"):
        load_prompted(str(clip), str(path), NAMES)
    assert not marker.exists()


@pytest.mark.parametrize(
    ("saved", "pattern"),
    [
        ([1, 2], "state_dict"),
        ({"state_dict": [1]}, "state_dict"),
        ({"state_dict": {"ctx": "text"}}, "a tensor 'ctx'.*got str"),
        ({"state_dict": {"ctx": {"a": CTX}}}, "got dict"),
        ({"state_dict": {3: CTX}}, "printable names"),
        ({"state_dict": {"c\u202etx": CTX}}, "printable names"),
        ({"state_dict": {"ctx": torch.ones(3, 16).long()}}, "floats in 'ctx'"),
        ({"state_dict": {"ctx": torch.zeros(1).expand(2**40, 16)}}, "as many as it stores"),
        ({"state_dict": {"ctx": torch.ones(3, 16).to_sparse()}}, "would import|a tensor|refus"),
    ],
)
def test_checkpoints_of_anything_else(tmp_path, clip, saved: object, pattern: str) -> None:
    torch.save(saved, tmp_path / "m.pth.tar-1")
    with pytest.raises(RefusedError, match=pattern):
        load_prompted(str(clip), str(tmp_path / "m.pth.tar-1"), NAMES)


def test_sizes_are_bounded(tmp_path, clip) -> None:
    path = tmp_path / "p.safetensors"
    header = {"ctx": {"dtype": "F32", "shape": [2**30, 16], "data_offsets": [0, 2**36]}}
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + b"\0" * 64)
    with pytest.raises(RefusedError, match="truncated"):
        load_prompted(str(clip), str(path), NAMES)
    save_file({"ctx": torch.zeros(2**16, 2**9)}, path)
    with pytest.raises(RefusedError, match="at most 64 MB"):
        load_prompted(str(clip), str(path), NAMES)
    with pytest.raises(RefusedError, match="at most 1 MB"):
        load_prompted(str(clip), str(path), NAMES, max_mb=1)


@pytest.mark.parametrize(
    ("change", "pattern"),
    [
        ({"schema": "other"}, "schema"),
        ({"class_names": "cat"}, "class_names"),
        ({"class_names": [1, 2, 3]}, "class_names"),
        ({"position": "nowhere"}, "position"),
        ({"position": ["end"]}, "position"),
        ({"kind": "vpt"}, "expected a 'vpt'.*got coop"),
        ({"context": 99}, "context as 99 .*as described, got 3"),
        ({"template": "a {}!"}, "template as 'a {}!' .*as described, got '{}.'"),
    ],
)
def test_descriptions_that_do_not_fit(tmp_path, clip, change: dict, pattern: str) -> None:
    write_prompt(learner("coop", clip), tmp_path / "p.safetensors")
    described = tmp_path / "p.json"
    described.write_text(json.dumps({**json.loads(described.read_text()), **change}))
    with pytest.raises(RefusedError, match=pattern):
        load_prompted(str(clip), str(tmp_path / "p.safetensors"), NAMES)
    described.write_text("{")
    with pytest.raises(RefusedError, match="JSON"):
        load_prompted(str(clip), str(tmp_path / "p.safetensors"), NAMES)


def test_a_description_and_the_user_that_do_not_agree(tmp_path, clip) -> None:
    path = tmp_path / "p.safetensors"
    write_prompt(learner("coop", clip, position=Position.FRONT), path)
    assert load_prompted(str(clip), str(path), NAMES).prompted.learner.position == Position.FRONT
    with pytest.raises(InputError, match=r"position 'front', as .* says, got 'end'; ask"):
        load_prompted(str(clip), str(path), NAMES, position=Position.END)
    cocoop = tmp_path / "c.safetensors"
    write_prompt(learner("cocoop", clip), cocoop)
    edited(tmp_path, "c.json", lambda said: said.update(position="front"))
    with pytest.raises(RefusedError, match=r"position as 'front' .*as described, got 'end'"):
        load_prompted(str(clip), str(cocoop), NAMES)


def test_a_folder_is_no_description(tmp_path, clip) -> None:
    save_file({"ctx": torch.randn(4, 16)}, tmp_path / "p.safetensors")
    (tmp_path / "p.json").mkdir()
    with pytest.raises(RefusedError, match=r"got the folder .*p\.json"):
        load_prompted(str(clip), str(tmp_path / "p.safetensors"), NAMES)


# backbones


def edited(folder: pathlib.Path, name: str, edit: Callable[[dict], None]) -> None:
    said = json.loads((folder / name).read_text())
    edit(said)
    (folder / name).write_text(json.dumps(said))


@pytest.mark.parametrize(
    ("name", "edit", "pattern"),
    [
        ("preprocessor_config.json", lambda d: d.pop("image_mean"), "expected image_mean"),
        ("preprocessor_config.json", lambda d: d.pop("image_std"), "image_mean"),
        ("preprocessor_config.json", lambda d: d.update(image_mean=[0.5]), "three channels"),
        ("tokenizer.json", lambda d: d["model"]["vocab"].pop(WORDS[-1]), r"endoftext"),
        ("tokenizer.json", lambda d: d["model"]["vocab"].update({WORDS[-1]: 99}), "end token in"),
        (
            "config.json",
            lambda d: d.update(architectures=["CLIPForImageClassification"]),
            "CLIPModel",
        ),
        ("config.json", lambda d: d.update(auto_map={"AutoModel": "x.Y"}), "would load code"),
    ],
)
def test_backbones_that_are_refused(tmp_path, name, edit, pattern: str) -> None:
    folder = write_clip(tmp_path / "clip")
    edited(folder, name, edit)
    with pytest.raises(InputError, match=pattern):
        load_backbone(str(folder))


def test_a_backbone_whose_images_are_not_standardised(tmp_path) -> None:
    folder = write_clip(tmp_path / "clip")
    edited(folder, "preprocessor_config.json", lambda d: d.update(do_normalize=False))
    loaded = load_backbone(str(folder)).backbone
    assert loaded.mean.flatten().tolist() == [0, 0, 0]
    assert loaded.std.flatten().tolist() == [1, 1, 1]


def test_only_clips_are_backbones(tmp_path, clip) -> None:
    with pytest.raises(InputError, match=r"config\.json"):
        load_backbone(str(tmp_path))
    with pytest.raises(InputError, match="hf:NAME"):
        load_backbone(str(clip / "config.json"))
    with pytest.raises(UsageError):
        load_backbone(str(tmp_path / "nothing"))
    with pytest.raises(InputError, match="got the folder"):
        load_prompted(str(clip), str(clip), NAMES)


def test_a_backbone_on_the_hub(tmp_path, clip, monkeypatch) -> None:
    import huggingface_hub

    asked = {}

    def snapshot(name: str, *, allow_patterns: list[str], local_dir: str) -> None:
        asked.update(name=name, patterns=allow_patterns)
        pathlib.Path(local_dir).parent.mkdir()
        write_clip(pathlib.Path(local_dir))

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HOME", str(tmp_path))
    loaded = load_backbone("hf:owner/name")
    assert loaded.digest == load_backbone(str(clip)).digest
    assert asked["name"] == "owner/name"
    assert not any("bin" in pattern or "py" in pattern for pattern in asked["patterns"])
    for name in ("hf:", "hf:a/b/c", "hf:../x", "hf:/etc"):
        with pytest.raises(UsageError, match="OWNER/NAME"):
            load_backbone(name)
