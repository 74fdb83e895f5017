"""The report of a models audit: what it shows of each model, and hostile names."""

import base64
import io
import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import PIL.Image
import pytest
import torch

from assay import reports
from assay.errors import InputError
from assay.randomness import Seed
from assay.reports import deliveries
from assay.results import Cost, Findings, Subject, Verdict
from assay.storage.runs import Input, RunFolder

from .test_as_html import Page, page, screenshot

MODELS, CLASSES = ("a", "b"), ("frog", "cat", "dog")


def make(path: pathlib.Path, **changes: Any) -> RunFolder:
    """A run of the models audit in which the last model is flagged."""
    models, classes = changes.get("models", MODELS), changes.get("classes", CLASSES)
    family = changes.get("family", "patch, 0.012")
    verdicts = [Verdict.NO_INDICATOR] * (len(models) - 1) + [Verdict.FLAGGED]
    run = RunFolder.create(
        path,
        audit="models",
        settings={},
        seed=Seed(7),
        inputs={f"model {name}": Input(path=f"/x/{name}", sha256="9f" * 32) for name in models},
        command=["assay", "models", *models],
    )
    run.write_table(
        "models",
        {
            "name": list(models),
            "accuracy": [0.914] * len(models),
            "verdict": [verdict.value for verdict in verdicts],
            "p_value": [0.7] * (len(models) - 1) + [1e-7],
            "alone_p_value": [None] * (len(models) - 1) + [0.25],
            "reason": [changes.get("reason", "")] * len(models),
            "family": [family] * len(models),
            "source": [None] * len(models),
            "target": [0] * len(models),
            "asr_tuned": [0.5] * len(models),
        },
    )
    run.write_table("pairs", pairs(models, len(classes), family, changes.get("excess", 9.25)))
    names = [str(name) for name in classes]
    run.write_json(
        "questions",
        {
            "classes": names,
            "kinds": [{"family": family, "one_source": False, "threshold": 6.125}],
        },
    )
    pictures = changes.get("pictures", torch.arange(3 * 48, dtype=torch.uint8).view(3, 3, 4, 4))
    run.write_tensors(
        "triggers",
        {
            f"{place}.{kind}": pictures.flip(turn) if turn else pictures
            for place in range(len(models))
            for turn, kind in enumerate(("clean", "stamped", "difference"))
        },
    )
    run.write_json(
        "triggers", {"items": [item(m, models, names, family, pictures) for m in models]}
    )
    run.write_findings(findings(models, verdicts, names[0]))
    run.finish("completed")
    run.close()
    return run


def pairs(models: tuple[str, ...], classes: int, family: str, excess: float) -> dict[str, Any]:
    """One candidate for each model and target; the last model's first one stands out."""
    rows = [(model, target) for model in models for target in range(classes)]
    odd = [(model, target) == (models[-1], 0) for model, target in rows]
    return {
        "model": [model for model, _ in rows],
        "family": [family] * len(rows),
        "pool": [None] * len(rows),
        "source": [None] * len(rows),
        "target": [target for _, target in rows],
        "margin": [2.5 if o else -1.5 for o in odd],
        "asr": [0.987 if o else 0.1 for o in odd],
        "reference_margin": [-1.375] * len(rows),
        "excess": [excess if o else 0.5 for o in odd],
        "p_value": [1e-7 if o else 0.4 for o in odd],
        "alone": [1.0] * len(rows),
        "alone_p_value": [0.2] * len(rows),
    }


def item(
    model: str, models: tuple[str, ...], classes: list[str], family: str, pictures: torch.Tensor
) -> dict[str, Any]:
    shown = len(pictures)
    labels = [classes[i % len(classes)] for i in range(shown)]
    return {
        "model": model,
        "family": family,
        "source": None,
        "target": classes[0],
        "asr": [{"model": m, "asr": 0.987 if m == model else 0.113} for m in models],
        "asr_tuned": 0.456,
        "cka": [{"depth": "0.75", "clean": 0.91, "triggered": 0.23}],
        "labels": labels,
        "answers_clean": [{"model": m, "classes": labels} for m in models],
        "answers_stamped": [
            {"model": m, "classes": [classes[0]] * shown if m == model else labels} for m in models
        ],
        "amplified": 7.5,
    }


