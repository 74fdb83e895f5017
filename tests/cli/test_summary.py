"""What a person reads at the end: names and reasons of an audited party stay text."""

import pytest

from assay.cli.summary import show_findings
from assay.results import Cost, Findings, Subject, Verdict

HOSTILE = "evil\x1b[2J\x1b]0;owned\x07.safetensors"


def test_names_and_reasons_do_not_steer_the_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    subject = Subject(
        name=HOSTILE,
        digest={},
        verdict=Verdict.FLAGGED,
        p_value=0.01,
        target=None,
        evidence={},
        assumptions=(),
    )
    findings = Findings(
        audit="prompts",
        verdict=Verdict.FLAGGED,
        alpha=0.05,
        reasons=(HOSTILE,),
        subjects=(subject,),
        cost=Cost(wall_s=1.0, device="cpu", peak_memory_mb=1.0),
        not_examined=(),
    )
    show_findings(findings, "prompt", "models.parquet")
    shown = capsys.readouterr().out
    assert not {"\x1b", "\x07"} & set(shown)
    assert shown.count("evil\\u001b[2J") == 2
