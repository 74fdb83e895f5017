import json

import pytest

from assay import reports
from assay.errors import InputError
from assay.randomness import Seed
from assay.storage.runs import RunFolder


def test_every_format_is_rendered_the_same_twice_as_text_for_utf_8(hostile_run) -> None:
    for form in reports.FORMATS:
        first = reports.render(hostile_run, form)
        assert first.encode().decode() == first
        assert reports.render(RunFolder.open(hostile_run.path), form) == first


@pytest.mark.parametrize("form", reports.FORMATS)
def test_a_run_without_findings_has_no_report(tmp_path, form) -> None:
    run = RunFolder.create(tmp_path / "run", audit="dataset", settings={}, seed=Seed(1), inputs={})
    run.close()
    with pytest.raises(InputError, match="no findings, it is interrupted: resume it"):
        reports.render(run, form)


def test_a_run_in_memory_without_tables_has_every_report(make_run) -> None:
    run = make_run()
    for table in ("samples", "classes", "calibration"):
        (run.path / f"{table}.parquet").unlink()
    for form in reports.FORMATS:
        assert "set-3" in reports.render(run, form)


def test_a_table_of_another_form_is_refused(make_run) -> None:
    run = make_run()
    (run.path / "classes.parquet").write_bytes((run.path / "samples.parquet").read_bytes())
    with pytest.raises(InputError, match="not as expected"):
        reports.render(run, "md")


def test_json_is_the_findings_with_the_run(make_run) -> None:
    run = make_run()
    document = json.loads(reports.render(run, "json"), parse_constant=pytest.fail)
    about = document.pop("run")
    assert document == json.loads((run.path / "findings.json").read_text())
    assert about == json.loads((run.path / "run.json").read_text())
