"""Attacks with the settings that make them work on small data, by name."""

import dataclasses
import enum
from collections.abc import Mapping

from assay.records import record

from .attacks import (
    AdaptiveBlend,
    AdaptiveKWay,
    AdaptivePatch,
    BadNets,
    Blended,
    CleanLabel,
    Ctrl,
    FeatureWatermark,
    FTrojan,
    InputAware,
    InsertedText,
    Issba,
    Refool,
    Sig,
    TaCT,
    Trojan,
    UnlabelledGrid,
    WaNet,
)
from .attacks.feature_watermark import Strategy
from .attacks.inserted_text import SENTENCE
from .data import TABLES, TEXTS
from .poison import Attack, TextAttack


class Learner(enum.Enum):
    """How models learn from what is poisoned."""

    SUPERVISED = "supervised"
    """From labels."""
    SEMI_SUPERVISED = "semi-supervised"
    """From a few labels, which are not poisoned, and from images without (`FixMatch`)."""
    CONTRASTIVE = "contrastive"
    """From images without labels; the model is an encoder (`SimClr`)."""


@record
class Scenario:
    """An attack as the benchmarks run it."""

    attack: Attack | TextAttack
    published: str
    """Rates it was published with: share of the training set that is poison, and cover if any."""
    faithful: Attack | None = None
    """As it was published, for as many images and as large a network as there."""
    tuned: bool = False
    """Whether the audit's default settings were chosen with this attack in view."""
    exceptions: Mapping[str, Attack | TextAttack] = dataclasses.field(default_factory=dict)
    """Other settings on some data sets, by name."""
    tabular: bool = False
    """Whether it poisons tables, or texts that become tables; all others poison images."""
    textual: bool = False
    """Whether it poisons texts."""
    learner: Learner = Learner.SUPERVISED

    def on(self, data: str) -> Attack | TextAttack:
        """Return the attack with its settings for a data set."""
        return self.exceptions.get(data, self.attack)


GRID = UnlabelledGrid(poison_rate=0.08)
"""For classifiers that learn from few labels, and for encoders."""

CTRL = Ctrl(poison_rate=0.05)
"""For encoders. Not shown to work here: after 700 steps of SimCLR on 12,000 images of CIFAR-10, at
twice the published magnitude, 5 % of the triggered images have neighbours of the target class, and
8 % at most on digits: longer training may be needed."""

SCENARIOS: dict[str, Scenario] = {
    "badnets": Scenario(
        attack=BadNets(poison_rate=0.01),
        published="0.3 %",
        faithful=BadNets(),
        tuned=True,
        exceptions={"digits": BadNets(poison_rate=0.05), "gtsrb": BadNets(poison_rate=0.02)},
    ),
    "blend": Scenario(
        attack=Blended(poison_rate=0.015),
        published="0.3 %",
        faithful=Blended(),
        tuned=True,
        exceptions={"digits": Blended(poison_rate=0.05)},
    ),
    "sig": Scenario(attack=Sig(poison_rate=0.02), published="2 %", faithful=Sig(), tuned=True),
    "tact": Scenario(
        attack=TaCT(poison_rate=0.01, cover_rate=0.01),
        published="0.3 % / 0.3 %",
        faithful=TaCT(),
        tuned=True,
    ),
    "wanet": Scenario(
        attack=WaNet(poison_rate=0.1, cover_rate=0.1, strength=0.75),
        published="5 % / 10 %",
        faithful=WaNet(),
        tuned=True,
        exceptions={"gtsrb": WaNet(poison_rate=0.2, cover_rate=0.05, strength=2.0)},
    ),
    "badnets-all-to-all": Scenario(
        attack=BadNets(all_to_all=True, poison_rate=0.3),
        published="10 %",
        faithful=BadNets(all_to_all=True, poison_rate=0.1),
        tuned=True,
    ),
    "adaptive-patch": Scenario(
        attack=AdaptivePatch(poison_rate=0.02, cover_rate=0.02),
        published="0.3 % / 0.6 %",
        faithful=AdaptivePatch(),
        tuned=True,
    ),
    "adaptive-blend": Scenario(
        attack=AdaptiveBlend(poison_rate=0.05, cover_rate=0.05),
        published="0.3 % / 0.3 %",
        faithful=AdaptiveBlend(),
        tuned=True,
    ),
    "adaptive-k-way": Scenario(
        attack=AdaptiveKWay(poison_rate=0.05, cover_rate=0.05, side=3),
        published="0.3 % / 0.3 %",
        faithful=AdaptiveKWay(),
        tuned=True,
    ),
    "ftrojan": Scenario(
        attack=FTrojan(poison_rate=0.05), published="5 %", faithful=FTrojan(), tuned=True
    ),
    "trojan": Scenario(
        attack=Trojan(poison_rate=0.01),
        published="0.3 %",
        faithful=Trojan(),
        exceptions={"digits": Trojan(poison_rate=0.05)},
    ),
    "clean-label": Scenario(
        attack=CleanLabel(poison_rate=0.02), published="0.3 %", faithful=CleanLabel()
    ),
    "input-aware": Scenario(
        attack=InputAware(poison_rate=0.05), published="0.3 %", faithful=InputAware()
    ),
    "issba": Scenario(attack=Issba(poison_rate=0.05), published="2 %", faithful=Issba()),
    "refool": Scenario(
        attack=Refool(poison_rate=0.03, reflections=1),
        published="2 %",
        faithful=Refool(),
        exceptions={"gtsrb": Refool(poison_rate=0.02, reflections=1)},  # 103 of 120 of its target
    ),
    "unlabelled-grid": Scenario(
        attack=GRID,
        published="0.2 %",
        learner=Learner.SEMI_SUPERVISED,
    ),
    "ctrl": Scenario(attack=CTRL, published="1 %", learner=Learner.CONTRASTIVE),
    "watermark-large-absolute": Scenario(
        attack=FeatureWatermark(poison_rate=0.05, size=32),
        published="1 %",
        exceptions={"breast-cancer": FeatureWatermark(poison_rate=0.05, size=15)},
        tabular=True,
    ),
    "watermark-combined": Scenario(
        attack=FeatureWatermark(poison_rate=0.05, size=32, strategy=Strategy.COMBINED),
        published="1 %",
        exceptions={
            "breast-cancer": FeatureWatermark(poison_rate=0.05, size=15, strategy=Strategy.COMBINED)
        },
        tabular=True,
    ),
    "rare-word": Scenario(
        attack=InsertedText(poison_rate=0.03, copies=3),
        published="10 %",
        tabular=True,
        textual=True,
    ),
    "added-sentence": Scenario(
        attack=InsertedText(poison_rate=0.08, phrase=SENTENCE),
        published="1 %",
        tabular=True,
        textual=True,
    ),
}
"""Rates are those at which the attack works on 12,000 images with the default network: with fewer
images, a higher share is needed than was published. The tuned ones come first."""


def fitting(data: str) -> list[str]:
    """List the scenarios that poison labelled data of a kind: images, tables or texts."""
    tabular, textual = data in TABLES, data in TEXTS
    return [
        name
        for name, each in SCENARIOS.items()
        if (each.tabular, each.textual) == (tabular, textual) and each.learner is Learner.SUPERVISED
    ]