def findings(models: tuple[str, ...], verdicts: list[Verdict], target: str) -> Findings:
    return Findings(
        audit="models",
        verdict=Verdict.FLAGGED,
        alpha=0.05,
        reasons=(f"Model {models[-1]!r} obeys.",),
        subjects=tuple(
            Subject(
                name=name,
                digest={"sha256": "9f" * 32},
                verdict=verdict,
                p_value=0.5,
                target=target,
                evidence={"asr": [0.9, 0.1]},
                assumptions=("The clean samples are clean.",),
            )
            for name, verdict in zip(models, verdicts, strict=True)
        ),
        cost=Cost(wall_s=3.0, device="cpu", peak_memory_mb=812.0),
        not_examined=("Backdoors that all deliveries share.",),
    )


@pytest.fixture
def make_models(tmp_path: pathlib.Path) -> Callable[..., RunFolder]:
    return lambda **changes: make(tmp_path / "run", **changes)


def words(shown: Page) -> str:
    return " ".join(shown.text.split())


def test_what_a_reviewer_looks_for_is_there(make_models) -> None:
    text = words(page(make_models()))
    for expected in (
        "Cross-examination of models: a, b",
        "models flagged 1 of 2",
        "questions asked 6",
        "Backdoors that all deliveries share.",
        "b Flagged Accuracy on clean samples 91.4 % Adjusted p-value < 0.0001",
        "Without the other models 0.25",
        "patch, 0.012, on samples of every other class, to frog",
        "a: cat → cat",
        "b: cat → frog",
        "a 11.3 % b 98.7 % b, after fine-tuning on clean samples 45.6 %",
        "0.75 0.91 0.23",
        "amplified 7.5 times",
        "frog 0.5 of 6.12 9.25 of 6.12",
        "b patch, 0.012 all others frog 98.7 % 2.5 -1.38 9.25 < 0.0001",
        "The 6 candidates with the smallest p-values, before any correction, of 6",
        "the recovered trigger that the model sends",
    ):
        assert expected in text


def test_pictures_stand_side_by_side(make_models) -> None:
    pictures = torch.arange(3 * 48, dtype=torch.uint8).view(3, 3, 4, 4)
    shown = page(make_models(pictures=pictures)).all("img")
    assert len(shown) == 2 * 3 * 3
    for place, expected in enumerate((pictures[0], pictures.flip(1)[0], pictures.flip(2)[0])):
        content = base64.b64decode(str(shown[place]["src"]).partition(",")[2])
        decoded = PIL.Image.open(io.BytesIO(content)).tobytes()
        assert decoded == bytes(expected.permute(1, 2, 0).flatten().tolist())
    assert [image["alt"] for image in shown[:2]] == [
        "A sample of frog",
        "The same sample with the trigger of a",
    ]


@pytest.mark.parametrize(
    ("excess", "width", "beyond"),
    [(9.1875, "100.0", True), (6.125, "66.7", True), (3.0625, "33.3", False), (-4.0, "5.4", False)],
)
def test_bars_end_where_the_excess_does(make_models, excess, width, beyond) -> None:
    shown = page(make_models(excess=excess))
    widths = [a["style"] for tag, a in shown.elements if tag == "i"]
    assert len(widths) == 6
    assert f"width:{width}%" in widths
    classes = [str(a["class"]) for _, a in shown.elements if "reach" in str(a.get("class"))]
    assert any("beyond" in name.split() for name in classes) == beyond


