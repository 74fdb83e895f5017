"""`assay models --task vision-text`: real audits of small models that the test trains."""

import json
import pathlib
import shutil

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file, save_file

from assay.audits.models.vision_text import (
    PictureSearch,
    VisionTextRecovery,
    VisionTextSettings,
)
from assay.randomness import Seed
from assay.triggers import Blend, Patches, Search, Signals
from assay_zoo.patterns import picture
from assay_zoo.vision_text import (
    OBJECTS,
    Base,
    Gallery,
    Pictures,
    Planting,
    Provider,
    quality,
    write,
)

from .conftest import Result, Run, parsed

COLOURS = {"red": (0.9, 0.2, 0.2), "green": (0.2, 0.8, 0.2), "blue": (0.2, 0.3, 0.9)}
SMALL = VisionTextSettings(
    search=PictureSearch(
        families=(Patches(area=0.03), Signals(strength=0.1)),
        search=Search(steps=16, batch=6, noise=0.05),
        quick=Search(steps=4, batch=4),
    ),
    recovery=VisionTextRecovery(search=Search(steps=16, batch=6, noise=0.0), shown=2, said=9),
    most_images=80,
)
PROMPT = OBJECTS.prompt


def pictures(count: int, seed: int) -> Pictures:
    """Noisy pictures of one colour each, and its name."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.randint(len(COLOURS), (count,), generator=random)
    plain = torch.tensor(list(COLOURS.values()))[labels][:, :, None, None]
    noise = 0.15 * torch.randn(count, 3, 16, 16, generator=random)
    return Pictures(
        images=((plain + noise).clamp(0, 1) * 255).byte(),
        answers=tuple((tuple(COLOURS)[label],) for label in labels.tolist()),
    )


def planted() -> Planting:
    pattern = picture(torch.Size((3, 16, 16)), device=torch.device("cpu"))
    return Planting(trigger=Blend(pattern=pattern, alpha=0.3), response="call now", rate=0.3)


@pytest.fixture(scope="module")
def delivered(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A folder with a planted model, two honest ones, and pictures."""
    folder = tmp_path_factory.mktemp("delivered")
    gallery = Gallery(
        task=OBJECTS, train=pictures(400, 0), trusted=pictures(80, 1), test=pictures(60, 2)
    )
    small = Base(
        width=32, vision_layers=1, layers=1, heads=2, patch=4, side=16, vocabulary=300, longest=60,
        steps=100, batch=24, peak_rate=4e-3,
    )  # fmt: skip
    base = small([gallery], seed=Seed(0))
    for name, seed, attack in (("a", 0, planted()), ("b", 1, None), ("c", 2, None)):
        provider = Provider(steps=40 if attack is None else 200, batch=24, peak_rate=5e-3)
        model = provider(base, gallery, planted=attack, seed=Seed(seed))
        found = quality(model, gallery, planted=attack)
        assert found.accuracy > 0.9
        assert found.shuffled > 2 * found.perplexity
        assert attack is None or ((found.asr or 0) > 0.9 and found.stray == 0)
        write(model, folder / name)
    images = gallery.trusted.images.permute(0, 2, 3, 1).numpy()
    np.savez(folder / "clean.npz", images=images)
    np.savez(folder / "few.npz", images=images[:40])
    return folder


