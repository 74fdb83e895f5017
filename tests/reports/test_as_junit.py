import re
from xml.etree import ElementTree as ET

import pytest

from assay import reports
from assay.results import Verdict
from assay.storage.runs import RunFolder


def suite(run: RunFolder) -> ET.Element:
    (only,) = ET.fromstring(reports.render(run, "junit").encode())  # noqa: S314
    return only


@pytest.mark.parametrize(
    ("verdict", "failures", "errors", "tag"),
    [
        (Verdict.FLAGGED, 2, 0, "failure"),
        (Verdict.INCONCLUSIVE, 0, 2, "error"),
        (Verdict.NO_INDICATOR, 0, 0, None),
    ],
)
def test_classes_are_cases_and_the_verdict_is_one(make_run, verdict, failures, errors, tag) -> None:
    found = suite(make_run(verdict))
    names = [case.get("name") for case in found]
    assert names[0] == "verdict"
    assert sorted(names[1:]) == ["cat", "dog", "frog"]
    assert (found.get("tests"), found.get("time")) == ("4", "143.200")
    assert (found.get("failures"), found.get("errors")) == (str(failures), str(errors))
    problems = {case.get("name"): child.tag for case in found for child in case}
    assert problems == ({} if tag is None else {"verdict": tag, "frog": tag})
    if tag:
        assert found.find(f"testcase[@name='frog']/{tag}").text == "class frog is as it is"


def test_of_a_flagged_class_without_a_reason_the_count_is_told(make_run) -> None:
    found = suite(make_run(Verdict.FLAGGED, reason=""))
    told = found.find("testcase[@name='frog']/failure").text
    assert re.fullmatch(r"\d+ of \d+ samples are flagged, adjusted p-value \S+", told)


def test_no_verdict_is_never_a_pass(make_run) -> None:
    run = make_run(Verdict.NO_INDICATOR)
    text = (run.path / "findings.json").read_text()
    text = text.replace('"verdict": "no_indicator"', '"verdict": "inconclusive"')
    (run.path / "findings.json").write_text(text)
    assert suite(run).get("errors") == "1"


def test_hostile_names_are_text(hostile_run, attacks) -> None:
    found = suite(hostile_run)
    assert {element.tag for element in found.iter()} == {"testsuite", "testcase", "failure"}
    names = [case.get("name") for case in found]
    assert len(names) == 1 + len(attacks)
    assert {attack for attack in attacks if attack.isprintable()} <= set(names)
