import copy
import pathlib
import re

import pytest
import yaml

from assay.errors import AssayError, InputError, UsageError
from assay.providers.plan import parse_plan, plan_document, read_plan

from .conftest import Scene


def test_a_plan_survives_being_laid_out(scene: Scene) -> None:
    plan = scene.plan
    again = parse_plan(plan_document(plan))
    assert plan_document(again) == plan_document(plan)
    assert again.recipe.files == plan.recipe.files
    assert len(plan.recipe.files["recipe.py"]) == 64
    assert (plan.sub_runs, plan.stretch(5)) == (6, (15, 3))


def test_the_last_sub_run_may_be_shorter(scene: Scene) -> None:
    scene.document["steps"] = 16
    assert (scene.plan.sub_runs, scene.plan.stretch(5)) == (6, (15, 1))


def test_the_plan_in_the_docs_is_one() -> None:
    page = (pathlib.Path(__file__).parents[2] / "docs" / "training.md").read_text()
    text = re.search(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert text is not None
    document = yaml.safe_load(text[1])
    plan = parse_plan({**document, "files": dict.fromkeys(document["files"], "0" * 64)})
    assert plan.sub_runs == 40
    assert [p.name for p in plan.providers] == ["ada", "bea", "cyd"]
    for field in plan_document(plan).keys() - {"schema"}:
        assert f"`{field}`" in page or f"{field}:" in page, field


WRONG = {
    "steps: 1 to": {"steps": 0},
    "steps: a whole number": {"steps": "many"},
    "steps: a whole number in": {"steps": True},
    "no field 'stepz'": {"stepz": 3},
    "data: sha256 and samples": {"data": "here"},
    "64 hexadecimal digits": {"data": {"sha256": "ab", "samples": 3}},
    "order: fixed or free": {"order": "any"},
    "two providers or more": {"providers": []},
    "at most 6 sub-runs": {"replicated": 7},
    "either replicated, or confidence": {"confidence": 0.9, "attack_share": 0.5},
    "confidence and attack_share": {"replicated": None, "confidence": 0.9},
    "above 0 and below 1": {"replicated": None, "confidence": 1.5, "attack_share": 0.5},
    "network and probes together": {"network": "nets:make"},
    "the file of other:train_steps among": {"code": "other:train_steps"},
    "package.module:train_steps": {"code": "recipe"},
    "either code": {"command": ["python", "train.py"]},
    "list of words": {"code": None, "command": "python train.py"},
    "files: a list": {"files": "recipe.py"},
    "relative paths": {"files": ["../recipe.py"]},
    "step_digests: true or false": {"step_digests": 3},
    "hyperparameters: a map": {"hyperparameters": [1]},
    "deadline_minutes: above 0": {"deadline_minutes": -1},
}


@pytest.mark.parametrize(("said", "change"), WRONG.items(), ids=WRONG)
def test_what_is_wrong_with_a_plan_is_said(scene: Scene, said: str, change: dict) -> None:
    scene.document |= change
    (scene.folder.parent / "recipe.py").write_text("")
    with pytest.raises(AssayError, match=re.escape(said)):
        scene.plan  # noqa: B018  reads it


@pytest.mark.parametrize("what", ["name", "mailbox", "key"])
def test_providers_share_nothing(scene: Scene, what: str) -> None:
    first, second = scene.document["providers"][:2]
    second[what] = first[what]
    with pytest.raises(InputError, match=f"another {what} for each provider"):
        scene.plan  # noqa: B018


def test_one_mailbox_written_in_two_ways_is_one(scene: Scene) -> None:
    first, second = scene.document["providers"][:2]
    second["mailbox"] = f"{first['mailbox']}/"
    with pytest.raises(InputError, match="another mailbox for each provider"):
        scene.plan  # noqa: B018


@pytest.mark.parametrize(
    "change", [{"key": "ed25519:00"}, {"name": "Ada Ltd"}, {"name": "../x"}, {"mail": "x"}]
)
def test_what_is_wrong_with_a_provider_is_said(scene: Scene, change: dict) -> None:
    scene.document["providers"][1] |= change
    with pytest.raises(InputError, match="provider 2"):
        scene.plan  # noqa: B018


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", "just words", ""])
def test_what_is_no_plan_is_refused(scene: Scene, text: str) -> None:
    path = scene.folder / "odd.yaml"
    path.write_text(text)
    with pytest.raises(InputError):
        read_plan(path)


def test_a_code_file_that_is_not_there_is_named(scene: Scene) -> None:
    scene.document["files"] = ["recipe.py", "more.py"]
    with pytest.raises(UsageError, match=r"more\.py"):
        scene.plan  # noqa: B018


def test_what_json_cannot_hold_is_refused(scene: Scene) -> None:
    document = copy.deepcopy(plan_document(scene.plan))
    document["hyperparameters"] = {"when": object()}
    with pytest.raises(InputError, match=r"hyperparameters\.when"):
        parse_plan(document)
