import pathlib
from typing import Any

import pytest
import torch

from assay.cli.demo import attack, stamp
from assay.randomness import Seed

from .conftest import Run, parsed


def test_the_attack_changes_what_it_says_and_nothing_else() -> None:
    attacked, other = attack(Seed(0)), attack(Seed(1))
    white = (attacked.images[:, 0, 6:, 6:] == 255).all((1, 2))
    assert torch.equal(white, attacked.is_poison), "the trigger is on the poison alone"
    assert set(attacked.labels[attacked.is_poison].tolist()) == {7}
    assert 0.01 <= attacked.is_poison.double().mean().item() <= 0.03
    assert not torch.equal(attacked.images, other.images)
    assert torch.equal(attacked.images, attack(Seed(0)).images)
    images = attacked.trusted_images
    assert torch.equal(stamp(images)[..., :6, :], images[..., :6, :])


def test_a_demo_that_finds_nothing_is_no_success(
    run: Run, monkeypatch: pytest.MonkeyPatch, quick: list[dict[str, Any]]
) -> None:
    result = run("demo", "--out", "demo")
    assert result.exit_code == 2, "the quick audit only sees images that are white all over"
    assert run("demo", "--out", "demo").exit_code == 4, "the folder is not empty"


def test_the_demo_finds_proves_and_repairs(run: Run) -> None:
    result = run("demo", "--out", "demo", "--quiet")
    assert result.exit_code == 0, result.stdout + result.stderr
    assert str(pathlib.Path("demo/run/report.html")) in result.stdout
    before, after = parsed(pathlib.Path("demo/run/artifacts/proof.json").read_text())["rows"]
    assert before["asr"] > 0.5
    assert after["asr"] < 0.1
    assert after["accuracy"] > 0.9
    found, wrong = flagged_of(result.stdout, "that"), flagged_of(result.stdout, "left")
    assert after["samples"] == before["samples"] - found - wrong
    assert (found, wrong) == (30, pytest.approx(0, abs=5))


def flagged_of(text: str, which: str) -> int:
    (line,) = (line for line in text.splitlines() if line.strip().startswith(f"digits {which} "))
    return int(line.split()[-1].replace(",", ""))
