"""The small CLIP: its tokenizer's layout, its training, its folder, and the one that is carried."""

import dataclasses

import torch
from torch import Tensor

from assay.prompting import Prompted, ZeroShot
from assay.randomness import Seed
from assay.samples import Samples
from assay.storage.clip import load_backbone
from assay.storage.language import read_tokenizer
from assay_zoo.clip import BUNDLED, END, START, SmallClip, tokens, train_tokenizer, write, zero_shot
from assay_zoo.data.pictured import Captioned, Task, read_task

TINY = SmallClip(
    width=32,
    layers=2,
    text_width=32,
    text_layers=1,
    heads=2,
    dims=16,
    vocabulary=560,
    steps=40,
    batch=48,
    peak_rate=5e-3,
)


def coloured(count: int) -> Samples:
    """Images that are red, green or blue, with noise."""
    random = torch.Generator().manual_seed(count)
    labels = torch.arange(count) % 3
    images = torch.randint(0, 80, (count, 3, 32, 32), generator=random, dtype=torch.uint8)
    images[torch.arange(count), labels] += 150
    return Samples(inputs=images, labels=labels, class_names=("red", "green", "blue"))


def colours() -> tuple[Task, Captioned]:
    own = coloured(9)
    task = Task(
        name="colours",
        pretraining=coloured(90),
        tuning=coloured(30),
        trusted=coloured(33),
        test=coloured(60),
    )
    captions = tuple((f"paint it {own.class_names[i]}",) for i in own.labels.tolist())
    return task, Captioned(images=own.inputs[:], captions=captions)


def test_words_become_tokens_in_the_layout_of_clip() -> None:
    learnt = train_tokenizer(["a photo of a red dog", "a photo of a cat"] * 20, size=560)
    ids = tokens(learnt, ["A  red dog", "a photo of a cat."], longest=40)
    start, end = learnt.token_to_id(START), learnt.token_to_id(END)
    assert (start, end) == (learnt.get_vocab_size() - 2, learnt.get_vocab_size() - 1)
    assert ids[:, 0].tolist() == [start, start]
    assert ids[1].argmax() > ids[0].argmax()  # the end is the highest token
    assert learnt.id_to_token(int(ids[0, 2])) == "red</w>"
    odd = learnt.encode("x7! q").tokens
    assert [token.removesuffix("</w>") for token in odd] == ["x", "7", "!", "q"]


def test_training_teaches_words_and_the_seed_alone_decides(tmp_path) -> None:
    task, captioned = colours()
    state = torch.get_rng_state()
    model, tokenizer = TINY([task], captioned, seed=Seed(1))
    again, _ = TINY([task], captioned, seed=Seed(1))
    assert torch.equal(state, torch.get_rng_state())
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
    images, labels = task.test.inputs[:], task.test.labels
    assert accuracy(zero_shot(model, tokenizer, images, task.class_names), labels) > 0.9

    write(model, tokenizer, tmp_path / "clip")
    assert {each.dtype for each in model.parameters()} == {torch.float32}
    backbone = load_backbone(str(tmp_path / "clip")).backbone
    prompted = Prompted(backbone, ZeroShot(), task.class_names)
    with torch.no_grad():
        found = prompted(images.float() / 255).argmax(1)
    assert accuracy(found, labels) > 0.9


def accuracy(found: Tensor, labels: Tensor) -> float:
    return (found == labels).float().mean().item()


def test_the_carried_clip_reads_digits_that_it_has_not_seen() -> None:
    loaded = load_backbone(str(BUNDLED))
    task = read_task("digits")
    prompted = Prompted(loaded.backbone, ZeroShot(), task.class_names)
    with torch.no_grad():
        found = prompted(task.test.inputs[:].float() / 255).argmax(1)
    assert accuracy(found, task.test.labels) > 0.9
    assert sum(file.stat().st_size for file in BUNDLED.iterdir()) < 4 * 2**20
    assert loaded.backbone.dims // 16 >= 4, "no room for CoCoOp's network"
    words = read_tokenizer(BUNDLED)
    assert words.decode(words.encode("ice and snow")).split("</w>")[:3] == ["ice", "and", "snow"]


def test_a_text_is_cut_to_the_positions_that_there_are() -> None:
    learnt = train_tokenizer(["a photo of a red dog"], size=560)
    end = learnt.token_to_id(END)
    ids = tokens(learnt, ["a red dog " * 9, "a"], longest=16)
    assert ids.shape == (2, 16)
    assert (ids == end).sum(1).tolist() == [1, 14]
    short = dataclasses.replace(TINY, longest=8, steps=1)
    task, captioned = colours()
    model, tokenizer = short([task], captioned, seed=Seed(1))
    names = ("red " * 9, "green", "blue")
    assert len(zero_shot(model, tokenizer, task.test.inputs[:5], names)) == 5
