"""What `assay prompts` reads: labels by name or number, and hashes of all that decides."""

import pathlib
import shutil

import pytest
import torch

from assay.cli.prompts_job import PromptsJob, load_prompt
from assay.errors import InputError
from assay.prompting import CoOp, Prompted
from assay.randomness import Seed
from assay.storage.clip import load_backbone
from assay.storage.prompt_learners import write_prompt
from assay_zoo.clip import BUNDLED

from .conftest import save

NAMES = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@pytest.fixture
def here(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder with a prompt that nobody tuned, and class names."""
    backbone = load_backbone(str(BUNDLED)).backbone
    learner = CoOp.fresh(backbone, seed=Seed(0), context=4)
    write_prompt(Prompted(backbone, learner, NAMES), tmp_path / "prompt.safetensors")
    (tmp_path / "classes.txt").write_text("\n".join(NAMES))
    return tmp_path


def asked(here: pathlib.Path, **more: str | int | None) -> PromptsJob:
    return PromptsJob(
        **{
            "backbone": str(BUNDLED),
            "prompt": str(here / "prompt.safetensors"),
            "classes": str(here / "classes.txt"),
            "ood": "procedural",
            "clean": None,
            "seed": 0,
            "device": "cpu",
            "alpha": 0.05,
            "memory_mb": 4096,
            **more,
        }
    )


def hashes(job: PromptsJob) -> dict[str, str]:
    return {held.path: held.sha256 for held in load_prompt(job).inputs.values()}


def test_all_that_decides_what_is_found_is_hashed(here: pathlib.Path) -> None:
    shutil.copytree(BUNDLED, here / "clip")
    job = asked(here, backbone=str(here / "clip"))
    held = hashes(job)
    settings = ("config.json", "preprocessor_config.json", "tokenizer.json")
    for path in (here / "prompt.json", *(here / "clip" / name for name in settings)):
        path.write_text(f"{path.read_text()}\n")
        now = hashes(job)
        assert [name for name in now if now[name] != held[name]] == [str(path)]
        held = now
    (here / "prompt.json").unlink()
    assert held.keys() - hashes(job).keys() == {str(here / "prompt.json")}


@pytest.mark.parametrize(
    ("named", "places"),
    [
        (("3", "7", "9"), [3, 7, 9]),
        (("9", "0", "05"), [9, 0, 5]),
        (("two", "one", "nine"), [2, 1, 9]),
        (("3", "7", "10"), None),
        (("3", "03", "7"), None),
        (("3", "7", "nine"), None),
        (("cat", "dog", "owl"), None),
    ],
)
def test_clean_samples_of_some_classes(here: pathlib.Path, named, places) -> None:
    images = torch.zeros(6, 32, 32, 3, dtype=torch.uint8)
    save(here / "some.npz", images, torch.tensor([0, 0, 1, 1, 2, 2]), names=list(named))
    job = asked(here, clean=str(here / "some.npz"))
    if places is None:
        with pytest.raises(InputError, match=r"by name or all by number from 0 to 9, got \["):
            load_prompt(job)
    else:
        labels = load_prompt(job).clean.labels
        assert labels.tolist() == [place for place in places for _ in range(2)]


@pytest.mark.parametrize(
    ("ood", "count", "pools"),
    [
        ("procedural", 60, ["procedural", "mosaics"]),
        ("mosaics", 60, ["mosaics"]),
        ("procedural", 40, ["procedural"]),
        ("given.npz", 60, ["images", "mosaics"]),
    ],
)
def test_mosaics_of_clean_samples_come_along(here: pathlib.Path, ood, count, pools) -> None:
    images = torch.arange(count * 32 * 32 * 3).mul(7).remainder(251).to(torch.uint8)
    images = images.view(count, 32, 32, 3)
    save(here / "some.npz", images, torch.arange(count) % 10, names=list(NAMES))
    save(here / "given.npz", 255 - images, torch.arange(count) % 10, names=list(NAMES))
    place = str(here / ood) if ood.endswith(".npz") else ood
    read = load_prompt(asked(here, ood=place, clean=str(here / "some.npz")))
    assert list(read.pools) == pools
    if "mosaics" in pools:
        first, again = (
            load_prompt(asked(here, ood=place, clean=str(here / "some.npz"), seed=seed))
            for seed in (0, 1)
        )
        assert torch.equal(first.pools["mosaics"], read.pools["mosaics"])
        assert not torch.equal(again.pools["mosaics"], read.pools["mosaics"])


def test_too_few_clean_samples_for_mosaics_are_refused(here: pathlib.Path) -> None:
    images = torch.zeros(40, 32, 32, 3, dtype=torch.uint8)
    save(here / "some.npz", images, torch.arange(40) % 10, names=list(NAMES))
    with pytest.raises(InputError, match="expected 50 images of the task or more"):
        load_prompt(asked(here, ood="mosaics", clean=str(here / "some.npz")))
