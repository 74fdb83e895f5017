import dataclasses
import json
from typing import Any
from urllib.parse import urlsplit

import pytest

from assay import reports
from assay.randomness import Seed
from assay.reports.as_sarif import RESULTS_SHOWN
from assay.results import Verdict
from assay.storage import run_tables
from assay.storage.runs import Input, RunFolder


def log(run: RunFolder) -> dict[str, Any]:
    document = json.loads(reports.render(run, "sarif"))
    assert document["version"] == "2.1.0"
    (only,) = document["runs"]
    return only


@pytest.mark.parametrize(
    ("verdict", "kind", "level"),
    [
        (Verdict.FLAGGED, "fail", "error"),
        (Verdict.INCONCLUSIVE, "fail", "warning"),
        (Verdict.NO_INDICATOR, "informational", "none"),
    ],
)
def test_the_first_result_is_the_verdict(make_run, verdict, kind, level) -> None:
    run = log(make_run(verdict))
    summary = run["results"][0]
    assert (summary["kind"], summary["level"]) == (kind, level)
    assert "Five samples keep their label." in summary["message"]["text"]
    (rule,) = run["tool"]["driver"]["rules"]
    assert rule["id"] == summary["ruleId"] == "assay/dataset"
    (invocation,) = run["invocations"]
    assert invocation["executionSuccessful"] is True
    assert invocation["commandLine"] == "assay dataset /vendor/set-3 --out 'a b'"
    assert invocation["startTimeUtc"].endswith("Z")
    notes = [n["level"] for n in invocation["toolExecutionNotifications"]]
    assert notes == ["warning", "note"] if verdict == Verdict.INCONCLUSIVE else ["note"]
    assert run["artifacts"][0]["hashes"] == {"sha-256": "9f" * 32}


def test_each_flagged_sample_is_a_result(make_run) -> None:
    results = log(make_run())["results"]
    assert len(results) == 6
    places = [r["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] for r in results]
    assert places == ["file:///vendor/set-3", *(f"{i:05d}.png" for i in (12, 9, 6, 3, 0))]
    assert len({json.dumps(r["partialFingerprints"]) for r in results}) == 6
    assert "labelled frog, is flagged: poison score 4.41" in results[1]["message"]["text"]


def test_a_prompt_is_pointed_to_and_not_its_backbone(tmp_path, make_run) -> None:
    inputs = {name: Input(path=f"/x/{name}", sha256="9f" * 32) for name in ("backbone", "prompt")}
    asked = {"audit": "prompts", "settings": {}, "seed": Seed(7), "inputs": inputs}
    findings = dataclasses.replace(make_run().read_findings(), audit="prompts")
    with RunFolder.create(tmp_path / "prompts", **asked) as run:
        run.write_findings(findings)
    (result,) = log(run)["results"]
    (place,) = result["locations"]
    assert place["physicalLocation"]["artifactLocation"]["uri"] == "file:///x/prompt"
    assert "Prompt audit: <bdi>prompt</bdi></h1>" in reports.render(run, "html")


def test_results_are_capped_and_counted(make_run) -> None:
    names = [f"class {i}" for i in range(2)]
    run = make_run(names=names, samples=5000, scores=list(range(5000)))
    assert len(log(run)["results"]) == 6
    table = run.read_table("samples")
    path = run.path / "samples.parquet"
    run_tables.write_table(path, "samples", {**table, "is_poison_issue": [True] * 5000})
    results = log(run)["results"]
    assert len(results) == 1 + RESULTS_SHOWN
    assert "5,000 samples are flagged." in results[0]["message"]["text"]
    assert results[1]["message"]["text"].startswith("Sample 4999 ")


def test_hostile_names_are_neither_links_nor_places_elsewhere(hostile_run) -> None:
    run = log(hostile_run)
    for result in run["results"][1:]:
        uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        assert not urlsplit(uri).scheme
        assert not urlsplit(uri).netloc
        assert uri.isascii()
        shown = result["message"]["text"].replace("\\\\", "").replace("\\[", "").replace("\\]", "")
        assert not set(shown.replace("{{", "").replace("}}", "")) & set("[]{}\\")
