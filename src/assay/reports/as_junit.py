"""The report for test runners: a class, or a subject, is a test case."""

import math
from xml.etree import ElementTree as ET

from assay.results import Verdict

from . import text
from .source import Source

CASES_SHOWN = 5000
_TAGS = {Verdict.FLAGGED: "failure", Verdict.INCONCLUSIVE: "error"}


def render(source: Source) -> str:
    """Render a JUnit test suite.

    What was flagged is a failure, what was inconclusive an error. The verdict on the whole is a
    case of its own, so that a suite never passes where the audit reached no verdict.
    """
    findings = source.findings
    why = " ".join(findings.reasons) or text.WORDING[findings.verdict].headline
    cases = [("verdict", findings.verdict, why), *source.cases()[:CASES_SHOWN]]
    verdicts = [verdict for _, verdict, _ in cases]
    counts = {
        "name": f"assay.{text.plain(findings.audit, text.NAME)}",
        "tests": str(len(cases)),
        "failures": str(verdicts.count(Verdict.FLAGGED)),
        "errors": str(verdicts.count(Verdict.INCONCLUSIVE)),
        "time": f"{findings.cost.wall_s if math.isfinite(findings.cost.wall_s) else 0:.3f}",
    }
    suites = ET.Element("testsuites", counts)
    started = text.plain(source.info.started.removesuffix("+00:00"), text.NAME)
    suite = ET.SubElement(suites, "testsuite", {**counts, "timestamp": started})
    for name, verdict, reason in cases:
        case = ET.SubElement(
            suite, "testcase", classname=counts["name"], name=text.plain(name, text.NAME)
        )
        if verdict in _TAGS:
            why = text.plain(reason, text.SENTENCE)
            ET.SubElement(case, _TAGS[verdict], type=verdict.value, message=why).text = why
    ET.indent(suites)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(suites, encoding="unicode")}\n'
