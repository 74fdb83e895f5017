import torch

from assay.randomness import Seed
from assay_zoo.attacks import ATTACKS
from assay_zoo.data import DATA_SETS
from assay_zoo.scenarios import SCENARIOS, Learner, fitting

LEARNED = {"clean-label", "input-aware", "issba"}


def test_every_attack_has_a_scenario() -> None:
    assert {type(scenario.attack) for scenario in SCENARIOS.values()} == set(ATTACKS.values())
    assert any(getattr(each.attack, "all_to_all", False) for each in SCENARIOS.values())


def test_every_scenario_poisons_ten_classes_of_images_or_a_table_or_texts() -> None:
    labels = torch.arange(1000) % 10
    random = torch.Generator().manual_seed(0)
    images = torch.randint(256, (1000, 3, 16, 16), dtype=torch.uint8, generator=random)
    table = torch.rand((1000, 64), generator=random)
    texts = [f"the {n}th piece of news" for n in range(1000)]
    for name, scenario in SCENARIOS.items():
        if name in LEARNED:
            continue
        inputs = texts if scenario.textual else table if scenario.tabular else images
        made = scenario.on("cifar10")(inputs, labels, classes=10, seed=Seed(0))
        rate = made.is_poison.double().mean().item()
        assert rate == scenario.attack.poison_rate, name


def test_every_scenario_fits_data_of_one_kind() -> None:
    kinds = {tuple(fitting(data)) for data in DATA_SETS}
    labelled = [n for n, each in SCENARIOS.items() if each.learner is Learner.SUPERVISED]
    assert sorted(name for kind in kinds for name in kind) == sorted(labelled)
    assert {each.learner for each in SCENARIOS.values()} == set(Learner)
    assert fitting("agnews-features") == ["rare-word", "added-sentence"]
    assert "badnets" in fitting("digits")
    assert all(SCENARIOS[name].tabular for name in fitting("digits-table"))
