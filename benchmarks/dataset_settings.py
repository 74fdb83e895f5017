"""Compare whole dataset audits under other settings than the usual ones, on tuning cases."""

import collections
import dataclasses
import functools
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch

import dataset_audit
import grid
from assay.audits.dataset import DatasetSettings
from assay.fitting import EVERYTHING, Precision
from assay_zoo.scenarios import SCENARIOS
from experiment import CLEAN, Case

RESULTS = grid.HERE / "results" / "dataset-settings"

VERSION = 1
"""To be raised when the code changes what is measured."""

TUNED = (*(name for name, scenario in SCENARIOS.items() if scenario.tuned), CLEAN)

Changed = Callable[[DatasetSettings], DatasetSettings]


def _whole(epochs: int, *, confused: float, fewest_steps: int = 300) -> Changed:
    """Show all samples in every epoch, and confuse for so many."""

    def changed(settings: DatasetSettings) -> DatasetSettings:
        confusion = dataclasses.replace(
            settings.confusion, epochs=confused, fewest_steps=fewest_steps
        )
        recipe = dataclasses.replace(settings.recipe, epochs=epochs)
        return dataclasses.replace(settings, recipe=recipe, focus=EVERYTHING, confusion=confusion)

    return changed


def _small_batches(settings: DatasetSettings) -> DatasetSettings:
    small = dataclasses.replace(settings.confusion, batch_size=64, epochs=2.0)
    return dataclasses.replace(settings, confusion=small)


def _exact(settings: DatasetSettings) -> DatasetSettings:
    recipe = dataclasses.replace(settings.recipe, precision=Precision.FP32)
    confusion = dataclasses.replace(settings.confusion, precision=Precision.FP32)
    return dataclasses.replace(settings, recipe=recipe, confusion=confusion)


VARIANTS: dict[str, Changed] = {
    "usual": lambda settings: settings,
    "whole-15": _whole(15, confused=4.0),
    "whole-12": _whole(12, confused=2.0, fewest_steps=200),
    "confused-in-64": _small_batches,
    "float32": _exact,
    **{
        f"doubt-{doubt:g}": functools.partial(dataclasses.replace, doubt=doubt)
        for doubt in (0.0, 0.5, 1.0)
    },
}
"""Settings by name: every epoch with all samples, so many of them; the confusion in batches of 64;
no bfloat16 on a GPU; how much it counts that the model was hardly sure before."""


def main() -> int:
    parser = dataset_audit.parser(__doc__)
    parser.add_argument("--variants", default="", help=f"of {', '.join(VARIANTS)}; default: all")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    chosen = [name for name in asked.variants.split(",") if name] or list(VARIANTS)
    if unknown := set(chosen) - set(VARIANTS):
        parser.error(f"expected some of {', '.join(VARIANTS)}, got {', '.join(unknown)}")
    groups = [_group(case, chosen) for case in dataset_audit.cases(asked) if case.scenario in TUNED]
    failed = grid.run(groups, RESULTS, device=asked.device, shard=asked.shard)
    paths = [cell.path(RESULTS) for group in groups for cell in group.cells]
    print(table([grid.read(path) for path in paths if path.exists()]))
    return 1 if failed else 0


def _group(case: Case, names: Sequence[str]) -> grid.Group:
    cells = tuple(_cell(case, name) for name in names)
    return grid.Group(name=f"{case.data}-{case.scenario}-{case.digest}-settings", cells=cells)


def _cell(case: Case, name: str) -> grid.Cell:
    settings = VARIANTS[name](dataset_audit.usual_settings(case))
    told = {"kind": "settings", "variant": name, "method": repr(settings), "version": VERSION}
    return grid.Cell(
        name=f"{case.data}-{case.train}-{case.scenario}-s{case.seed}-{name}",
        kind=f"{case.data} settings",
        recipe={**case.recipe, **told},
        measure=lambda: dataset_audit.audit(case, settings),
    )


def table(cells: Sequence[Mapping[str, Any]]) -> str:
    """Compare the variants on the cases that all of them were measured on."""
    if not cells:
        return "no cells"
    found: dict[str, dict[tuple[Any, ...], Mapping[str, Any]]] = collections.defaultdict(dict)
    for cell in cells:
        case = tuple(cell["recipe"][key] for key in ("data", "scenario", "seed", "device"))
        found[cell["recipe"]["variant"]][case] = cell["result"]
    shared = set.intersection(*(set(known) for known in found.values()))
    if not shared:
        return "no case was measured under all variants"
    attacked = sorted(case for case in shared if case[1] != CLEAN)
    clean = sorted(shared - set(attacked))
    lines = [
        f"| on {len(attacked)} attacked sets, {len(clean)} clean ones | TPR | FPR | AUROC | found "
        "| false alarms | passes |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, known in found.items():
        means = (
            f"{statistics.fmean(known[case][key] for case in attacked):.4f}" if attacked else "—"
            for key in ("tpr", "fpr", "auroc")
        )
        alarms = (_flagged(known[case] for case in of) for of in (attacked, clean))
        passes = f"{statistics.fmean(known[case]['passes_ratio'] for case in shared):.2f}"
        lines.append(f"| {' | '.join((name, *means, *alarms, passes))} |")
    return "\n".join(lines)


def _flagged(results: Iterable[Mapping[str, Any]]) -> str:
    return str(sum(result["verdict"] == "flagged" for result in results))


if __name__ == "__main__":
    raise SystemExit(main())
