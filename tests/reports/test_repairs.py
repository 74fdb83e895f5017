"""What a report shows of repaired models."""

import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import pytest

from assay import reports
from assay.errors import InputError
from assay.reports import repairs
from assay.storage import documents
from assay.storage.runs import RunFolder

from .test_as_html import page
from .test_deliveries import make, words


def row(name: str, accuracy: float, asr: float | None) -> dict[str, Any]:
    return {
        "model": name,
        "accuracy": accuracy,
        "accuracy_low": accuracy - 0.01,
        "accuracy_high": accuracy + 0.01,
        "asr": asr,
        "asr_low": None if asr is None else asr - 0.02,
        "asr_high": None if asr is None else asr + 0.002,
    }


def item(model: str, **changes: Any) -> dict[str, Any]:
    return {
        "model": model,
        "written": f"{model}.safetensors",
        "sha256": "9f" * 32,
        "note": "",
        "measured_on": 200,
        "triggered": 180,
        "rows": [row("before", 0.914, 0.987), row("after", 0.902, 0.031)],
    } | changes


@pytest.fixture
def repaired(tmp_path: pathlib.Path) -> Callable[..., RunFolder]:
    def with_repairs(*items: Any, **changes: Any) -> RunFolder:
        run = make(tmp_path / "run", **changes)
        run = RunFolder.open(run.path)
        document = {"folder": "/x/fixed", "method": "Unlearning()", "items": list(items)}
        (run.path / "artifacts/repair.json").write_text(documents.dump(document))
        return run

    return with_repairs


def test_before_and_after_stand_in_the_reports(repaired) -> None:
    run = repaired(item("b"), item("c", written=None, note="no form for it", rows=[]))
    text = words(page(run))
    for expected in (
        "b As delivered 91.4 % 90.4 % to 92.4 % 98.7 % 96.7 % to 98.9 %",
        "b Repaired 90.2 % 89.2 % to 91.2 % 3.1 % 1.1 % to 3.3 %",
        "c Not repaired",
        "b: written to /x/fixed/b.safetensors",
        "c: no form for it",
        "not that no other trigger is left",
    ):
        assert expected in text
    shown = reports.render(run, "md")
    assert "| b | Repaired | 90.2 % (89.2 % to 91.2 %) | 3.1 % (1.1 % to 3.3 %) |" in shown
    assert "c: no form for it" in shown
    assert "Features kept" not in shown
    assert "the group of a clean sample" not in text


def test_a_repair_that_did_not_work_says_so_beside_where_it_is(repaired) -> None:
    run = repaired(item("b", note="made worse: accuracy 9.0%"))
    for shown in (words(page(run)), reports.render(run, "md")):
        assert "b: made worse: accuracy 9.0%; written to /x/fixed/b" in shown.replace("&#46;", ".")


def test_features_of_encoders_stand_beside_the_rest(repaired) -> None:
    rows = [row("before", 0.914, 0.987), row("after", 0.902, None)]
    for one, clean, triggered in zip(rows, (1.0, 0.98765), (0.123, None), strict=True):
        one |= {"clean_cosine": clean, "triggered_cosine": triggered}
    run = repaired(item("b", rows=rows), item("c", written=None, note="no form", rows=[]))
    text = words(page(run))
    assert "b As delivered 91.4 % 90.4 % to 92.4 % 98.7 % 96.7 % to 98.9 % 1 0.123" in text
    assert "b Repaired 90.2 % 89.2 % to 91.2 % – – to – 0.988 –" in text
    assert "the group of a clean sample" in text
    shown = reports.render(run, "md")
    assert "| 98.7 % (96.7 % to 98.9 %) | 1 | 0.123 |" in shown
    assert "Features kept, triggered" in shown


def test_what_could_not_be_measured_is_shown_as_missing(repaired) -> None:
    run = repaired(item("b", rows=[row("before", 0.5, None), row("after", 0.5, None)]))
    assert "| b | Repaired | 50.0 % (49.0 % to 51.0 %) | – |" in reports.render(run, "md")
    assert "– – to –" in words(page(run))


def test_runs_without_a_repair_have_no_such_section(repaired, make_run) -> None:
    run = repaired(item("b"))
    assert 'id="repair"' in reports.render(run, "html")
    (run.path / "artifacts/repair.json").unlink()
    assert repairs.read(run) is None
    assert 'id="repair"' not in reports.render(run, "html")
    shutil.rmtree(run.path)
    assert repairs.read(make_run()) is None


def test_hostile_names_stay_text(repaired, attacks) -> None:
    run = repaired(
        *[item(a, rows=[row(a, 0.5, 0.5)], note=a) for a in attacks],
        *[item(a, written=None, note=a) for a in attacks],
    )
    shown = page(run)
    assert not {tag for tag, _ in shown.elements} & {"script", "iframe", "object", "base", "form"}
    assert not any(n.startswith("on") for _, a in shown.elements for n in a)
    assert f"{2 * len(attacks) - repairs.MODELS_SHOWN} more are in artifacts/repair.json" in words(
        shown
    )
    markdown = reports.render(run, "md")
    assert "<script>" not in markdown
    assert "<img" not in markdown


@pytest.mark.parametrize(
    "items",
    [[{}], [7], [item("b", rows=[{}])], [item("b", rows=[row("after", 0.5, 0.5) | {"asr": []}])]],
)
def test_damaged_records_are_refused(repaired, items) -> None:
    run = repaired(*items)
    for form in ("html", "md"):
        with pytest.raises(InputError, match="not as expected"):
            reports.render(run, form)
