"""A tiny CLIP with random weights, and a tokenizer of whole words."""

import re

import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from assay.prompting import Backbone
from assay.randomness import Seed, isolated

START, END, LONGEST = 98, 99, 14
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
NAMES = ("cat", "big dog", "fire_truck of the town")


def encode(text: str) -> list[int]:
    """Give every word, and every mark, a token below 98."""
    parts = re.findall(r"<end>|\w+|[^\w\s]", text.lower())
    return [END if part == "<end>" else sum(map(ord, part)) % 98 for part in parts]


def tiny(seed: int = 0, **vision: int) -> CLIPModel:
    """Build a CLIP with weights large enough to matter."""
    config = CLIPConfig(
        text_config={
            "vocab_size": 100,
            "hidden_size": 24,
            "intermediate_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "max_position_embeddings": LONGEST,
            "bos_token_id": START,
            "eos_token_id": END,
            "pad_token_id": END,
        },
        vision_config={
            "hidden_size": 16,
            "intermediate_size": 32,
            "num_hidden_layers": 3,
            "num_attention_heads": 2,
            "image_size": 8,
            "patch_size": 4,
            **vision,
        },
        projection_dim=32,
    )
    with isolated(Seed(seed), torch.device("cpu")):
        model = CLIPModel(config)
        for value in model.parameters():
            if value.ndim > 1:
                value.data.mul_(4)
    return model.eval()


def wrapped(model: CLIPModel) -> Backbone:
    return Backbone(model, encode, start=START, end=END, mean=MEAN, std=STD)


@pytest.fixture
def backbone() -> Backbone:
    return wrapped(tiny())


@pytest.fixture
def images() -> torch.Tensor:
    return torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
