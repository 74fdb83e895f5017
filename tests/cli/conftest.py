import json
import pathlib
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from assay.audits.dataset import ClassResult, DatasetAudit
from assay.cli.app import app
from assay.results import Cost, Findings, Progress, Subject, Verdict, silent
from assay.samples import Samples


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
