"""The training audit as users meet it: client and providers at their command lines."""

import pathlib
import re
import sys
from collections.abc import Callable

import pytest
import yaml
from safetensors.torch import load_file
from tests.providers.conftest import NAMES, InProcess, Train, document, furnish, honest, planting

import assay
from assay.audits.training import parse_profile
from assay.errors import InputError
from assay.providers.keys import open_key
from assay.storage.runs import RunFolder

from .conftest import Result, Run, parsed


@pytest.fixture
def client(tmp_path: pathlib.Path) -> pathlib.Path:
    """A folder with a plan of three providers, whose keys were made by their workers."""
    furnish(tmp_path)
    keys = {name: open_key(tmp_path / f"{name}.key") for name in NAMES}
    write(tmp_path, document(tmp_path, keys, str(tmp_path / "boxes")))
    return tmp_path


def write(folder: pathlib.Path, plan: dict[str, object]) -> None:
    (folder / "PLAN.yaml").write_text(yaml.safe_dump(plan))


@pytest.fixture
def providers(
    client: pathlib.Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., None]:
    """Makes providers work at their own command line whenever the client waits."""

    def employ(**trains: Train) -> None:
        def serve(_: float) -> None:
            for name in NAMES:
                train = trains.get(name, honest)
                monkeypatch.setattr(
                    "assay.cli.training_work.Process", lambda train=train: InProcess(train=train)
                )
                arguments = ("--key", f"{name}.key", "--data", "data.npz", "--once", "--quiet")
                result = run("training", "work", client / "boxes" / name, *arguments)
                assert result.exit_code == 0, result.stderr

        monkeypatch.setattr("assay.providers.client.time.sleep", serve)

    return employ


def test_a_mistyped_code_folder_answers_no_bundle(run: Run, client: pathlib.Path) -> None:
    asked = ("training", "work", client / "box", "--key", "ada.key", "--code", "recpie", "--once")
    result = run(*asked)
    assert result.exit_code == 4
    assert "recpie" in result.stderr


def test_a_provider_is_told_its_key(run: Run, client: pathlib.Path) -> None:
    for _ in range(2):
        result = run("training", "work", client / "box", "--key", "ada.key", "--once")
        assert result.exit_code == 0
        assert result.stdout == f"public key: {open_key(client / 'ada.key').public}\n"
        assert "nothing to do in" in result.stderr
        assert "0 bundles answered" in result.stderr


def test_a_plan_says_what_it_costs_and_would_miss(run: Run, client: pathlib.Path) -> None:
    result = run("training", "plan", "PLAN.yaml", "--json", "--key", "client.key")
    assert result.exit_code == 0, result.stderr
    found = parsed(result.stdout)
    assert (found["sub_runs"], found["replicated"]) == (6, 2)
    assert found["extra_steps"] == 2 * 3 * 2
    assert found["bundles"] == 6 + 2 * 2
    assert 0 < found["unseen"] < 1
    assert found["client_key"] == open_key(client / "client.key").public
    assert not (client / "boxes").exists(), "nothing is sent"
    shown = run("training", "plan", "PLAN.yaml", "--key", "client.key")
    assert f"--client {found['client_key']}\n" in shown.stdout, "the key is cut off"
    assert "Replicating 2 of 6 sub-runs on 3 providers" in shown.stdout


def test_confidence_decides_how_much_is_replicated(run: Run, client: pathlib.Path) -> None:
    plan = yaml.safe_load((client / "PLAN.yaml").read_text())
    write(client, plan | {"replicated": None, "confidence": 0.9, "attack_share": 0.5})
    found = parsed(run("training", "plan", "PLAN.yaml", "--json").stdout)
    assert found["replicated"] == 3
    assert found["caught"] >= 0.9


def test_a_network_that_does_not_fit_is_found_before_anybody_trains(
    run: Run, client: pathlib.Path
) -> None:
    (client / "unfit_net.py").write_text("import torch\n\nmake = lambda: torch.nn.Linear(3, 2)\n")
    plan = yaml.safe_load((client / "PLAN.yaml").read_text())
    write(client, plan | {"network": "unfit_net:make", "probes": "data.npz"})
    result = run("training", "plan", "PLAN.yaml", "--json")
    assert result.exit_code == 3
    assert "a network of the start weights" in parsed(result.stdout)["message"]


@pytest.mark.parametrize(
    ("change", "code", "said"),
    [
        ({"steps": "x"}, 3, "a whole number"),
        ({"start": "no.safetensors"}, 4, "no.safetensors"),
        ({"files": ["no.py"]}, 4, "no.py"),
        ({"network": "nowhere:make", "probes": "data.npz"}, 4, "nowhere"),
    ],
)
def test_what_is_wrong_with_a_plan_is_said(
    run: Run, client: pathlib.Path, change: dict[str, object], code: int, said: str
) -> None:
    write(client, yaml.safe_load((client / "PLAN.yaml").read_text()) | change)
    result = run("training", "run", "PLAN.yaml", "--json")
    assert result.exit_code == code
    assert said in parsed(result.stdout)["message"]
    assert not (client / "runs").exists()


def trained(run: Run, *arguments: str) -> Result:
    return run("training", "run", "PLAN.yaml", "--out", "run", "--device", "cpu", *arguments)


