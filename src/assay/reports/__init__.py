"""Stored runs as text: for people, for pull requests and for the tools that gate them.

Reports compute nothing: they show what a run recorded, so any old run can be rendered again.
"""

from collections.abc import Callable, Mapping
from typing import Literal

from . import as_html, as_json, as_junit, as_markdown, as_sarif, source
from .source import Source
from .stored import Run

Format = Literal["html", "json", "sarif", "junit", "md"]

FORMATS: Mapping[Format, Callable[[Source], str]] = {
    "html": as_html.render,
    "json": as_json.render,
    "sarif": as_sarif.render,
    "junit": as_junit.render,
    "md": as_markdown.render,
}


def render(run: Run, form: Format) -> str:
    """Render a run that has findings.

    Args:
        run: a stored run, such as `assay.storage.runs.RunFolder.open(path)`.
        form: "html", one file that opens from disk; "json", the findings with the run's record;
            "sarif" 2.1.0; "junit"; "md", for a comment on a pull request.

    Returns:
        The report: text that UTF-8 can hold.

    Raises:
        InputError: the run has no findings yet, or a record is damaged.
    """
    return FORMATS[form](source.read(run))
