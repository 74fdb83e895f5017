import json
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from assay.audits.dataset import ClassResult, DatasetAudit
from assay.audits.models import Delivery, ModelResult, ModelsAudit, Question, Recovered
from assay.cli.app import app
from assay.results import Cost, Findings, Progress, Subject, Verdict, silent
from assay.samples import Samples
from assay.triggers import Patch


class Result(Protocol):
    """What typer's runner returns."""

    exit_code: int
    stdout: str
    stderr: str


Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Runs a command in an empty folder."""
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    return lambda *arguments: runner.invoke(app, [str(a) for a in arguments])


@pytest.fixture
def files(tmp_path: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Paths of a small training set, with white images in class 1, and of a clean one."""
    random = torch.Generator().manual_seed(0)
    paths = (tmp_path / "data.npz", tmp_path / "clean.npz")
    for path, count in zip(paths, (60, 30), strict=True):
        images = torch.randint(200, (count, 8, 8), generator=random, dtype=torch.uint8)
        if path.stem == "data":
            images[1::10] = 255
        save(path, images, torch.arange(count) % 2)
    return paths


def save(path: pathlib.Path, images: torch.Tensor, labels: torch.Tensor, **more: Any) -> None:
    np.savez(path, images=images.numpy(), labels=labels.numpy(), **more)


def parsed(text: str) -> Any:
    """Parse strict JSON: nothing before it, nothing after it, no NaN."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(text, parse_constant=refuse)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Replaces the audit by one that takes no time: white images are poison.

    Returns what the audit was called with. Attributes of the fixture's first call decide nothing.
    """
    calls: list[dict[str, Any]] = []

    def audit(samples: Samples, trusted: Samples, **settings: Any) -> DatasetAudit:
        calls.append({"samples": samples, "trusted": trusted, **settings})
        return _audit(samples, trusted, settings["alpha"], settings.get("progress", silent))

    monkeypatch.setattr("assay.cli.perform.audit_dataset", audit)
    return calls


def _audit(samples: Samples, trusted: Samples, alpha: float, progress: Progress) -> DatasetAudit:
    for done in range(1, 4):
        progress("train", done, 3)
    scores = samples.inputs[:].float().flatten(1).mean(1)
    white = scores == 255
    classes = tuple(_class(samples, trusted, white, label) for label in range(samples.classes))
    found = {c.verdict for c in classes}
    order = (Verdict.FLAGGED, Verdict.INCONCLUSIVE, Verdict.NO_INDICATOR)
    verdict = next(v for v in order if v in found)
    subjects = [
        Subject(
            name=c.name,
            digest={},
            verdict=c.verdict,
            p_value=c.p_value,
            target=c.target,
            evidence={"flagged": c.flagged},
            assumptions=("the trusted samples are not poisoned",),
        )
        for c in classes
    ]
    return DatasetAudit(
        findings=Findings(
            audit="dataset",
            verdict=verdict,
            alpha=alpha,
            reasons=(f"It is {verdict.value}.",),
            subjects=tuple(subjects),
            cost=Cost(wall_s=0.1, device="cpu", peak_memory_mb=1.0),
            not_examined=("everything else",),
        ),
        scores=scores,
        p_values=torch.where(white, 0.001, 0.5),
        is_poison=white,
        classes=classes,
        calibration_scores=trusted.inputs[:].float().flatten(1).mean(1),
        calibration_labels=trusted.labels,
        sample_passes=len(samples),
    )


def _class(samples: Samples, trusted: Samples, white: torch.Tensor, label: int) -> ClassResult:
    own = samples.labels == label
    calibration = int((trusted.labels == label).sum())
    flagged = int((white & own).sum())
    p_value = None if calibration < 5 else 0.001 if flagged else 0.5
    verdict = Verdict.FLAGGED if flagged else Verdict.NO_INDICATOR
    return ClassResult(
        label=label,
        name=samples.class_names[label],
        samples=int(own.sum()),
        calibration=calibration,
        flagged=flagged,
        statistic=float(flagged),
        p_value=p_value,
        adjusted_p_value=p_value,
        verdict=Verdict.INCONCLUSIVE if p_value is None else verdict,
        reason="too few trusted samples" if p_value is None else "",
        target=samples.class_names[label] if flagged else None,
    )


@pytest.fixture
def quick_models(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Replaces the audit of models by one that takes no time: the second model is flagged.

    Returns what the audit was called with.
    """
    calls: list[dict[str, Any]] = []

    def audit(deliveries: Sequence[Delivery], clean: Samples, **settings: Any) -> ModelsAudit:
        calls.append({"deliveries": deliveries, "clean": clean, **settings})
        settings.get("progress", silent)("search", 1, 1)
        return models_audit(deliveries, clean, settings["alpha"])

    monkeypatch.setattr("assay.cli.perform.audit_models", audit)
    return calls


def models_audit(deliveries: Sequence[Delivery], clean: Samples, alpha: float) -> ModelsAudit:
    """Make up what an audit of some models finds: something in the second, nothing in others."""
    names = [delivery.name for delivery in deliveries]
    models = tuple(_model(names, place, clean) for place in range(len(names)))
    subjects = tuple(
        Subject(
            name=model.name,
            digest=delivery.digest,
            verdict=model.verdict,
            p_value=model.p_value,
            target=clean.class_names[0] if model.verdict is Verdict.FLAGGED else None,
            evidence={"accuracy": model.accuracy},
            assumptions=("The clean samples are clean.",),
        )
        for model, delivery in zip(models, deliveries, strict=True)
    )
    findings = Findings(
        audit="models",
        verdict=Verdict.FLAGGED,
        alpha=alpha,
        reasons=(f"Model {names[1]!r} obeys.",),
        subjects=subjects,
        cost=Cost(wall_s=0.1, device="cpu", peak_memory_mb=1.0),
        not_examined=("Backdoors that all share.",),
    )
    return ModelsAudit(findings=findings, models=models, class_names=clean.class_names)


def _model(names: list[str], place: int, clean: Samples) -> ModelResult:
    images = clean.inputs[:3].float() / 255
    shape = images.shape[1:]
    patch = Patch(pattern=torch.ones(shape), mask=torch.eye(*shape[1:]))
    answers = clean.labels[:3].expand(len(names), 3)
    stamped = answers.clone()
    stamped[place] = 0
    return ModelResult(
        name=names[place],
        accuracy=0.9,
        verdict=Verdict.FLAGGED if place == 1 else Verdict.NO_INDICATOR,
        p_value=0.001 if place == 1 else 0.8,
        alone_p_value=0.04,
        reason="",
        recovered=Recovered(
            family="patch, 0.012",
            source=None,
            target=0,
            trigger=patch,
            clean=images,
            stamped=patch(images),
            labels=clean.labels[:3],
            answers_clean=answers,
            answers_stamped=stamped,
            asr=tuple(0.98 if other == place == 1 else 0.1 for other in range(len(names))),
            asr_tuned=0.75,
            cka={"50%": (0.9, 0.8), "100%": (0.9, 0.2)},
        ),
        questions=tuple(
            _question(names[place], source, target, 9.0 if (place, target) == (1, 0) else 0.5)
            for source in (None, 1)
            for target in range(clean.classes)
        ),
    )


def _question(model: str, source: int | None, target: int, excess: float) -> Question:
    return Question(
        model=model,
        family="patch, 0.012",
        source=source,
        target=target,
        margin=1.5,
        asr=0.5,
        reference_margin=0.25,
        excess=excess,
        threshold=5.0,
        p_value=1e-5 if excess > 5 else 0.3,
        alone=0.1,
        alone_p_value=0.45,
    )