def test_a_training_from_both_sides(
    run: Run, client: pathlib.Path, providers: Callable[..., None]
) -> None:
    providers(bea=planting)
    plan = yaml.safe_load((client / "PLAN.yaml").read_text())
    write(client, plan | {"replicated": 6})
    result = trained(run, "--json")
    assert result.exit_code == 1, result.stderr
    found = parsed(result.stdout)
    assert (found["audit"], found["verdict"], found["alpha"]) == ("training", "flagged", 0.05)
    by_name = {s["name"]: s["verdict"] for s in found["subjects"]}
    assert by_name["bea"] == "flagged"
    assert "flagged" not in {by_name["ada"], by_name["cyd"]}
    assert load_file(client / "run/artifacts/checkpoint.safetensors")["weight"].abs().sum() > 0
    assert "bea" in (client / "run/report.html").read_text()
    _judge_again(run, found["subjects"])
    _bisect(run)


def _judge_again(run: Run, subjects: list[dict[str, object]]) -> None:
    for source in ("run", "run/ledger.jsonl"):
        judged = run("training", "judge", source, "--json")
        assert judged.exit_code == 1, judged.stderr
        again = parsed(judged.stdout)
        assert again["subjects"] == subjects, "to the last bit"
        assert again["ledger"]["closed"]
        assert again["ledger"]["expelled"] == {"bea": "flagged"}
    shown = run("training", "judge", "run").stdout
    assert "head" in shown
    assert f"client: {again['ledger']['client']}, as it says itself" in shown
    known = run("training", "judge", "run", "--client", again["ledger"]["client"])
    assert known.exit_code == 1
    assert "as it says itself" not in known.stdout
    for key, code in ((f"ed25519:{'0' * 64}", 3), ("ed25519:4be1", 3)):
        assert run("training", "judge", "run", "--client", key).exit_code == code


def _bisect(run: Run) -> None:
    result = run("training", "bisect", "run", "0", "--json")
    assert result.exit_code == 0, result.stderr
    pairs = {(p["first"], p["second"]): p for p in parsed(result.stdout)["pairs"]}
    assert pairs["ada", "cyd"]["step"] is None
    assert pairs["ada", "cyd"]["compared"] == 3
    assert pairs["ada", "bea"]["compared"] == 0, "the attacker logs no digests"
    assert run("training", "bisect", "run", "99").exit_code == 4


def test_a_training_out_of_time_is_resumed(
    run: Run, client: pathlib.Path, providers: Callable[..., None]
) -> None:
    providers()
    stopped = trained(run, "--max-minutes", "0")
    assert stopped.exit_code == 2
    assert "assay runs resume run" in stopped.stderr
    assert run("training", "judge", "run").exit_code in {2, 3}
    result = run("runs", "resume", "run")
    assert result.exit_code in {0, 2}, result.stderr
    assert RunFolder.open(client / "run").info.state == "completed"
    assert re.search("trained 18 of 18 steps", result.stdout)


def test_a_ledger_that_was_changed_is_refused(
    run: Run, client: pathlib.Path, providers: Callable[..., None]
) -> None:
    providers()
    trained(run, "--exit-zero")
    path = client / "run" / "ledger.jsonl"
    path.write_text(path.read_text().replace('"fault": null', '"fault": "late"', 1))
    result = run("training", "judge", path)
    assert result.exit_code == 3
    assert "of the ledger was changed" in result.stderr


def test_a_profile_is_calibrated_and_used(
    run: Run,
    client: pathlib.Path,
    providers: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.path", [*sys.path])
    monkeypatch.setenv("ASSAY_TRAINING_DATA", "")
    monkeypatch.delitem(sys.modules, "recipe", raising=False)
    arguments = ("--data", "data.npz", "--threads", "1", "--quiet")
    result = run("training", "calibrate", "PLAN.yaml", *arguments)
    assert result.exit_code == 0, result.stderr
    profile = parse_profile(parsed((client / "profile.json").read_text()))
    environments = {name for t in profile.tolerances for name in t.environments}
    assert len(environments) == 1
    assert "1 threads" in environments.pop()
    assert run("training", "calibrate", "PLAN.yaml", *arguments).exit_code == 4, "it is there"
    write(client, yaml.safe_load((client / "PLAN.yaml").read_text()) | {"profile": "profile.json"})
    providers(cyd=planting)
    assert trained(run).exit_code == 1
    assert run("training", "judge", "run").exit_code == 1


@pytest.mark.parametrize(
    "wrong", [("--threads", "x"), ("--matmul", "low"), ("--data", "recipe.py")]
)
def test_what_cannot_be_calibrated_is_said(
    run: Run, client: pathlib.Path, wrong: tuple[str, str]
) -> None:
    result = run("training", "calibrate", "PLAN.yaml", "--data", "data.npz", *wrong)
    assert result.exit_code == 4
    assert not (client / "profile.json").exists()


def test_from_python_it_is_the_same(client: pathlib.Path, providers: Callable[..., None]) -> None:
    providers()
    result = assay.audit_training(client / "PLAN.yaml", out=client / "run", poll_s=0.01)
    assert [p.name for p in result.providers] == list(NAMES)
    assert RunFolder.open(client / "run").read_findings().verdict is result.verdict
    with pytest.raises(InputError, match="alpha"):
        assay.audit_training(client / "PLAN.yaml", out=client / "other", alpha=5.0)


def test_the_newest_run_of_a_plan_is_judged(
    run: Run, client: pathlib.Path, providers: Callable[..., None]
) -> None:
    assert run("training", "judge", "PLAN.yaml").exit_code == 4
    assert run("training", "judge", "runs/typo").exit_code == 4
    providers()
    run("training", "run", "PLAN.yaml", "--device", "cpu")
    judged = run("training", "judge", "PLAN.yaml", "--json", "--exit-zero")
    assert judged.exit_code == 0
    assert parsed(judged.stdout)["ledger"]["closed"]