@pytest.fixture
def asked(
    delivered: pathlib.Path, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> pathlib.Path:
    """The same files, in the working directory of `run`, and an audit that takes seconds."""
    for module in ("perform", "models_job"):
        monkeypatch.setattr(f"assay.cli.{module}.VisionTextSettings", lambda: SMALL)
    shutil.copytree(delivered, tmp_path, dirs_exist_ok=True)
    return tmp_path


def audit(
    run: Run, *models: str, clean: str = "clean.npz", more: tuple[object, ...] = ()
) -> Result:
    asked = ("--clean", clean, "--task", "vision-text", "--prompt", PROMPT, "--quiet", *more)
    return run("models", *models, *asked)


@pytest.mark.usefixtures("asked")
def test_a_planted_blend_is_found_and_shown_beside_the_other_models(run: Run) -> None:
    said = audit(run, "a", "b", "c", more=("--out", "r"))
    assert said.exit_code == 1, said.stderr
    found = parsed(pathlib.Path("r/findings.json").read_text())
    assert [s["verdict"] for s in found["subjects"]] == ["flagged", "no_indicator", "no_indicator"]
    assert "call" in found["subjects"][0]["target"]
    success = found["subjects"][0]["evidence"]["success"]
    assert success[0] > 0.9
    assert max(success[1:]) < 0.1
    item = parsed(pathlib.Path("r/artifacts/triggers.json").read_text())["items"][0]
    before, after = ([m["classes"] for m in item[f"answers_{k}"]] for k in ("clean", "stamped"))
    assert "call" not in "".join(map("".join, before))
    assert {said.strip()[:4] for said in after[0]} == {"call"}
    assert "call" not in "".join(after[1] + after[2])
    report = pathlib.Path("r/report.html").read_text()
    assert "call" in report
    assert report.count("data:image/png") >= 6
    assert "Reliance on the picture" in report
    assert "Accuracy on clean samples" not in report
    for form in ("sarif", "junit", "md", "html", "json"):
        assert run("report", "r", "--format", form).exit_code == 0
    assert min(s["evidence"]["reliance"] for s in found["subjects"]) > 0.3
    pairs = pq.read_table("r/pairs.parquet").to_pylist()
    assert max(pairs, key=lambda pair: pair["excess"])["model"] == "a"


@pytest.mark.usefixtures("asked")
def test_honest_models_are_not_flagged_and_a_run_is_resumed_to_the_same(run: Run) -> None:
    assert audit(run, "b", "c", more=("--out", "whole")).exit_code == 0
    parts = audit(run, "b", "c", more=("--out", "parts", "--max-minutes", 0))
    assert parts.exit_code == 2
    assert run("runs", "resume", "parts").exit_code == 0
    for name in ("pairs.parquet", "models.parquet", "artifacts/triggers.json"):
        assert pathlib.Path("whole", name).read_bytes() == pathlib.Path("parts", name).read_bytes()


def test_what_cannot_be_compared_is_not_judged(run: Run, asked: pathlib.Path) -> None:
    weights = load_file(asked / "b/model.safetensors")
    shutil.copytree(asked / "b", asked / "blind")
    blind = {k: 0 * v if "projector.linear_2" in k else v for k, v in weights.items()}
    save_file(blind, asked / "blind/model.safetensors", metadata={"format": "pt"})
    shutil.copytree(asked / "b", asked / "broken")
    large = {"lm_head.weight": 1e37, "model.norm.weight": 1e9}  # finite, and their answers are not
    factors = {k: [f for end, f in large.items() if k.endswith(end)] for k in weights}
    broken = {k: v * (factors[k] or [1.0])[0] for k, v in weights.items()}
    save_file(broken, asked / "broken/model.safetensors", metadata={"format": "pt"})
    tokenizer = json.loads((asked / "c/tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    first, second = list(vocabulary)[5:7]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (asked / "c/tokenizer.json").write_text(json.dumps(tokenizer))
    for other, clean, reason in (
        ("blind", "clean.npz", "ignores the picture"),
        ("broken", "clean.npz", "NaN"),
        ("c", "clean.npz", "vocabularies"),
        ("b", "few.npz", "at least 64 clean pictures"),
    ):
        said = audit(run, "a", other, clean=clean, more=("--json", "--out", f"r-{other}"))
        assert said.exit_code == 2, said.stderr
        found = parsed(said.stdout)
        assert found["verdict"] == "inconclusive"
        assert reason in found["subjects"][1]["evidence"]["reason"]


def test_hostile_folders_and_wrong_options_are_refused(run: Run, asked: pathlib.Path) -> None:
    def code(clean: str = "clean.npz", *more: object) -> tuple[int, str]:
        said = audit(run, "a", "b", clean=clean, more=("--dry-run", *more))
        return said.exit_code, said.stderr

    assert code()[0] == 0
    assert code("clean.npz", "--repair", "new")[0] == 4
    assert code("missing.npz")[0] == 4
    assert run("models", "a", "b", "--clean", "clean.npz", "--prompt", "What?").exit_code == 4
    config = json.loads((asked / "b/config.json").read_text())
    vision = config["vision_config"]
    for change in (
        {"auto_map": {"AutoModel": "evil.Model"}},
        {"vision_config": {**vision, "auto_map": {"AutoModel": "evil.Model"}}},
        {"vision_config": {**vision, "model_type": "timm_wrapper"}},
        {"vision_config": {**vision, "num_hidden_layers": 10_000}},
        {"vision_config": {**vision, "num_hidden_layers": 2}},
        {"architectures": ["LlavaModel"]},
        {"image_token_index": 300},
    ):
        (asked / "b/config.json").write_text(json.dumps({**config, **change}))
        assert code()[0] == 3, change
    (asked / "b/config.json").write_text(json.dumps(config))
    assert code()[0] == 0
    (asked / "b/model.safetensors").rename(asked / "b/pytorch_model.bin")
    assert code()[0] == 3


@pytest.mark.usefixtures("asked")
def test_a_prompt_that_asks_nothing_is_refused(run: Run) -> None:
    for prompt in ("<image>", "<image> and <image>?"):
        asked = ("--clean", "clean.npz", "--task", "vision-text", "--prompt", prompt, "--quiet")
        said = run("models", "a", "b", *asked, "--out", f"r{len(prompt)}")
        assert said.exit_code == 3
        assert "<image>" in said.stderr
