import pathlib
from collections.abc import Callable
from typing import Any

import pytest
import torch

from assay.randomness import Seed
from assay.results import Cost, Findings, Subject, Verdict
from assay.storage.runs import Input, RunFolder

ATTACKS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</style><script>alert(1)</script>",
    "{{ 7 * 7 }}{% raw %}",
    "javascript:alert(1)",
    "\u202egnp.exe",
    "a\x00b\x1b[2J\ud800\ufffe",
    "$\\frac{",
    "a | b `c` *d* [e](http://f.g) www.h.io @i #1 ](j) {0} </details> <!-- k",
]


def make(path: pathlib.Path, verdict: Verdict = Verdict.FLAGGED, **changes: Any) -> RunFolder:
    """A run of the dataset audit; `changes` replace what its name, its data or its records hold."""
    names = changes.get("names", ("frog", "cat", "dog"))
    samples, sick = changes.get("samples", 60), verdict == Verdict.FLAGGED
    labels = torch.arange(samples) % len(names)
    flagged = sick & (labels == 0) & (torch.arange(samples) < 5 * len(names))
    scores = torch.linspace(-1, 1, samples, dtype=torch.float64) + 5.0 * flagged
    ids = changes.get("ids", [f"{i:05d}.png" for i in range(samples)])
    run = RunFolder.create(
        path,
        audit="dataset",
        settings=changes.get("settings", {"rounds": 2, "method": {"weight": 20.0}}),
        seed=Seed(7),
        inputs={"data": Input(path=changes.get("where", "/vendor/set-3"), sha256="9f" * 32)},
        command=changes.get("command", ["assay", "dataset", "/vendor/set-3", "--out", "a b"]),
    )
    run.write_table(
        "samples",
        {
            "index": torch.arange(samples),
            "id": ids,
            "label": labels,
            "poison_score": changes.get("scores", scores),
            "p_value": torch.full((samples,), 0.25),
            "is_poison_issue": flagged,
        },
    )
    run.write_table(
        "calibration", {"label": labels[:30], "poison_score": torch.linspace(-1, 1, 30).double()}
    )
    verdicts = ["no_indicator"] * len(names)
    verdicts[0] = verdict.value
    p_values = [None if v == "inconclusive" else 1e-7 if v == "flagged" else 0.5 for v in verdicts]
    run.write_table(
        "classes",
        {
            "class": list(range(len(names))),
            "name": list(names),
            "samples": torch.bincount(labels, minlength=len(names)),
            "calibration": [10] * len(names),
            "flagged": torch.bincount(labels[flagged], minlength=len(names)),
            "statistic": [None if p is None else 1.0 - p for p in p_values],
            "p_value": p_values,
            "adjusted_p_value": p_values,
            "verdict": verdicts,
            "reason": [changes.get("reason", f"class {name} is as it is") for name in names],
        },
    )
    inputs = changes.get("inputs", torch.arange(6 * 48, dtype=torch.uint8).view(6, 3, 4, 4))
    run.write_tensors("gallery", {"inputs": inputs})
    items = [
        {
            "label": i // 24,
            "kind": "suspicious" if i % 24 < 12 and (len(inputs) > 6 or i < 3) else "typical",
            "index": i,
            "id": ids[i],
            "score": 5.0 - i,
            "p_value": None,
        }
        for i in range(len(inputs))
    ]
    run.write_json("gallery", {"items": items})
    run.write_json(
        "proof",
        {
            "rows": [
                {"model": "before", "accuracy": 0.9, "asr": 0.994, "samples": samples},
                {"model": "after", "accuracy": 0.89, "asr": None, "samples": samples - 5},
            ]
        },
    )
    run.write_findings(findings(verdict, **changes))
    run.finish("completed")
    run.close()
    return run


def findings(verdict: Verdict, **changes: Any) -> Findings:
    word = changes.get("word", "set-3")
    return Findings(
        audit="dataset",
        verdict=verdict,
        alpha=0.05,
        reasons=(changes.get("why", "Five samples keep their label."),),
        subjects=(
            Subject(
                name=word,
                digest={"sha256": "9f" * 32},
                verdict=verdict,
                p_value=None if verdict == Verdict.INCONCLUSIVE else 1e-7,
                target=word,
                evidence={"word": word, "largest": 41.7321},
                assumptions=(f"The trusted samples of {word} are not poisoned.",),
            ),
        ),
        cost=Cost(wall_s=143.2, device="cpu", peak_memory_mb=812.0),
        not_examined=("Duplicates.",),
    )


@pytest.fixture
def make_run(tmp_path: pathlib.Path) -> Callable[..., RunFolder]:
    return lambda *args, **changes: make(tmp_path / "run", *args, **changes)


@pytest.fixture
def attacks() -> list[str]:
    """Strings as a hostile party would name things."""
    return ATTACKS


@pytest.fixture
def hostile_run(make_run: Callable[..., RunFolder], attacks: list[str]) -> RunFolder:
    """A run in which hostile strings stand wherever a party can put them."""
    everything = " ".join(attacks)
    return make_run(
        names=attacks,
        ids=[f"{attacks[i % len(attacks)]}/{i}" for i in range(60)],
        where=f"/vendor/{everything}",
        settings={everything: attacks},
        command=["assay", *attacks],
        reason=everything,
        why=everything,
        word=everything,
    )
