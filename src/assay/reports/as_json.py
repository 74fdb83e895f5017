"""The report for programs: the findings, with the record of the run."""

import json

from .source import Source


def render(source: Source) -> str:
    """Render `findings.json` with `run.json` under the key `run`; strict JSON in ASCII."""
    return json.dumps(source.run.document(), indent=2, allow_nan=False) + "\n"
