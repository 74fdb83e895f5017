"""What is written of a training audit, and what reports make of it."""

import dataclasses
import json
import pathlib
from xml.etree import ElementTree as ET

import pytest
import torch

from assay.audits.training import (
    Comparison,
    Delivery,
    Fault,
    TrainingAudit,
    judge_training,
    plan_replication,
)
from assay.cli.recording_training import record_training
from assay.randomness import Seed
from assay.reports import render
from assay.storage.runs import RunFolder

FAR = torch.tensor(
    [[0.0, 0.02, 0.03, 0.9], [0.02, 0.0, 0.02, 0.9], [0.03, 0.02, 0.0, 0.9], [0.9, 0.9, 0.9, 0.0]],
    dtype=torch.float64,
)


def _audit(names: tuple[str, ...] = ("ada", "bob", "cem", "eve")) -> TrainingAudit:
    deliveries = [
        Delivery(
            provider=name,
            sub_run=sub_run,
            replicated=sub_run == 1,
            environment="cpu",
            digest=f"{name}{sub_run}",
            fault=Fault.LATE if (name, sub_run) == (names[2], 0) else None,
            detail="due on Monday" if (name, sub_run) == (names[2], 0) else "",
        )
        for sub_run in range(2)
        for name in names
    ]
    twin = Comparison(sub_run=1, providers=names, distances={"update": FAR, "layers": FAR})
    return judge_training(deliveries, [twin], profile=None)


def _run(path: pathlib.Path, audit: TrainingAudit) -> RunFolder:
    with RunFolder.create(path, audit="training", settings={}, seed=Seed(0), inputs={}) as run:
        plan = plan_replication(sub_runs=100, providers=4, attacked=0.5)
        record_training(run, audit, replication=plan)
    return RunFolder.open(path)


def test_tables_say_who_and_where(tmp_path) -> None:
    run = _run(tmp_path / "run", _audit())
    providers, subruns = run.read_table("providers"), run.read_table("subruns")
    assert providers is not None
    assert subruns is not None
    assert providers["verdict"] == ["no_indicator", "no_indicator", "inconclusive", "flagged"]
    assert providers["convicted"] == ["", "", "", "1"]
    assert subruns["state"][:4] == ["alone", "alone", "fault", "alone"]
    assert subruns["state"][4:] == ["agrees", "agrees", "agrees", "convicts"]
    assert subruns["measured"][7] == pytest.approx(0.9)
    assert subruns["measured"][0] is None


def test_reports_name_the_provider_the_sub_run_and_the_cost(tmp_path) -> None:
    run = _run(tmp_path / "run", _audit())
    html, comment = render(run, "html"), render(run, "md")
    for report in (html, comment):
        assert "eve" in report
        assert "Replicating 5 of 100 sub-runs" in report
    assert "mark-convicts" in html
    assert "Distances between all providers (2 tables)" in html
    assert json.loads(render(run, "sarif"))["runs"][0]["results"]
    suite = ET.fromstring(render(run, "junit"))  # noqa: S314  our own
    assert suite.get("failures") == "2"
    assert json.loads(render(run, "json"))["verdict"] == "flagged"


def test_names_of_providers_stay_text(tmp_path) -> None:
    names = ("a<script>alert(1)</script>", "b | c", "d", "z<img src=x>")
    run = _run(tmp_path / "run", _audit(names))
    html = render(run, "html")
    assert "<script>alert" not in html
    assert "<img src=x>" not in html
    assert "<img src=x>" not in render(run, "md")


def test_an_audit_without_comparisons_can_be_shown(tmp_path) -> None:
    full = _audit()
    empty = judge_training(full.deliveries, [], profile=None)
    run = _run(tmp_path / "run", dataclasses.replace(empty))
    assert "No sub-run was replicated" in render(run, "html")