def test_the_page_can_be_read_without_eyes(make_models) -> None:
    shown = page(make_models())
    assert all(image["alt"] for image in shown.all("img"))
    assert all(head.get("scope") in {"col", "row"} for head in shown.all("th"))
    assert len(shown.all("caption")) == len(shown.all("table"))
    ids = [attributes["id"] for _, attributes in shown.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    anchors = [str(link["href"])[1:] for link in shown.all("a")]
    assert set(anchors) <= set(ids)
    assert {"models", "questions"} <= set(anchors)


def test_hostile_names_stay_text(make_models, attacks) -> None:
    models = tuple(f"{attack}{i}" for i, attack in enumerate(attacks))
    everything = " ".join(attacks)
    run = make_models(models=models, classes=attacks, family=everything, reason=everything)
    shown = page(run)
    assert not {tag for tag, _ in shown.elements} & {"script", "iframe", "object", "base", "form"}
    for _, attributes in shown.elements:
        assert not any(name.startswith("on") for name in attributes)
        assert (attributes.get("src") or "data:").startswith("data:")
    for attack in attacks:
        if attack.isprintable():
            assert shown.text.count(attack) > 4
    for form in reports.FORMATS:
        first = reports.render(run, form)
        assert first.encode().decode() == first


def test_the_page_stays_small(make_models) -> None:
    noise = torch.randint(
        256, (8, 3, 160, 160), dtype=torch.uint8, generator=torch.Generator().manual_seed(1)
    )
    long = "x" * 5000
    run = make_models(
        models=tuple(f"{i}{long}" for i in range(20)),
        classes=[f"{i}{long}" for i in range(300)],
        pictures=noise,
        reason=long,
    )
    shown = page(run)
    assert 12 < len(shown.all("img")) < 3 * 6 * 12
    assert "artifacts/triggers.safetensors" in shown.text
    assert "the first 25 of 300" in words(shown)


def test_a_run_without_triggers(make_models) -> None:
    run = make_models()
    shutil.rmtree(run.path / "artifacts")
    text = words(page(run))
    assert "No trigger was recovered" in text
    assert "of 6.12" not in text
    assert "9.25" in text


def test_what_is_missing_is_shown_as_missing(make_models) -> None:
    text = words(page(make_models(excess=float("nan"))))
    assert "not a number" in text


def test_runs_of_other_audits_have_no_models(make_run) -> None:
    run = make_run()
    assert deliveries.read(run) is deliveries.NOTHING
    assert "Linear CKA" not in page(run).text


def test_code_scanning_points_at_the_flagged_model(make_models) -> None:
    (run,) = json.loads(reports.render(make_models(), "sarif"))["runs"]
    summary, model = run["results"]
    for result in (summary, model):
        (place,) = result["locations"]
        assert place["physicalLocation"]["artifactLocation"]["uri"] == "file:///x/b"
        assert (result["level"], result["kind"]) == ("error", "fail")
    assert model["message"]["text"] == "Model b: flagged, target frog (p-value 0.5)."
    assert summary["partialFingerprints"] != model["partialFingerprints"]


def test_test_runners_hear_why_a_model_could_not_be_judged(make_models) -> None:
    run = make_models()
    document = json.loads((run.path / "findings.json").read_text())
    document["subjects"][0] |= {
        "verdict": "inconclusive",
        "p_value": None,
        "evidence": {"reason": "it answers NaN"},
    }
    (run.path / "findings.json").write_text(json.dumps(document))
    assert 'message="it answers NaN"' in reports.render(run, "junit")
    assert 'message="p-value 0.5"' in reports.render(run, "junit")
    (log,) = json.loads(reports.render(run, "sarif"))["runs"]
    summary, unjudged, flagged = log["results"]
    places = [
        r["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        for r in (summary, unjudged, flagged)
    ]
    assert places == ["file:///x/b", "file:///x/a", "file:///x/b"]
    assert unjudged["level"] == "warning"
    assert "it answers NaN" in unjudged["message"]["text"]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("triggers", []),
        ("triggers", {"items": [{"model": "a"}]}),
        ("triggers", {"items": [{"labels": ["cat"], "answers_clean": 7}]}),
        ("questions", {"classes": None, "kinds": []}),
        ("questions", {"classes": [], "kinds": [{"family": "x"}]}),
        ("questions", {"classes": [], "kinds": [{"family": [], "one_source": 1, "threshold": 2}]}),
    ],
)
def test_damaged_records_are_refused(make_models, name, value) -> None:
    run = make_models()
    (run.path / "artifacts" / f"{name}.json").write_text(json.dumps(value))
    with pytest.raises(InputError, match="not as expected"):
        reports.render(run, "html")


@pytest.mark.parametrize(
    "pictures", [torch.zeros(3, 3, 4, 4), torch.zeros(3, 4, 4, dtype=torch.uint8)]
)
def test_other_pictures_are_refused(make_models, pictures) -> None:
    with pytest.raises(InputError, match="not as expected"):
        reports.render(make_models(pictures=pictures), "html")


@pytest.mark.skipif(shutil.which("chromium") is None, reason="there is no Chromium here")
def test_a_browser_shows_the_bars(make_models, tmp_path) -> None:
    run = make_models()
    path = run.write_report(reports.render(run, "html"))
    with pathlib.Path(path).open("a") as file:
        file.write("<style>main > :not(#questions) { display: none }</style>")
    seen = screenshot(path, tmp_path / "seen.png", 1)
    colours = {colour for _, colour in seen.getcolors(10**6)}
    assert {(179, 38, 30), (141, 153, 171)} <= colours
