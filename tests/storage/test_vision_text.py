"""Folders of models of images and texts: what is read of them, and what is refused."""

import json
import pathlib
from collections.abc import Callable

import pytest

from assay.errors import InputError, RefusedError
from assay.randomness import Seed
from assay.storage.huggingface import processor
from assay.storage.vision_text import load_vision_text
from assay_zoo.language import train_tokenizer
from assay_zoo.vision_text import Base, VisionTextModel, write

NORMAL = {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.2, 0.2]}


@pytest.fixture
def folder(tmp_path: pathlib.Path) -> pathlib.Path:
    """An untrained model, as a provider writes it."""
    small = Base(width=16, vision_layers=1, layers=1, heads=2, patch=8, side=16, vocabulary=300)
    tokenizer = train_tokenizer(["what is it? a cat"], size=300, special=("<image>",))
    write(VisionTextModel(model=small.untrained(seed=Seed(0)), tokenizer=tokenizer), tmp_path / "m")
    return tmp_path / "m"


def changed(folder: pathlib.Path, file: str, change: Callable[[dict], object]) -> None:
    said = json.loads((folder / file).read_text())
    change(said)
    (folder / file).write_text(json.dumps(said))


def test_a_folder_is_read_with_what_its_processor_says(folder: pathlib.Path) -> None:
    found = load_vision_text(str(folder))
    assert (found.mean, found.std, found.size) == ((0.5,) * 3, (0.25,) * 3, 16)
    assert not found.model.training
    assert found.tokenizer.encode("<image>") == [found.model.config.image_token_id]
    (folder / "preprocessor_config.json").unlink()
    found = load_vision_text(str(folder))
    assert (found.mean, found.size) == (None, 16), "the size of the vision tower"
    said = {"image_processor": {**NORMAL, "do_center_crop": True, "crop_size": {"height": 24}}}
    (folder / "processor_config.json").write_text(json.dumps(said))
    found = load_vision_text(str(folder))
    assert (found.mean, found.std, found.size) == ((0.4, 0.5, 0.6), (0.2,) * 3, 24)


@pytest.mark.parametrize(
    "said", ['{"image_processor": [1]}', "[]", '{"image_processor": {"size": "x"}}']
)
def test_broken_settings_of_images(tmp_path: pathlib.Path, said: str) -> None:
    (tmp_path / "processor_config.json").write_text(said)
    with pytest.raises(RefusedError):
        processor(tmp_path)


def test_a_file_of_its_own_counts_more(tmp_path: pathlib.Path) -> None:
    (tmp_path / "processor_config.json").write_text('{"image_processor": {"size": 8}}')
    (tmp_path / "preprocessor_config.json").write_text('{"size": 12}')
    assert processor(tmp_path).size == 12


@pytest.mark.parametrize(
    ("change", "error", "pattern"),
    [
        (lambda said: said.update(architectures=["LlavaModel"]), InputError, "LlavaForCond"),
        (lambda said: said.update(image_token_index=300), InputError, "token for images"),
        (lambda said: said["text_config"].update(vocab_size=200), RefusedError, "mismatched"),
        (lambda said: said.update(architectures=["Qwen2VLModel"]), InputError, "not audited yet"),
        (lambda said: said["vision_config"].update(num_hidden_layers=2000), RefusedError, "1000"),
        (
            lambda said: said["vision_config"].update(model_type="timm_wrapper"),
            RefusedError,
            "timm",
        ),
        (lambda said: said["text_config"].update(auto_map={"A": "b.C"}), RefusedError, "auto_map"),
        (
            lambda said: said["text_config"].update(hidden_size=8_000_000),
            RefusedError,
            "at most|MB",
        ),
    ],
)
def test_odd_folders(folder: pathlib.Path, change, error: type[Exception], pattern: str) -> None:
    changed(folder, "config.json", change)
    with pytest.raises(error, match=pattern):
        load_vision_text(str(folder))


def test_nothing_but_a_folder_with_a_tokenizer(folder: pathlib.Path) -> None:
    with pytest.raises(InputError, match=r"config\.json"):
        load_vision_text(str(folder / "config.json"))
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        load_vision_text(str(folder))
